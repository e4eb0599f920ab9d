"""numpy's masked arrays: what the mask hides never travels as a value."""

# mypy: disable-error-code="arg-type, union-attr"
# The types take plain lists and dicts where they declare TensorData and Parameters, and tests make use of that.

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from mlserve import codecs
from mlserve.client import Client
from mlserve.errors import MLServeError
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.tensors import TensorData
from mlserve.testing import running_server
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput

FLOATS = np.ma.array([1.0, 999.0], mask=[0, 1], dtype=np.float32)
INTEGERS = np.ma.array([[1, 999], [3, 4]], mask=[[0, 1], [0, 0]], dtype=np.int32)
TEXTS = np.ma.array(["a", "secret"], mask=[0, 1])


@pytest.mark.parametrize(
    ("array", "datatype", "shape", "data"),
    [
        (FLOATS, "FP32", [2, 1], [1.0, None]),
        (FLOATS.astype(">f8"), "FP64", [2, 1], [1.0, None]),
        (FLOATS.astype(np.float16), "FP16", [2, 1], [1.0, None]),
        (INTEGERS, "INT32", [2, 2], [1, None, 3, 4]),
        (INTEGERS.T, "INT32", [2, 2], [1, 3, None, 4]),
        (np.ma.array([True, False], mask=[1, 0]), "BOOL", [2, 1], [None, False]),
        (TEXTS, "BYTES", [2, 1], ["a", None]),
        (TEXTS.astype("S"), "BYTES", [2, 1], ["a", None]),
        (np.ma.array(["a", None, "secret"], mask=[0, 0, 1], dtype=object), "BYTES", [3, 1], ["a", None, None]),
        (np.ma.array([1, 2, 999], mask=[0, 0, 1], dtype=object), "FP64", [3, 1], [1, 2, None]),
        (np.ma.masked, "FP64", [1], [None]),
        (np.ma.array([1, 2]), "INT64", [2, 1], [1, 2]),
    ],
)
def test_an_array_is_encoded_with_what_is_hidden_missing(
    array: Any, datatype: str, shape: list[int], data: list[Any]
) -> None:
    for tensor in (codecs.NumpyCodec.encode_output("x", array), codecs.NumpyCodec.encode_input("x", array)):
        assert (tensor.datatype, tensor.shape) == (datatype, shape)
        assert json.loads(tensor.model_dump_json())["data"] == data


def test_floats_are_nan_in_binary_tensors() -> None:
    tensor = codecs.NumpyCodec.encode_output("x", FLOATS)
    values = np.frombuffer(tensor.data.to_raw("FP32"), np.float32)
    np.testing.assert_array_equal(values, np.array([1.0, np.nan], np.float32))


def test_an_encoded_array_is_the_callers_no_more() -> None:
    for array in (FLOATS.copy(), np.ma.array([1.0, 2.0])):
        tensor = codecs.NumpyCodec.encode_output("x", array)
        array[0] = 5.0
        assert tensor.data[0] == 1.0


@pytest.mark.parametrize(("array", "data"), [(FLOATS, [1.0, None]), (INTEGERS, [1, None, 3, 4])])
def test_a_tensor_takes_one_without_a_codec(array: Any, data: list[Any]) -> None:
    for values in (TensorData(array), TensorData.from_numpy(array)):
        assert values == data
        assert json.loads(values.to_json()) == data
        assert len(values) == len(data)
        assert values[1] is None
    assert RequestInput(name="x", shape=[2], datatype="FP32", data=array).data == data


def test_lists_of_text_bytes_and_dates_have_none_there() -> None:
    assert codecs.StringCodec.encode_output("x", TEXTS).data == [b"a", None]
    assert codecs.Base64Codec.encode_output("x", TEXTS.astype("S")).data == [b"YQ==", None]
    dates = np.ma.array(["2024-02-29", "2024-03-01"], dtype="M8[D]", mask=[0, 1])
    assert codecs.DatetimeCodec.encode_output("x", dates).data[1] is None
    with pytest.raises(MLServeError, match="content type 'base64' takes a list of bytes, got int at 0"):
        codecs.Base64Codec.encode_output("x", INTEGERS.astype(np.uint8))


class Hiding(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        hide = self.decode(payload.inputs[0], default_codec=codecs.NumpyCodec)
        hidden = np.ma.array(np.full(hide.shape, 999), mask=hide, dtype=payload.inputs[0].parameters.dtype)
        outputs = [codecs.NumpyCodec.encode_output("y", hidden)]
        return InferenceResponse(model_name=self.name, outputs=outputs)


@pytest.fixture(scope="module", params=[1, 2])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A model alone, and one whose requests go through batches."""
    settings = ModelSettings(
        name="m", implementation=Hiding, max_batch_size=request.param, max_batch_time=0.01 * (request.param - 1)
    )
    with running_server(settings) as server:
        yield server


def ask(server: Any, dtype: str, **parameters: Any) -> Any:
    tensor = {"name": "x", "shape": [2, 1], "datatype": "BOOL", "data": [False, True], "parameters": {"dtype": dtype}}
    reply = httpx.post(f"{server.rest}/v2/models/m/infer", json={"inputs": [tensor], "parameters": parameters})
    assert reply.status_code == 200, reply.text
    return reply.json()["outputs"][0]


@pytest.mark.parametrize("dtype", ["f4", "i8", "?"])
def test_json_has_null(server: Any, dtype: str) -> None:
    value = {"f4": 999, "i8": 999, "?": True}[dtype]
    assert ask(server, dtype)["data"] == [value, None]


def test_integers_stay_json_where_binary_outputs_are_asked_for(server: Any) -> None:
    assert ask(server, "i8", binary_data_output=True)["data"] == [999, None]


def test_grpc_has_nan_or_says_that_it_has_no_null(server: Any) -> None:
    tensor = codecs.NumpyCodec.encode_input("x", np.array([[False], [True]]))
    with Client(f"grpc://{server.grpc}") as client:
        tensor.parameters.dtype = "f4"
        np.testing.assert_array_equal(client.infer("m", [tensor]).outputs["y"], np.array([[999], [np.nan]], "f4"))
        tensor.parameters.dtype = "i8"
        with pytest.raises(MLServeError, match=r"data\[1\]: null is no INT64"):
            client.infer("m", [tensor])
