"""V2 JSON bodies to requests and from responses, tensors' data untouched, with the binary tensor extension.

Reading: msgspec takes the body apart and leaves each tensor's `data` as a view of its text. The whole body has then
been checked as JSON once, so that the text may be sent on, or back, as it stands; what msgspec passes over there
(bytes that are no UTF-8, numbers beyond any float) is checked here. Writing: the texts and buffers of the outputs are
put between the pieces of JSON around them, without a copy where they are large.

Source: Open Inference Protocol, REST API; Triton's "Binary Tensor Data Extension".
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from mlserve.datatypes import BYTES, DTYPES, MAX_DIMENSIONS
from mlserve.errors import InvalidRequest
from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput
from mlserve.types.dumping import json_hook
from mlserve.wire.explain import json_fault, request_fault
from mlserve.wire.json_data import encodable

__all__ = ["decode_index_request", "decode_request", "encode_json", "encode_response"]

Buffer = bytes | bytearray | memoryview

_JOINED_BYTES = 64 * 1024  # Up to here one copy is cheaper than more writes to a socket.
_LARGEST_SIZE = 2**63 - 1  # Of one dimension; what numpy, protobuf and msgpack can hold.
_NO_REQUEST = 422  # Valid JSON that is no request. What is no JSON at all is 400.

_decode_request = msgspec.json.Decoder(InferenceRequest, strict=False).decode  # "2" and 2.0 are sizes, as on MLServer.
_encode = msgspec.json.Encoder(enc_hook=json_hook).encode
_check_value = msgspec.json.Decoder().decode
_skip = msgspec.json.Decoder(msgspec.Raw).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# An exponent that may be too large for a float; where one is, the data is read in full.
_HUGE = re.compile(rb"[eE]\+?[0-9]{3}")
_HUGE_SMALL_E, _HUGE_LARGE_E = re.compile(rb"e\+?[0-9]{3}"), re.compile(rb"E\+?[0-9]{3}")


# -- reading ----------------------------------------------------------------------------------------------------------


def decode_request(body: Buffer, header_length: int | None = None) -> InferenceRequest:
    """The request in a body; tensors' data are views of the body, which must not change as long as they live.

    With `header_length`, so many bytes are JSON and the rest are the data of the inputs with `binary_data_size`.
    InvalidRequest names the place, what was expected there and what came; its status is 400 for what is no JSON and
    422 for JSON that is no request.
    """
    text, rest = (body, None) if header_length is None else _split(body, header_length)
    try:
        if not _is_ascii(text):
            str(text, "utf-8")  # msgspec does not look inside strings that it leaves as they are.
        request = _decode_request(text)
    except _UNREADABLE as error:
        raise _refusal(text, error) from None
    if request.parameters is not None:
        _check_parameters(request.parameters, "parameters")
    if request.outputs:
        for at, output in enumerate(request.outputs):
            if output.parameters is not None:
                _check_parameters(output.parameters, f"outputs[{at}].parameters")
    has_all_data = True
    for at, tensor in enumerate(request.inputs):
        has_all_data &= _check_input(tensor, at)
    if rest is not None:
        _attach(request.inputs, rest)
    elif not has_all_data:
        raise _without_data(request.inputs)
    if _has_huge_exponent(text):
        _check_numbers(request.inputs)
    return request


def _is_ascii(text: Buffer) -> bool:
    if isinstance(text, bytes | bytearray):
        return text.isascii()
    return not len(text) or int(np.frombuffer(text, np.int8).min()) >= 0


def _refusal(text: Buffer, error: Exception) -> InvalidRequest:
    """What to say about a body that the decoder refused."""
    if isinstance(error, msgspec.ValidationError):
        try:
            _skip(text)  # The decoder stops at the first value of a wrong type, which may be the least that is wrong.
        except _UNREADABLE as worse:
            error = worse
        else:
            return InvalidRequest(request_fault(text, error), _NO_REQUEST)
    return InvalidRequest(json_fault(text, error))


def _split(body: Buffer, header_length: int) -> tuple[Buffer, memoryview]:
    """The JSON and what follows it."""
    if not 0 < header_length <= len(body):
        raise InvalidRequest(
            f"Inference-Header-Content-Length: {header_length} does not fit a body of {len(body)} bytes"
        )
    view = memoryview(body)
    return (body if header_length == len(body) else bytes(view[:header_length])), view[header_length:]


def _check_parameters(parameters: Parameters, place: str) -> None:
    """The two members that have a type."""
    content_type, headers = dict.get(parameters, "content_type"), dict.get(parameters, "headers")
    if content_type is not None and not isinstance(content_type, str):
        raise InvalidRequest(f"{place}.content_type: expected a text, got {_shown(content_type)}", _NO_REQUEST)
    if headers is not None and not isinstance(headers, dict):
        raise InvalidRequest(f"{place}.headers: expected an object {{...}}, got {_shown(headers)}", _NO_REQUEST)


def _check_input(tensor: RequestInput, at: int) -> bool:
    """What the types leave open; whether the JSON has the tensor's data."""
    if tensor.parameters is not None:
        _check_parameters(tensor.parameters, f"inputs[{at}].parameters")
    if len(tensor.shape) > MAX_DIMENSIONS:
        expected = f"at most {MAX_DIMENSIONS} dimensions"
        raise InvalidRequest(f"inputs[{at}].shape: expected {expected}, got {len(tensor.shape)}", _NO_REQUEST)
    for size in tensor.shape:
        if not -1 <= size <= _LARGEST_SIZE:
            expected = "sizes from 0 on, or -1 for one that follows from the data"
            raise InvalidRequest(f"inputs[{at}].shape: expected {expected}, got {size}", _NO_REQUEST)
    return tensor.data.form == "json"


def _without_data(inputs: Sequence[RequestInput]) -> InvalidRequest:
    at = next(at for at, tensor in enumerate(inputs) if tensor.data.form != "json")
    parameters = inputs[at].parameters
    hint = ""
    if parameters is not None and "binary_data_size" in parameters:
        hint = "; for data behind the JSON, send the header Inference-Header-Content-Length"
    return InvalidRequest(f"inputs[{at}].data: missing{hint}", _NO_REQUEST)


def _attach(inputs: Sequence[RequestInput], rest: memoryview) -> None:
    """Gives each input with `binary_data_size` its part of the bytes after the JSON; they must come out even."""
    start = 0
    for at, tensor in enumerate(inputs):
        parameters = tensor.parameters
        size = None if parameters is None else dict.pop(parameters, "binary_data_size", None)
        has_text = tensor.data.form == "json"
        place = f"inputs[{at}].parameters.binary_data_size"
        if size is None:
            if not has_text:
                raise InvalidRequest(f"inputs[{at}]: has neither data nor parameters.binary_data_size", _NO_REQUEST)
            continue
        if has_text:
            raise InvalidRequest(f"{place}: expected no such parameter beside data", _NO_REQUEST)
        if size.__class__ is not int or size < 0:
            raise InvalidRequest(f"{place}: expected a number of bytes, got {_shown(size)}", _NO_REQUEST)
        if size > len(rest) - start:
            raise InvalidRequest(f"{place}: {size} bytes, but only {len(rest) - start} are left in the body")
        _check_size(tensor, size, place)
        tensor.data = TensorData.from_raw(rest[start : start + size], tensor.datatype, tensor.shape)
        start += size
    if start != len(rest):
        raise InvalidRequest(
            f"the body has {len(rest)} bytes after its JSON, but the inputs' binary_data_size add up to {start}"
        )


def _check_size(tensor: RequestInput, size: int, place: str) -> None:
    """Whether bytes, datatype and shape agree, as far as that shows without looking at the bytes."""
    if tensor.datatype == BYTES or -1 in tensor.shape:
        return
    count = math.prod(tensor.shape)
    needed = count * DTYPES[tensor.datatype].itemsize
    if needed != size:
        raise InvalidRequest(f"{place}: shape {tensor.shape} of {tensor.datatype} needs {needed} bytes, got {size}")


def _has_huge_exponent(text: Buffer) -> bool:
    """Whether something in the text looks like a number that no float can hold, such as 1e999."""
    if len(text) < 1024 or isinstance(text, memoryview):
        return _HUGE.search(text) is not None
    return _occurs(text, b"e", _HUGE_SMALL_E) or _occurs(text, b"E", _HUGE_LARGE_E)


def _occurs(text: bytes | bytearray, letter: bytes, pattern: re.Pattern[bytes]) -> bool:
    """`pattern.search(text)`, ten times as fast where most of a large text has no such letter."""
    at = text.find(letter)
    for _ in range(100):
        if at < 0:
            return False
        if pattern.match(text, at):
            return True
        at = text.find(letter, at + 1)
    return pattern.search(text, max(at, 0)) is not None


def _check_numbers(inputs: Sequence[RequestInput]) -> None:
    for at, tensor in enumerate(inputs):
        if tensor.data.form == "json":
            try:
                _check_value(tensor.data.payload)
            except _UNREADABLE as error:
                raise InvalidRequest(f"inputs[{at}].data: {error}") from None


def _shown(value: Any) -> str:
    text = _encode(value).decode()
    return text if len(text) <= 40 else f"{text[:40]}..."


def decode_index_request(body: Buffer) -> bool:
    """Whether a repository index shall list ready models only; no body is as good as `{}`."""
    if not len(body):
        return False
    try:
        return bool(_decode_index(body).ready)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$")
        place = place.rstrip("`").lstrip(".") or "the body"
        raise InvalidRequest(f"{place}: {what[:1].lower()}{what[1:]}", _NO_REQUEST) from None
    except _UNREADABLE as error:
        raise InvalidRequest(json_fault(body, error)) from None


class _Index(msgspec.Struct):
    ready: bool | None = None


_decode_index = msgspec.json.Decoder(_Index, strict=False).decode


# -- writing ----------------------------------------------------------------------------------------------------------


class _Head(msgspec.Struct, omit_defaults=True, gc=False):
    """A response but for its outputs; the order of the members is MLServer's."""

    model_name: str
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, Any] | None = None


class _Output(msgspec.Struct, omit_defaults=True, gc=False):
    """An output but for its data."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None


def encode_response(response: InferenceResponse, *, binary: bool = True) -> tuple[list[Buffer], int | None]:
    """The body in pieces, and the length of its JSON if binary tensors follow that, else None.

    Outputs whose data has the form "raw" go behind the JSON, unless `binary` is False. Large texts and buffers are
    the tensors' own, not copies: they must not change before they are sent.
    """
    head = _encode(_Head(response.model_name, response.model_version, response.id, response.parameters))
    pieces: list[Buffer] = [head[:-1], b',"outputs":[']
    blobs: list[Buffer] = []
    for at, output in enumerate(response.outputs):
        data = output.data
        if at:
            pieces.append(b",")
        if binary and data.form == "raw":
            blob = data.to_raw(output.datatype)
            blobs.append(blob)
            pieces.append(_around(output, len(blob)))
        else:
            pieces += (_around(output, None), data.to_json(output.datatype), b"}")
    pieces.append(b"]}")
    if not blobs:
        return _joined(pieces), None
    return _joined(pieces + blobs), sum(map(len, pieces))


def _joined(pieces: Sequence[Buffer]) -> list[Buffer]:
    """The same bytes in fewer pieces: what is small is joined with its neighbours."""
    chunks: list[Buffer] = []
    small: list[Buffer] = []
    for piece in pieces:
        if len(piece) <= _JOINED_BYTES:
            small.append(piece)
            continue
        if small:
            chunks.append(b"".join(small))
            small = []
        chunks.append(piece)
    if small:
        chunks.append(b"".join(small))
    return chunks


def _around(output: ResponseOutput, binary_size: int | None) -> bytes:
    """The JSON of an output up to its data; all of it if the data is binary."""
    parameters: dict[str, Any] | None = output.parameters
    if binary_size is not None:
        return _encode(
            _Output(output.name, output.shape, output.datatype, {**(parameters or {}), "binary_data_size": binary_size})
        )
    return _encode(_Output(output.name, output.shape, output.datatype, parameters))[:-1] + b',"data":'


def encode_json(value: Any) -> bytes:
    """JSON of metadata, indexes and errors; members that are None are left out.

    Lone surrogates, which UTF-8 cannot hold, become question marks.
    """
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _encode(_encodable(msgspec.to_builtins(value, enc_hook=json_hook)))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, list):
        return [_encodable(one) for one in value]
    if isinstance(value, dict):
        return {_encodable(key): _encodable(one) for key, one in value.items()}
    return value
