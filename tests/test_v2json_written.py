"""V2 JSON bodies as they are written: order, what is left out, binary outputs, copies that are not made."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from mlserve.tensors import TensorData
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RepositoryIndexResponseItem,
    ResponseOutput,
    State,
)
from mlserve.wire.v2json import decode_request, encode_json, encode_response


def response_of(*outputs: ResponseOutput, **members: Any) -> InferenceResponse:
    return InferenceResponse(model_name="m", id="i", parameters=Parameters(), outputs=list(outputs), **members)


def output_of(data: Any, datatype: str = "FP32", shape: tuple[int, ...] = (2,), **members: Any) -> ResponseOutput:
    return ResponseOutput(name="y", shape=list(shape), datatype=datatype, data=data, **members)


def test_a_response_is_written_in_the_order_that_mlserver_has() -> None:
    response = response_of(
        output_of(TensorData.from_json(b"[1.50, null]"), parameters={"content_type": "np"}), model_version="v1"
    )
    chunks, length = encode_response(response)
    assert length is None
    assert b"".join(chunks) == (
        b'{"model_name":"m","model_version":"v1","id":"i","parameters":{},"outputs":['
        b'{"name":"y","shape":[2],"datatype":"FP32","parameters":{"content_type":"np"},"data":[1.50, null]}]}'
    )


def test_what_is_none_is_left_out() -> None:
    response = InferenceResponse(model_name="m", outputs=[output_of([1, 2])])
    chunks, _ = encode_response(response)
    assert json.loads(b"".join(chunks)) == {
        "model_name": "m",
        "outputs": [{"name": "y", "shape": [2], "datatype": "FP32", "data": [1, 2]}],
    }


def test_a_response_without_outputs_is_one() -> None:
    assert json.loads(b"".join(encode_response(response_of())[0]))["outputs"] == []


def test_data_of_every_form_becomes_json() -> None:
    values = np.array([1.5, np.nan], "<f4")
    response = response_of(
        output_of(values), output_of(TensorData.from_raw(values.tobytes(), "FP32", [2])), output_of([1.5, None])
    )
    chunks, length = encode_response(response, binary=False)
    assert length is None
    assert [one["data"] for one in json.loads(b"".join(chunks))["outputs"]] == [[1.5, None]] * 3


def test_large_data_is_not_copied() -> None:
    text = memoryview(b"[" + b",".join([b"0.5"] * 50_000) + b"]")
    blob = memoryview(bytes(200_000))
    response = response_of(
        output_of(TensorData.from_json(text)),
        output_of(TensorData.from_raw(blob, "FP32", [50_000])),
        output_of([1, 2]),
    )
    chunks, length = encode_response(response)
    assert any(chunk is text for chunk in chunks)
    assert any(chunk is blob for chunk in chunks)
    assert len(chunks) == 4
    assert length == sum(map(len, chunks)) - len(blob)


def test_many_small_outputs_are_one_piece() -> None:
    chunks, _ = encode_response(response_of(*[output_of([1, 2]) for _ in range(100)]))
    assert len(chunks) == 1
    assert len(json.loads(bytes(chunks[0]))["outputs"]) == 100


def test_raw_outputs_go_behind_the_json_with_their_sizes() -> None:
    values = np.array([1.5, 2], "<f4")
    response = response_of(
        output_of(TensorData.from_raw(values.tobytes(), "FP32", [2]), parameters={"content_type": "np"}),
        output_of(["a"], "BYTES", (1,)),
    )
    chunks, length = encode_response(response)
    body = b"".join(chunks)
    assert length is not None
    first, second = json.loads(body[:length])["outputs"]
    assert first["parameters"] == {"content_type": "np", "binary_data_size": 8}
    assert "data" not in first
    assert second["data"] == ["a"]
    assert body[length:] == values.tobytes()
    assert response.outputs[0].parameters == {"content_type": "np"}


def test_what_was_written_binary_can_be_read_again() -> None:
    values = np.arange(6, dtype="<i2").reshape(2, 3)
    chunks, length = encode_response(
        response_of(output_of(TensorData.from_raw(values.tobytes(), "INT16", [2, 3]), "INT16", (2, 3)))
    )
    body = b"".join(chunks).replace(b'"outputs"', b'"inputs" ')
    assert length is not None
    request = decode_request(body, length)
    assert isinstance(request, InferenceRequest)
    assert request.inputs[0].data.to_numpy("INT16", [2, 3]).tolist() == values.tolist()


def test_parameters_that_are_no_numbers_become_null() -> None:
    response = response_of()
    response.parameters = Parameters(score=float("nan"), value=np.float32(0.5))
    assert json.loads(b"".join(encode_response(response)[0]))["parameters"] == {"score": None, "value": 0.5}


def test_metadata_and_indexes_are_written_without_what_is_none() -> None:
    assert encode_json([RepositoryIndexResponseItem(name="m", state=State.READY, reason="")]) == (
        b'[{"name":"m","state":"READY","reason":""}]'
    )
    assert encode_json({"error": "é"}) == '{"error":"é"}'.encode()
