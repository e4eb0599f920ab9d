"""One question over REST or gRPC, plain or binary: clients for tests, with nothing beside what the server needs."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio

from mlserve.errors import MLServeError
from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, InferenceResponse
from mlserve.wire import v2proto

__all__ = ["ask_grpc", "ask_rest"]

_LENGTH = "Inference-Header-Content-Length"
_METHOD = "/inference.GRPCInferenceService/ModelInfer"


def ask_rest(
    url: str,
    model: str,
    version: str | None,
    request: InferenceRequest,
    *,
    binary: bool = False,
    timeout_seconds: float = 30.0,
) -> InferenceResponse:
    """The answer over REST, with the binary tensor extension both ways if `binary`. MLServeError with the status."""
    place = f"{url}/v2/models/{model}" + (f"/versions/{version}" if version else "")
    body, headers = _binary_body(request) if binary else (request.model_dump_json().encode(), {})
    headers["Content-Type"] = "application/octet-stream" if binary else "application/json"
    try:
        question = urllib.request.Request(f"{place}/infer", body, headers)
        with urllib.request.urlopen(question, timeout=timeout_seconds) as answer:
            return _response(answer.read(), answer.headers.get(_LENGTH))
    except urllib.error.HTTPError as error:
        with error:
            raise MLServeError(error.read().decode("utf-8", "replace"), error.code) from None


def _binary_body(request: InferenceRequest) -> tuple[bytes, dict[str, str]]:
    head = request.model_dump(exclude={"inputs"})
    head["parameters"] = {**(head.get("parameters") or {}), "binary_data_output": True}
    head["inputs"] = []
    tensors = []
    for one in request.inputs:
        tensors.append(bytes(one.data.to_raw(one.datatype)))
        described = {"name": one.name, "shape": one.shape, "datatype": one.datatype}
        parameters = {**(one.parameters or {}), "binary_data_size": len(tensors[-1])}
        head["inputs"].append({**described, "parameters": parameters})
    text = json.dumps(head).encode()
    return b"".join([text, *tensors]), {_LENGTH: str(len(text))}


def _response(body: bytes, length: str | None) -> InferenceResponse:
    end = int(length) if length is not None else len(body)
    response = InferenceResponse.model_validate_json(body[:end])
    for output in response.outputs:
        size = output.parameters.get("binary_data_size") if output.parameters is not None else None
        if size is not None:
            output.data = TensorData.from_raw(body[end : end + size], output.datatype, output.shape)
            end += size
    return response


def ask_grpc(
    address: str,
    model: str,
    version: str | None,
    request: InferenceRequest,
    *,
    raw: bool = False,
    timeout_seconds: float = 30.0,
) -> InferenceResponse:
    """The answer over gRPC, with raw contents both ways if `raw`. MLServeError with the status's name."""
    message = b"".join(v2proto.encode_request(request, model, version, raw=raw))

    async def ask() -> bytes:
        from grpclib.client import Channel, UnaryUnaryMethod
        from grpclib.exceptions import GRPCError

        host, _, port = address.rpartition(":")
        async with Channel(host, int(port), codec=_Bytes()) as channel:
            method: Any = UnaryUnaryMethod(channel, _METHOD, bytes, bytes)
            try:
                answer: bytes = await method(message, timeout=timeout_seconds)
            except GRPCError as error:
                raise MLServeError(f"{error.status.name}: {error.message}") from None
            return answer

    with ThreadPoolExecutor(1) as thread:  # so that it can be asked from within an event loop, too
        return v2proto.decode_response(thread.submit(anyio.run, ask).result())


class _Bytes:
    """A codec of grpclib that leaves messages serialised, as `wire.v2proto` has them."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: Any) -> bytes:
        return message

    def decode(self, data: bytes, message_type: Any) -> bytes:
        return data
