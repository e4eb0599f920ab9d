"""The client's side of the REST bodies: requests to JSON (with binary tensors), answers and events from it.

Source: Open Inference Protocol, REST API; Triton's "Binary Tensor Data Extension"; HTML Standard, Server-Sent Events.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from mlserve.errors import CodecError
from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput
from mlserve.types.dumping import json_hook
from mlserve.wire.parameters import sendable

__all__ = ["Events", "decode", "decode_response", "encode_json", "encode_request"]

Buffer = bytes | bytearray | memoryview
T = TypeVar("T")

encode_json = msgspec.json.Encoder(enc_hook=json_hook).encode


def encode_request(request: InferenceRequest, *, binary: bool) -> tuple[list[Buffer], int | None]:
    """The body in pieces, and the length of its JSON if binary tensors follow it. CodecError.

    With `binary` the answer is asked for in that form too; inputs that have no binary form (null among text) stay
    JSON. Large buffers are the tensors' own.
    """
    blobs: list[Buffer] = []
    parameters = sendable(request.parameters) or {}
    if binary:
        parameters.setdefault("binary_data_output", True)
    message: dict[str, Any] = {}
    if request.id is not None:
        message["id"] = request.id
    if parameters:
        message["parameters"] = parameters
    message["inputs"] = [_input(one, blobs if binary else None) for one in request.inputs]
    if request.outputs is not None:
        message["outputs"] = [one.model_dump(mode="json") for one in request.outputs]
    head = encode_json(message)
    if not blobs:
        return [head], None
    return [head, *blobs], len(head)


def _input(tensor: RequestInput, blobs: list[Buffer] | None) -> dict[str, Any]:
    """The JSON of an input; its binary data, where it goes there, is appended to `blobs`."""
    parameters = sendable(tensor.parameters) or {}
    parameters.pop("binary_data_size", None)
    found = {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype, "parameters": parameters}
    blob = None
    if blobs is not None:
        try:
            blob = tensor.data.to_raw(tensor.datatype)
        except CodecError:
            blob = None  # What is wrong with the data itself, JSON or the server will say.
    if blob is not None and blobs is not None:
        parameters["binary_data_size"] = len(blob)
        blobs.append(blob)
    else:
        found["data"] = msgspec.Raw(tensor.data.to_json(tensor.datatype))
    if not parameters:
        del found["parameters"]
    return found


def decode(body: Buffer, kind: type[T]) -> T:
    """A message of that type. ValueError if the body is none."""
    return msgspec.json.decode(body, type=kind, strict=False)


def decode_response(body: Buffer, header_length: int | None = None) -> InferenceResponse:
    """The response in a body, its tensors as views of that. ValueError if it is none.

    With `header_length`, so many bytes are JSON and the rest are the data of the outputs with `binary_data_size`.
    """
    if header_length is None:
        return decode(body, InferenceResponse)
    if not 0 < header_length <= len(body):
        raise ValueError(f"a JSON part of {header_length} bytes in a body of {len(body)}")
    view = memoryview(body)
    response = decode(bytes(view[:header_length]), InferenceResponse)
    at = header_length
    for output in response.outputs:
        size = None if output.parameters is None else dict.get(output.parameters, "binary_data_size")
        if size is None:
            continue
        if not isinstance(size, int) or not 0 <= size <= len(body) - at:
            raise ValueError(
                f"output '{output.name}' has a binary_data_size of {size!r}, but {len(body) - at} bytes follow"
            )
        output.data = TensorData.from_raw(view[at : at + size], output.datatype, output.shape)
        at += size
        if output.parameters is not None:
            del output.parameters["binary_data_size"]  # It is about the body, not about the tensor.
    return response


class Events:
    """Server-Sent Events out of pieces of a body; `feed` gives the (event, data) that are complete."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0  # Invariant: no line ends in _rest[:_searched].
        self._event = "message"
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> Iterator[tuple[str, bytes]]:
        """The events that end in this piece."""
        self._rest += piece
        while True:
            end = self._rest.find(b"\n", self._searched)
            if end < 0:
                self._searched = len(self._rest)
                return
            line = bytes(self._rest[:end]).removesuffix(b"\r")
            del self._rest[: end + 1]
            self._searched = 0
            if line:
                self._take(line)
            elif self._data:
                yield self._event, b"\n".join(self._data)
                self._event, self._data = "message", []

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
