"""The calls that are measured, in each form of the Open Inference Protocol, and the check of their answers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

__all__ = ["Answers", "Call", "grpc_contents", "grpc_raw", "rest_binary", "rest_json"]

_DATATYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64"}
_CONTENTS = {"FP32": "fp32_contents", "FP64": "fp64_contents", "INT64": "int64_contents"}
_GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
_KEEP_BYTES = 64 * 1024  # answers up to this size are compared byte for byte, longer ones by length
_JSON_LENGTH = re.compile(rb"\r\ninference-header-content-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Call:
    """One request, ready to be sent, and the values that the first output of its answer must have."""

    transport: str  # "rest" | "grpc"
    path: str
    body: bytes
    expected: np.ndarray[Any, Any]
    headers: tuple[tuple[str, str], ...] = ()

    def error_in(self, head: bytes, body: bytes) -> str | None:
        """What is wrong with an answer of status 200 (gRPC: 0); None if it carries the expected values."""
        try:
            values = _grpc_values(body) if self.transport == "grpc" else _rest_values(head, body)
            if np.array_equal(np.asarray(values).ravel().astype(self.expected.dtype), self.expected.ravel()):
                return None
            return f"wrong values: {str(values)[:100]}"
        except Exception as error:  # whatever the answer was, the run must say so and go on to its end
            return f"unreadable answer ({type(error).__name__}: {error}): {body[:200]!r}"


class Answers:
    """Checks the answers to one call: in full until one was right, then by comparing with that one."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._right: bytes | None = None
        self._right_length = -1

    @property
    def wants_body(self) -> bool:
        """Whether the next answer's bytes are needed, rather than their number."""
        return self._right is not None or self._right_length < 0

    def error_in(self, head: bytes | bytearray, body: bytes | bytearray, length: int) -> str | None:
        """What is wrong with an answer; `body` may be empty when `wants_body` was false."""
        if not self.wants_body:
            return None if length == self._right_length else f"{length} bytes, expected {self._right_length}"
        if body == self._right:
            return None
        error = self._call.error_in(bytes(head), bytes(body))
        if error is None:
            self._right_length = length
            self._right = bytes(body) if length <= _KEEP_BYTES else None
        return error


# -- requests ----------------------------------------------------------------------------------------------------------


def rest_json(model: str, values: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> Call:
    """REST with JSON data. The id makes every answer the same, byte for byte."""
    tensor = {**_tensor(values), "data": orjson.Fragment(orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY))}
    body = orjson.dumps({"id": "bench", "inputs": [tensor]})
    return Call("rest", _rest_path(model), body, expected, (("Content-Type", "application/json"),))


def rest_binary(model: str, values: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> Call:
    """REST with the binary tensor extension, both ways."""
    raw = np.ascontiguousarray(values).tobytes()
    tensor = {**_tensor(values), "parameters": {"binary_data_size": len(raw)}}
    head = orjson.dumps({"id": "bench", "parameters": {"binary_data_output": True}, "inputs": [tensor]})
    headers = (("Content-Type", "application/octet-stream"), ("Inference-Header-Content-Length", str(len(head))))
    return Call("rest", _rest_path(model), head + raw, expected, headers)


def grpc_contents(model: str, values: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> Call:
    """gRPC with typed contents."""
    request, tensor = _grpc_request(model, values)
    getattr(tensor.contents, _CONTENTS[tensor.datatype]).extend(values.ravel().tolist())
    return Call("grpc", _GRPC_PATH, request.SerializeToString(), expected)


def grpc_raw(model: str, values: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> Call:
    """gRPC with raw_input_contents."""
    request, _ = _grpc_request(model, values)
    request.raw_input_contents.append(np.ascontiguousarray(values).tobytes())
    return Call("grpc", _GRPC_PATH, request.SerializeToString(), expected)


def _rest_path(model: str) -> str:
    return f"/v2/models/{model}/infer"


def _tensor(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"name": "input", "datatype": _DATATYPES[values.dtype.name], "shape": list(values.shape)}


def _grpc_request(model: str, values: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    request = _message("ModelInferRequest")(model_name=model, id="bench")
    return request, request.inputs.add(**_tensor(values))


def _message(name: str) -> Any:
    from mlserve.wire.schema import schema_class  # the protocol's classes; lazily, REST alone needs none

    return schema_class(f"inference.{name}")


# -- answers -----------------------------------------------------------------------------------------------------------


def _rest_values(head: bytes, body: bytes) -> Any:
    found = _JSON_LENGTH.search(head)
    if found is None:
        return json.loads(body)["outputs"][0]["data"]
    json_length = int(found[1])
    datatype = json.loads(body[:json_length])["outputs"][0]["datatype"]
    return np.frombuffer(body[json_length:], _dtype(datatype))


def _grpc_values(body: bytes) -> Any:
    answer = _message("ModelInferResponse").FromString(body)
    tensor = answer.outputs[0]
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[0], _dtype(tensor.datatype))
    return list(getattr(tensor.contents, _CONTENTS[tensor.datatype]))


def _dtype(datatype: str) -> str:
    return next(name for name, known in _DATATYPES.items() if known == datatype)
