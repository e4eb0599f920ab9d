"""ModelInferRequest and ModelInferResponse as bytes, to and from the types of `mlserve.types`.

upb parses what is small: names, shapes, parameters. Tensor values it does not see: raw contents of large messages are
cut out of them beforehand, as views, and typed contents are declared as bytes in the descriptor (`wire.schema`).
Messages that are written are lists of chunks, tensors among them as they are, so that nothing large is joined here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from mlserve.datatypes import BYTES
from mlserve.errors import CodecError, InvalidRequest, ModelError
from mlserve.tensors import TensorData
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)
from mlserve.wire.contents import check_contents
from mlserve.wire.parameters import sendable
from mlserve.wire.protowire import Chunk, field, read_varint, split_fields
from mlserve.wire.raw_data import check_raw
from mlserve.wire.schema import hot_class

__all__ = ["Decoded", "decode_request", "decode_response", "encode_request", "encode_response", "stream_answer"]

_Request = hot_class("ModelInferRequest")
_Response = hot_class("ModelInferResponse")
_InputTensor = hot_class("ModelInferRequest.InferInputTensor")
_OutputTensor = hot_class("ModelInferResponse.InferOutputTensor")

# Field numbers, see protos/dataplane.proto.
_REQUEST_INPUTS, _REQUEST_RAW = 5, 7
_RESPONSE_OUTPUTS, _RESPONSE_RAW = 5, 6
_CONTENTS = 5
_STREAM_ERROR, _STREAM_RESPONSE = 1, 2

# Messages up to this size are given to upb whole: copying their tensors costs less than looking for them.
_SMALL_BYTES = 32 * 1024
# Some 60 ms of the event loop each.
_MOST_TENSORS = 10_000
_MOST_PARAMETERS = 50_000
# Elements of larger BYTES tensors are counted where they are decoded, one by one, and not on the event loop.
_COUNTED_BYTES = 256 * 1024


class Decoded(NamedTuple):
    """A request, the model it is for, and the form in which its client reads answers: "raw" or "contents"."""

    request: InferenceRequest
    model_name: str
    model_version: str  # as it came: "" without one, which is how MLServer's metrics label such calls
    form: str


def decode_request(data: bytes | memoryview, headers: dict[str, str | bytes] | None = None) -> Decoded:
    """The request of a serialised ModelInferRequest; large tensors are views of `data`.

    `headers` become `parameters.headers`. InvalidRequest says which input is wrong: no or surplus data, values that
    do not fit the shape, an unknown datatype.
    """
    message, contents, raw = _parse(_Request, data, _REQUEST_INPUTS, _REQUEST_RAW)
    if len(data) > _SMALL_BYTES:
        _check_counts(message)
    parameters = _read_parameters(message.parameters, "parameters")
    if headers is not None:
        parameters = Parameters() if parameters is None else parameters
        parameters.headers = headers
    request = InferenceRequest(
        id=message.id or None,
        parameters=parameters,
        inputs=_inputs(message.inputs, contents, raw),
        outputs=[
            RequestOutput(name=one.name, parameters=_read_parameters(one.parameters, "outputs[{}].parameters", at))
            for at, one in enumerate(message.outputs)
        ]
        or None,
    )
    # A request without inputs shows no form; tritonclient sends it so, and reads raw answers only.
    form = "raw" if raw or not request.inputs else "contents"
    return Decoded(request, message.model_name, message.model_version, form)


def decode_response(data: bytes | memoryview) -> InferenceResponse:
    """The response of a serialised ModelInferResponse; large tensors are views of `data`."""
    message, contents, raw = _parse(_Response, data, _RESPONSE_OUTPUTS, _RESPONSE_RAW)
    rest = iter(raw)
    outputs = []
    for at, one in enumerate(message.outputs):
        shape = list(one.shape)
        typed = contents.get(at) or one.contents
        payload = None if typed else next(rest, None)
        if payload is None:
            tensor = TensorData.from_contents(typed, one.datatype, shape)
        else:
            tensor = TensorData.from_raw(payload, one.datatype, shape)
        parameters = _read_parameters(one.parameters)
        outputs.append(
            ResponseOutput(name=one.name, shape=shape, datatype=one.datatype, parameters=parameters, data=tensor)
        )
    return InferenceResponse(
        model_name=message.model_name,
        model_version=message.model_version or None,
        id=message.id or None,
        parameters=_read_parameters(message.parameters),
        outputs=outputs,
    )


def encode_request(
    request: InferenceRequest, model_name: str, model_version: str | None = None, *, raw: bool = False
) -> list[Chunk]:
    """The chunks of a ModelInferRequest. Raw contents are also taken where an input is FP16, which needs them."""
    message = _Request(model_name=model_name, model_version=model_version or "", id=request.id or "")
    _write_parameters(message.parameters, request.parameters)
    for one in request.outputs or ():
        _write_parameters(message.outputs.add(name=one.name).parameters, one.parameters)
    chunks: list[Chunk] = [message.SerializeToString()]
    return chunks + _tensors(_InputTensor, request.inputs, raw, _REQUEST_INPUTS, _REQUEST_RAW)


def encode_response(response: InferenceResponse, form: str = "contents") -> list[Chunk]:
    """The chunks of a ModelInferResponse, its outputs all in `form`; raw ones also where an output is FP16.

    `parameters.headers` are left out: they travel as metadata of the call. ModelError if an output's data is not what
    its datatype says: that is not the client's fault.
    """
    message = _Response(
        model_name=response.model_name, model_version=response.model_version or "", id=response.id or ""
    )
    _write_parameters(message.parameters, response.parameters)
    chunks: list[Chunk] = [message.SerializeToString()]
    try:
        return chunks + _tensors(_OutputTensor, response.outputs, form == "raw", _RESPONSE_OUTPUTS, _RESPONSE_RAW)
    except CodecError as error:
        raise ModelError(f"the answer of model '{response.model_name}' cannot be sent: {error}") from error


def stream_answer(response: Sequence[Chunk], error: str = "") -> list[Chunk]:
    """The chunks of Triton's ModelStreamInferResponse around those of a ModelInferResponse."""
    size = sum(map(len, response))
    chunks: list[Chunk] = []
    if error:
        text = error.encode("utf-8", "replace")
        chunks += [field(_STREAM_ERROR, len(text)), text]
    return [*chunks, field(_STREAM_RESPONSE, size), *response]


def _parse(
    kind: Any, data: bytes | memoryview, tensors: int, raw: int
) -> tuple[Any, Mapping[int, memoryview], Sequence[Chunk]]:
    """The parsed message without its large tensors, their typed contents by place, and all raw contents."""
    contents: dict[int, memoryview] = {}
    try:
        found = _cut(memoryview(data), tensors, raw, contents) if len(data) > _SMALL_BYTES else None
        if found is None:
            message = kind.FromString(data)
            return message, contents, message.raw_input_contents if kind is _Request else message.raw_output_contents
        return kind.FromString(found[0]), contents, found[1]
    except (DecodeError, ValueError) as error:
        raise InvalidRequest(f"the message is no {kind.DESCRIPTOR.name}: {error}") from None


def _cut(view: memoryview, tensors: int, raw: int, contents: dict[int, memoryview]) -> tuple[bytes, list[Chunk]] | None:
    """The message without raw contents and large typed contents, and the raw contents. ValueError if it is broken.

    None if the message has so many small fields that upb is the better one to read it.
    """
    split = split_fields(view, raw)
    if split is None:
        return None
    rest, raws = split
    if sum(map(len, rest)) <= _SMALL_BYTES:
        return b"".join(rest), list(raws)
    head: list[Chunk] = []
    at = -1
    for piece in rest:
        if piece[0] != tensors << 3 | 2:
            head.append(piece)
            continue
        at += 1
        if len(piece) <= _SMALL_BYTES:
            head.append(piece)
            continue
        _, start = read_varint(piece, 1)
        inner = split_fields(piece[start:], _CONTENTS)
        if inner is None or len(inner[1]) != 1:  # Several are merged by upb's rules, not by ours.
            head.append(piece)
            continue
        contents[at] = inner[1][0]
        head += [field(tensors, sum(map(len, inner[0]))), *inner[0]]
    return b"".join(head), list(raws)


def _check_counts(message: Any) -> None:
    """InvalidRequest for a request that would hold the event loop up for long: its parts are read one by one."""
    tensors = len(message.inputs) + len(message.outputs)
    if tensors > _MOST_TENSORS:
        raise InvalidRequest(f"the message has {tensors} inputs and outputs; over gRPC it may have {_MOST_TENSORS}")
    parameters = len(message.parameters) + sum(len(one.parameters) for one in (*message.inputs, *message.outputs))
    if parameters > _MOST_PARAMETERS:
        raise InvalidRequest(f"the message has {parameters} parameters; over gRPC it may have {_MOST_PARAMETERS}")


def _inputs(tensors: Sequence[Any], contents: Mapping[int, memoryview], raw: Sequence[Chunk]) -> list[RequestInput]:
    """The inputs with their data: their own contents or, without any, the next of the raw ones."""
    inputs, used, given = [], 0, len(raw)
    for at, one in enumerate(tensors):
        shape, datatype = list(one.shape), one.datatype
        typed = contents.get(at) or one.contents
        try:
            if typed or used == given:
                _check_typed(typed, datatype, shape)
                data = TensorData.from_contents(typed, datatype, shape)
            else:
                payload = raw[used]
                used += 1
                _check_raw(payload, datatype, shape)
                data = TensorData.from_raw(payload, datatype, shape)
        except InvalidRequest as error:
            raise type(error)(f"inputs[{at}] '{one.name}': {error}") from None
        parameters = _read_parameters(one.parameters, "inputs[{}].parameters", at)
        inputs.append(RequestInput(name=one.name, shape=shape, datatype=datatype, parameters=parameters, data=data))
    if used != given:
        raise InvalidRequest(f"raw_input_contents has {given} tensors, but {used} of the inputs are without contents")
    return inputs


def _check_typed(buffer: Chunk, datatype: str, shape: list[int]) -> None:
    """InvalidRequest unless typed contents are whole and as many as the shape says.

    Not so for BYTES: MLServer's documentation sends one text in a shape of its length.
    """
    if datatype == BYTES and len(buffer) > _COUNTED_BYTES:
        return
    try:
        check_contents(buffer, datatype, shape)
    except CodecError:
        if datatype != BYTES or not buffer or min(shape) < -1:
            raise


def _check_raw(buffer: Chunk, datatype: str, shape: list[int]) -> None:
    if datatype != BYTES or len(buffer) <= _COUNTED_BYTES:
        check_raw(buffer, datatype, shape)


def _tensors(
    kind: Any, tensors: Iterable[RequestInput | ResponseOutput], raw: bool, number: int, raw_number: int
) -> list[Chunk]:
    """The chunks of the tensors, and of their raw contents after all of them."""
    tensors = list(tensors)
    raw = raw or any(one.datatype == "FP16" for one in tensors)
    chunks: list[Chunk] = []
    payloads: list[Chunk] = []
    for one in tensors:
        datatype = one.datatype
        message = kind(name=one.name, datatype=str(datatype), shape=one.shape)
        _write_parameters(message.parameters, one.parameters)
        body = message.SerializeToString()
        payload = one.data.to_raw(datatype) if raw else one.data.to_contents(datatype)
        # Raw tensors have empty contents, as MLServer's have.
        inner = field(_CONTENTS, 0 if raw else len(payload))
        size = len(body) + len(inner) + (0 if raw else len(payload))
        chunks.append(b"".join((field(number, size), body, inner)))
        (payloads if raw else chunks).append(payload)
    for payload in payloads:
        chunks += [field(raw_number, len(payload)), payload]
    return chunks


def _read_parameters(values: Any, place: str | None = None, at: int = 0) -> Parameters | None:
    """Parameters of a map of InferParameter; None for an empty one. Values of no kind are left out.

    With `place`, those of a request: InvalidRequest if the content type is no text.
    """
    if not values:
        return None
    found = Parameters()
    for key, value in values.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is not None:
            found[key] = made = getattr(value, kind)
            if kind != "string_param" and key == "content_type" and place is not None:
                raise InvalidRequest(f"{place.format(at)}.content_type: expected a text, got {made!r}")
    return found


def _write_parameters(target: Any, parameters: Parameters | None) -> None:
    """Fills a map of InferParameter. None, lists and dicts have no form here and are left out, headers too."""
    if parameters is None:
        return
    for key, value in dict.items(parameters):
        if key == "headers":
            continue
        if isinstance(value, str):
            target[key].string_param = value
        elif isinstance(value, bool):
            target[key].bool_param = value
        elif isinstance(value, int):
            _write_int(target[key], value)
        elif isinstance(value, float):
            target[key].double_param = value
        elif not isinstance(value, list | tuple | dict):
            (plain,) = (sendable(Parameters({key: value})) or {}).values()
            if not isinstance(plain, list | dict):
                _write_parameters(target, Parameters({key: plain}))


def _write_int(parameter: Any, value: int) -> None:
    if -(1 << 63) <= value < 1 << 63:
        parameter.int64_param = value
    elif 0 <= value < 1 << 64:
        parameter.uint64_param = value
    else:
        parameter.string_param = str(value)
