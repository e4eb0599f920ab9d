"""MLModel: what runtime authors get from the base class."""

# mypy: disable-error-code="arg-type, assignment, union-attr"
# The types take plain lists and dicts where they declare TensorData and Parameters, and tests make use of that.

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlserve.codecs import Base64Codec, CodecError, NumpyCodec, NumpyRequestCodec, PandasCodec, StringCodec, registry
from mlserve.errors import MLServeError
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest, InferenceResponse, MetadataTensor, RequestInput, RequestOutput

pytestmark = pytest.mark.anyio

TEXT = {"name": "s", "datatype": "BYTES", "shape": [-1], "parameters": {"content_type": "str", "note": "free"}}
BARE = {"name": "bare", "datatype": "INT64", "shape": [2]}


def model(**settings: Any) -> MLModel:
    return MLModel(ModelSettings(name="m", **settings))


def tensor(data: Any, datatype: str = "BYTES", name: str = "s", content_type: str | None = None) -> RequestInput:
    parameters = {"content_type": content_type} if content_type else None
    return RequestInput(name=name, shape=[len(data)], datatype=datatype, data=data, parameters=parameters)


def test_name_version_and_settings_come_from_the_settings() -> None:
    one = model(parameters={"version": "v1"})
    assert (one.name, one.version) == ("m", "v1")
    assert one.settings is one._settings
    assert model().version is None
    assert repr(one) == "<MLModel m v1>"


async def test_load_and_unload_say_yes_and_ready_is_open_until_somebody_says_so() -> None:
    one = model()
    assert one.ready is None
    assert await one.load() is True
    assert await one.unload() is True
    one.ready = False
    assert one.ready is False


async def test_metadata_is_what_the_settings_say_with_empty_lists_for_what_they_leave_out() -> None:
    assert (await model().metadata()).model_dump() == {
        "name": "m",
        "versions": [],
        "platform": "",
        "inputs": [],
        "outputs": [],
    }
    full = await model(platform="p", versions=["v"], inputs=[TEXT, BARE], outputs=[BARE]).metadata()
    assert full.model_dump()["inputs"] == [TEXT, BARE]
    assert full.model_dump()["outputs"] == [BARE]
    assert (full.platform, full.versions) == ("p", ["v"])


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({}, {}),
        ({"content_type": "pd"}, {"content_type": "pd"}),
        ({"content_type": "pd", "version": "v1", "uri": "./x", "extra": {"a": 1}}, {"content_type": "pd"}),
        ({"extra": {"a": 1}, "format": "f"}, {}),
    ],
)
async def test_metadata_tell_the_models_content_type_and_nothing_else_of_its_parameters(parameters, told) -> None:
    metadata = await model(parameters=parameters).metadata()
    assert metadata.model_dump()["parameters"] == told


async def test_a_runtime_may_declare_its_inputs_when_it_loads() -> None:
    one = model()
    assert one.decode(tensor(["a"])) == ["a"]  # the data as it is
    one.inputs = [MetadataTensor(**TEXT)]
    assert (await one.metadata()).inputs == one.inputs == one.settings.inputs
    assert one.decode(tensor([b"a"])) == ["a"]
    one.inputs.append(MetadataTensor(name="t", datatype="BYTES", shape=[-1], parameters={"content_type": "base64"}))
    assert one.decode(tensor(["YQ=="], name="t")) == [b"a"]
    one.outputs = None
    assert one.outputs == []


async def test_a_model_without_predict_says_so_as_the_servers_fault() -> None:
    with pytest.raises(MLServeError, match=r"model 'm' has no predict\(\)") as caught:
        await model().predict(InferenceRequest(inputs=[]))
    assert caught.value.http_status == 500


async def some_requests() -> AsyncIterator[InferenceRequest]:
    for name in ("a", "b"):
        yield InferenceRequest(id=name, inputs=[])


class Plain(MLModel):
    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]  # may be plain
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[])


class Async(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[])


@pytest.mark.parametrize("kind", [Plain, Async])
async def test_a_stream_falls_back_to_predict_for_each_request(kind: Any) -> None:
    answers = [one.id async for one in kind(ModelSettings(name="m")).predict_stream(some_requests())]
    assert answers == ["a", "b"]


# -- decode -----------------------------------------------------------------------------------------------------------


def test_an_input_decodes_by_its_own_type_then_metadata_then_the_default() -> None:
    one = model(inputs=[TEXT])
    assert one.decode(tensor(["YQ=="], content_type="base64"), default_codec=NumpyCodec) == [b"a"]
    assert one.decode(tensor([b"a"]), default_codec=NumpyCodec) == ["a"]
    assert one.decode(tensor([1], "INT8", name="n"), default_codec=NumpyCodec).dtype == np.int8
    raw = tensor([1], "INT8", name="n")
    assert one.decode(raw) is raw.data
    assert one.decode(tensor([1], "INT8", name="n", content_type="pd"), default_codec=None) == [1]


def test_the_requests_content_type_does_not_reach_single_inputs() -> None:
    request = InferenceRequest(parameters={"content_type": "np"}, inputs=[tensor([1], "INT8")])
    assert model().decode(request.inputs[0]) == [1]


def test_a_request_decodes_by_its_own_type_then_the_models_then_the_default() -> None:
    typed = model(parameters={"content_type": "pd"})
    request = InferenceRequest(inputs=[tensor([1, 2], "FP32", name="x")])
    assert isinstance(typed.decode_request(request), pd.DataFrame)
    own = InferenceRequest(parameters={"content_type": "np"}, inputs=[tensor([1, 2], "FP32", name="x")])
    assert isinstance(typed.decode_request(own), np.ndarray)
    fresh = InferenceRequest(inputs=[tensor([1, 2], "FP32", name="x")])
    assert isinstance(model().decode_request(fresh, default_codec=NumpyRequestCodec), np.ndarray)
    assert model().decode_request(fresh) is fresh
    unknown = InferenceRequest(parameters={"content_type": "foo"}, inputs=[])
    assert typed.decode_request(unknown) is unknown


@pytest.mark.parametrize("by_default", [True, False])
def test_the_columns_of_a_frame_decode_by_metadata(by_default: bool) -> None:
    day = {"name": "day", "datatype": "BYTES", "shape": [-1], "parameters": {"content_type": "datetime"}}
    one = model(inputs=[TEXT, day], parameters=None if by_default else {"content_type": "pd"})
    request = InferenceRequest(
        inputs=[
            tensor(["YQ=="], content_type="base64"),
            tensor(["2024-01-01"], name="day"),
            tensor([1], "INT8", name="n"),
        ]
    )
    frame = one.decode_request(request, default_codec=PandasCodec if by_default else None)
    assert frame["s"].tolist() == [b"a"]
    assert frame["day"].tolist() == [datetime.datetime(2024, 1, 1)]
    assert frame["n"].dtype == np.int8


# -- encode -----------------------------------------------------------------------------------------------------------


def test_an_output_encodes_by_the_type_asked_for_then_metadata_then_value_then_default() -> None:
    one = model(outputs=[{"name": "b", "datatype": "BYTES", "shape": [-1], "parameters": {"content_type": "base64"}}])
    asked = RequestOutput(name="b", parameters={"content_type": "str"})
    assert one.encode(["a"], asked).parameters.content_type == "str"
    assert one.encode([b"a"], RequestOutput(name="b")).data == [b"YQ=="]
    assert one.encode(np.array(7.5), RequestOutput(name="x")).shape == [1]

    class Anything(StringCodec):
        @classmethod
        def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **kwargs: Any) -> Any:
            return StringCodec.encode_output(name, [repr(payload)])

    assert one.encode({"a": 1}, RequestOutput(name="x"), default_codec=Anything).data == [b"{'a': 1}"]


@pytest.mark.parametrize("value", [[1, 2, 3], 5, None, {"x": 1}, "plain", [object()]])
def test_a_value_without_a_codec_is_the_models_fault(value: Any) -> None:
    for encode in (lambda: model().encode(value, RequestOutput(name="y")), lambda: model().encode_response(value)):
        with pytest.raises(CodecError, match="no codec for its value") as caught:
            encode()
        assert caught.value.http_status == 500


class OwnStatusCodec(StringCodec):
    """Says itself what its callers see."""

    @classmethod
    def encode_output(cls, name: str, payload: Any, **kwargs: Any) -> Any:
        raise MLServeError("too much", 413)


NUMBERS = np.ones((2, 2), "f4")


@pytest.mark.parametrize(
    ("content_type", "value", "words"),
    [
        ("str", NUMBERS, "its value, a ndarray of float32, does not fit the content type 'str' asked for"),
        ("datetime", NUMBERS, "does not fit the content type 'datetime' asked for"),
        ("np", ["a"], "its value, a list, does not fit the content type 'np' asked for"),
        ("pd", NUMBERS, "there is no codec for the content type 'pd' that is asked for"),
    ],
)
def test_a_content_type_that_a_client_asks_for_and_does_not_fit_is_its_fault(
    content_type: str, value: Any, words: str
) -> None:
    asked = RequestOutput(name="y", parameters={"content_type": content_type})
    with pytest.raises(CodecError, match=words) as caught:
        model().encode(value, asked)
    assert caught.value.http_status == 400 and "output 'y'" in str(caught.value)
    declared = model(outputs=[{**BARE, "name": "y", "parameters": {"content_type": content_type}}])
    for output in (RequestOutput(name="y"), *([asked] if content_type != "pd" else [])):
        with pytest.raises(CodecError) as caught:
            declared.encode(value, output)
        assert caught.value.http_status == 500  # the settings say so too


def test_a_codec_may_say_itself_what_callers_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._input_codecs, "own", OwnStatusCodec)
    with pytest.raises(MLServeError, match="too much") as caught:
        model().encode("a", RequestOutput(name="y", parameters={"content_type": "own"}))
    assert caught.value.http_status == 413


def test_a_response_encodes_by_value_or_else_by_the_default_codec() -> None:
    one = model(parameters={"version": "v1"})
    response = one.encode_response(np.array([1, 2]))
    assert (response.model_name, response.model_version) == ("m", "v1")
    assert response.parameters == {"content_type": "np"}
    assert (response.outputs[0].name, response.outputs[0].shape) == ("output-1", [2, 1])
    frame = one.encode_response(pd.DataFrame({"n": [1]}))
    assert (frame.parameters, frame.outputs[0].name) == ({"content_type": "pd"}, "n")

    class Blobs(NumpyRequestCodec):
        InputCodec = Base64Codec
        ContentType = "blobs"

    assert one.encode_response([b"a"], default_codec=Blobs).outputs[0].data == [b"YQ=="]
