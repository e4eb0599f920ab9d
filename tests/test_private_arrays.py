"""Nobody's arrays change under them: what is encoded and what is decoded is a copy to who looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlserve.client import Client
from mlserve.codecs import (
    Base64Codec,
    DatetimeCodec,
    NumpyCodec,
    NumpyRequestCodec,
    PandasCodec,
    StringCodec,
    decode_args,
    get_decoded,
    offer_decoded,
)
from mlserve.merging import merge
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.tensors import TensorData
from mlserve.testing import running_server
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput

VALUES = [3.0, 1.0, 2.0]
LARGE = 100_000  # travels in shared memory
FORMS: dict[str, Callable[[np.ndarray[Any, Any]], TensorData]] = {
    "json": lambda array: TensorData.from_json(TensorData(array).to_json()),
    "raw bytes": lambda array: TensorData.from_raw(array.tobytes(), "FP64", array.shape),
    "raw shared memory": lambda array: TensorData.from_raw(bytearray(array.tobytes()), "FP64", array.shape),
    "contents": lambda array: TensorData.from_contents(
        bytearray(TensorData(array).to_contents("FP64")), "FP64", array.shape
    ),
    "array": TensorData.from_numpy,
    "list": lambda array: TensorData(array.tolist()),
}


def tensor(form: str, **parameters: Any) -> RequestInput:
    return RequestInput(
        name="x", shape=[3], datatype="FP64", data=FORMS[form](np.array(VALUES)), parameters=parameters or None
    )


def model() -> MLModel:
    return MLModel(ModelSettings(name="m", implementation=MLModel))


@pytest.mark.parametrize("form", FORMS)
def test_a_decoded_array_is_its_callers_own(form):
    one = tensor(form)
    for decode in (NumpyCodec.decode_input, lambda one: model().decode(one, NumpyCodec)):
        for _ in range(2):
            array = decode(one)
            assert array.tolist() == VALUES
            array -= array.mean()
            array.sort()
    assert list(one.data) == VALUES
    assert one.data.to_numpy("FP64", [3], writable=False).tolist() == VALUES


@pytest.mark.parametrize("form", FORMS)
def test_what_was_only_read_before_is_not_given_away(form):
    one = tensor(form)
    view = one.data.to_numpy("FP64", [3], writable=False)
    NumpyCodec.decode_input(one)[:] = 0
    assert view.tolist() == VALUES


@pytest.mark.parametrize("form", ["array", "raw shared memory"])
def test_a_named_content_type_decodes_anew_too_and_keeps_the_last(form):
    one = tensor(form, content_type="np")
    offer_decoded(InferenceRequest(inputs=[one]))
    first = get_decoded(one)
    first += 1
    again = model().decode(one)
    assert again.tolist() == VALUES
    assert get_decoded(one) is again


def test_lists_are_their_callers_own():
    cases = [
        (StringCodec, "str", [b"b", b"a"]),
        (Base64Codec, "base64", [b"Yg==", b"YQ=="]),
        (DatetimeCodec, "datetime", [b"2026-01-02", b"2026-01-01"]),
    ]
    for codec, content_type, values in cases:
        for data in (values, TensorData.from_json(TensorData(values).to_json())):
            one = RequestInput(
                name="x", shape=[2], datatype="BYTES", data=data, parameters={"content_type": content_type}
            )
            for decode in (codec.decode_input, model().decode):
                was = decode(one)
                unchanged = list(was)
                was.sort()
                was.append(None)
                assert decode(one) == unchanged


@pytest.mark.parametrize("encode", [NumpyCodec.encode_output, NumpyCodec.encode_input])
def test_an_encoded_array_stays_as_it_was(encode):
    for array in (np.arange(4.0), np.arange(4.0).reshape(2, 2)[:, ::-1], np.array(["a", "b"], object), np.arange(3)):
        before = array.tolist()
        made = encode("y", array)
        array[0] = 9
        assert made.data.to_numpy(made.datatype, array.shape).tolist() == before
    backing = np.arange(4.0)
    series = pd.Series(backing, copy=False)
    made = encode("y", series)
    backing[0] = 9
    assert list(made.data) == [0.0, 1.0, 2.0, 3.0]


def test_an_encoded_frame_stays_as_it_was():
    frame = pd.DataFrame({"a": [1.0, 2.0], "n": pd.array([1, 2], dtype="Int64"), "s": ["x", "y"]})
    outputs = PandasCodec.encode_outputs(frame)
    inputs = PandasCodec.encode_request(frame).inputs
    frame.loc[0, "a"] = 9.0
    frame.loc[0, "n"] = 9
    frame.loc[0, "s"] = "z"
    for tensors in (outputs, inputs):
        assert [list(one.data) for one in tensors] == [[1.0, 2.0], [1, 2], [b"x", b"y"]]


@pytest.mark.parametrize("form", FORMS)
def test_a_decoded_frame_is_its_callers_own(form):
    request = InferenceRequest(inputs=[tensor(form)], parameters={"content_type": "pd"})
    for decode in (PandasCodec.decode_request, model().decode_request):
        frame = decode(request)
        frame.loc[0, "x"] = 9.0
        frame["x"] *= 2
        assert decode(request)["x"].tolist() == VALUES
    assert list(request.inputs[0].data) == VALUES


def test_a_single_input_is_decoded_once_for_the_request_as_on_mlserver():
    request = InferenceRequest(inputs=[tensor("json")])
    first = NumpyRequestCodec.decode_request(request)
    assert NumpyRequestCodec.decode_request(request) is first
    first += 1
    assert list(request.inputs[0].data) == VALUES


def test_members_of_a_batch_keep_their_values():
    members = [InferenceRequest(inputs=[tensor("raw shared memory")]) for _ in range(2)]
    merged = merge(members)
    array = NumpyCodec.decode_input(merged.inputs[0])
    array[:] = 0
    assert list(merged.inputs[0].data) == VALUES * 2
    assert [list(one.inputs[0].data) for one in members] == [VALUES, VALUES]


class Keeping(MLModel):
    """Answers in a buffer that it uses again for the next call."""

    buffer = np.zeros(3)

    @decode_args
    def predict(self, x: np.ndarray) -> np.ndarray:  # type: ignore[override]
        self.buffer[:] = x
        x *= 0
        return self.buffer


@pytest.mark.parametrize("form", FORMS)
def test_decode_args_takes_and_gives_copies(form):
    request, other = InferenceRequest(inputs=[tensor(form)]), InferenceRequest(inputs=[tensor(form)])
    other.inputs[0].data = np.zeros(3)  # type: ignore[assignment]
    keeping: Any = Keeping(ModelSettings(name="m", implementation=Keeping))
    answer = keeping.predict(request)
    keeping.predict(other)
    assert list(answer.outputs[0].data) == VALUES
    assert list(keeping.predict(request).outputs[0].data) == VALUES


# -- served ------------------------------------------------------------------------------------------------------------


class Centring(MLModel):
    """Changes what it decodes, twice, and what it has encoded."""

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]  # plain on purpose
        outputs = []
        for name in ("first", "second"):
            array = self.decode(payload.inputs[0], NumpyCodec)
            array -= array.mean()
            outputs.append(NumpyCodec.encode_output(name, array))
            array *= 0
        return InferenceResponse(model_name=self.name, outputs=outputs)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("count", [4, LARGE])
def test_a_served_model_may_change_what_it_decodes_and_has_encoded(workers, binary, count):
    values = np.arange(float(count)).reshape(count, 1)
    settings = ModelSettings(name="m", implementation=Centring)
    with (
        running_server(settings, parallel_workers=workers) as server,
        Client(server.rest, binary=binary) as client,
    ):
        for _ in range(2):
            answer = client.infer("m", {"x": values}).outputs
            assert np.array_equal(answer["first"], values - values.mean())
            assert np.array_equal(answer["second"], values - values.mean())
