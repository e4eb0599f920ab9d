"""Arrays of objects, content type `np`: what is neither text nor numbers is BYTES whose values are as JSON has them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from mlserve import MLModel
from mlserve.client import Client
from mlserve.codecs import NumpyCodec, NumpyRequestCodec
from mlserve.errors import CodecError, MLServeError
from mlserve.settings import ModelSettings
from mlserve.tensors import TensorData
from mlserve.testing import RunningServer, running_server
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput, RequestOutput
from tests.forms import BINARY, made, sent

DAY = datetime.datetime(2024, 2, 29)


def array_of(*values: Any) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), object)
    for at, one in enumerate(values):
        array[at] = one
    return array


FRAME = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})

# What is encoded; the shape and the data that MLServer sends for it; the values that come back, where they are others.
CASES: dict[str, tuple[Any, list[int], list[Any]]] = {
    "rows of a frame": (FRAME.to_numpy(), [2, 2], [1, "x", 2, "y"]),
    "text, numbers, None": (np.array([["a", 1.5], ["b", None]], object), [2, 2], ["a", 1.5, "b", None]),
    "a dict": (np.array({"a": 1, "b": "x"}), [1], [{"a": 1, "b": "x"}]),
    "dicts": (array_of({"a": 1}, {"b": [2, None]}), [2, 1], [{"a": 1}, {"b": [2, None]}]),
    "ragged lists": (array_of([1, 2], [3]), [2, 1], [[1, 2], [3]]),
    "lists of one length": (array_of([1, 2], [3, 4]), [2, 1], [[1, 2], [3, 4]]),
    "lists of text": (array_of(["a", "b"], ["c", "d"]), [2, 1], [["a", "b"], ["c", "d"]]),
    "arrays": (array_of(np.arange(2), np.arange(3)), [2, 1], [[0, 1], [0, 1, 2]]),
    "booleans and text": (array_of(True, "x"), [2, 1], [True, "x"]),
    "bytes and numbers": (array_of(b"a", 1), [2, 1], ["a", 1]),
    "numbers of numpy": (array_of(np.float32(1.5), np.int8(2), "a"), [3, 1], [1.5, 2, "a"]),
    "numpy inside": (np.array({"a": np.arange(2), "b": np.float32(1)}), [1], [{"a": [0, 1], "b": 1.0}]),
    "NaN and text": (array_of(float("nan"), "x"), [2, 1], [None, "x"]),
    "large integers": (array_of(2**70, 1), [2, 1], [2**70, 1]),
    "dates": (array_of(DAY, pd.Timestamp(DAY), pd.NaT, 1), [4, 1], [DAY.isoformat(), DAY.isoformat(), None, 1]),
    "decimals": (array_of(Decimal("1.5"), 1), [2, 1], ["1.5", 1]),
}
cases = pytest.mark.parametrize(("array", "shape", "values"), CASES.values(), ids=CASES)


@cases
def test_values_travel_in_json_as_they_are_and_come_back(array: Any, shape: list[int], values: list[Any]) -> None:
    for encode, decode in (
        (NumpyCodec.encode_input, NumpyCodec.decode_input),
        (NumpyCodec.encode_output, NumpyCodec.decode_output),
    ):
        tensor: Any = encode("x", array)
        assert (tensor.datatype, tensor.shape) == ("BYTES", shape)
        assert tensor.data.root == values
        assert json.loads(tensor.model_dump_json())["data"] == values
        for one in (tensor, sent(tensor, "json")):
            found: Any = decode(one)
            assert found.shape == tuple(shape)
            assert found.dtype == object
            assert found.ravel().tolist() == values


@pytest.mark.parametrize("form", BINARY)
@cases
def test_forms_that_have_only_text_refuse_other_values(array: Any, shape: Any, values: Any, form: str) -> None:
    with pytest.raises(MLServeError, match=r"data\[\d\]: .* has no binary form"):
        sent(NumpyCodec.encode_output("x", array), form)


def test_what_was_encoded_changes_no_more() -> None:
    inner = {"a": [1]}
    output = NumpyCodec.encode_output("x", np.array(inner))
    inner["a"].append(2)
    assert output.data.root == [{"a": [1]}]
    NumpyCodec.decode_output(output)[0] = None
    assert output.data.root == [{"a": [1]}]


def test_a_value_without_a_form_in_json_is_named() -> None:
    with pytest.raises(CodecError, match=r"'x': an array of objects \(complex, str\): .*complex") as caught:
        NumpyCodec.encode_output("x", array_of(1j, "a"))
    assert caught.value.http_status == 500


@pytest.mark.parametrize(
    ("data", "shape", "values"),
    [
        ([1, 234], [2], [1, 234]),
        ([[1, "a"], [2, "b"]], [2, 2], [1, "a", 2, "b"]),
        ([[1, "a"], [2, "b"]], [-1, 2], [1, "a", 2, "b"]),
        ([[1], ["a"]], [2, 1], [[1], ["a"]]),
        ([[[1], ["a"]]], [2, 1], [[1], ["a"]]),
    ],
)
def test_values_of_other_clients_are_counted_by_the_shape(data: Any, shape: list[int], values: list[Any]) -> None:
    assert NumpyCodec.decode_input(made(data, "BYTES", shape)).ravel().tolist() == values


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ([[1], ["a", "b", "c"]], [2, 2]),
        ([["a", 1], ["b", 2]], [3]),
        ([["a", 1], ["b", 2]], [-1, 3]),
        ([1, "a"], [1]),
        (1, [2]),
    ],
)
def test_rows_of_unlike_lengths_and_wrong_counts_are_the_clients_fault(data: Any, shape: list[int]) -> None:
    with pytest.raises(CodecError, match="input 'x'") as caught:
        NumpyCodec.decode_input(made(data, "BYTES", shape))
    assert caught.value.http_status == 400


class Answering(MLModel):
    """Gives a dict back, with what came in it."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        came = NumpyCodec.decode_input(payload.inputs[0])
        rows = array_of(*({"row": one, "n": at} for at, one in enumerate(came.ravel().tolist())))
        return InferenceResponse(model_name="", outputs=[NumpyCodec.encode_output("y", rows)])


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    models = [
        ModelSettings(name="one", implementation=Answering),
        ModelSettings(name="batches", implementation=Answering, max_batch_size=8, max_batch_time=0.01),
    ]
    with running_server(models, parallel_workers=1) as running:
        yield running


@pytest.mark.parametrize("model", ["one", "batches"])
def test_a_model_takes_and_gives_dicts_over_rest(server: RunningServer, model: str) -> None:
    request = NumpyRequestCodec.encode_request(array_of({"a": 1}, "x", [1, 2]))
    answer = httpx.post(f"{server.rest}/v2/models/{model}/infer", content=request.model_dump_json(), timeout=60)
    assert answer.status_code == 200, answer.text
    wanted = [{"row": {"a": 1}, "n": 0}, {"row": "x", "n": 1}, {"row": [1, 2], "n": 2}]
    assert answer.json()["outputs"] == [
        {"name": "y", "shape": [3, 1], "datatype": "BYTES", "parameters": {"content_type": "np"}, "data": wanted}
    ]
    with Client(server.rest) as client:
        assert client.infer(model, request).outputs["y"].ravel().tolist() == wanted


def test_binary_outputs_stay_json_where_only_that_has_the_values(server: RunningServer) -> None:
    request = InferenceRequest(
        inputs=[RequestInput(name="x", shape=[1], datatype="BYTES", data=TensorData(["a"]))],
        outputs=[RequestOutput(name="y", parameters={"binary_data": True})],  # type: ignore[arg-type]
    )
    with Client(server.rest) as client:
        assert client.infer("one", request).outputs["y"].tolist() == [[{"row": "a", "n": 0}]]


def test_over_grpc_the_error_says_which_value_and_what_to_do(server: RunningServer) -> None:
    with (
        Client(f"grpc://{server.grpc}") as client,
        pytest.raises(MLServeError, match=r"data\[0\]: .*only in JSON.*json.dumps"),
    ):
        client.infer("one", {"x": ["a"]})
