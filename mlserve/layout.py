"""Requests and responses to and from frames: small tensors inside the frame, large ones side by side in one slot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from mlserve.arena import Hold, aligned
from mlserve.datatypes import BYTES, numpy_dtype
from mlserve.errors import CodecError
from mlserve.frames import INLINE_BYTES, Message, Part, SlotRef
from mlserve.sealed import is_sealed, open_sealed
from mlserve.tensors import TensorData
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)
from mlserve.wire.parameters import sendable

# Gives room of at least so many bytes in a slot, or None if there is none: then everything travels in the frame.
Lease = Callable[[int], "tuple[SlotRef, memoryview] | None"]
# Gives the owner of a slot's memory, through which views are made.
Find = Callable[[int], Hold]


def pack_request(request: InferenceRequest, lease: Lease) -> Message:
    """The request with its data in the form in which it came; Python objects become JSON text."""
    payloads = [_as_it_came(one.data, one.datatype) for one in request.inputs]
    parts, slot = _lay_out(request.inputs, payloads, lease, _plain)
    outputs = None
    if request.outputs is not None:
        outputs = [(one.name, _plain(one.parameters)) for one in request.outputs]
    return Message(parts, request.id, _plain(request.parameters), outputs, slot=slot)


def pack_response(response: InferenceResponse, forms: Sequence[str], lease: Lease) -> Message:
    """The response with the data of each output in the form that its transport wants."""
    payloads = [_in_form(one, form) for one, form in zip(response.outputs, forms)]
    parts, slot = _lay_out(response.outputs, payloads, lease, sendable)
    return Message(
        parts,
        response.id,
        sendable(response.parameters),
        None,
        response.model_name,
        response.model_version,
        slot,
    )


def unpack_request(message: Message, find: Find) -> InferenceRequest:
    """The request, its large tensors as views on the slot. InvalidRequest for one that came sealed and is none."""
    if is_sealed(message):
        part = message.parts[0]
        if part.data is not None:
            return open_sealed(message, part.data)
        assert message.slot is not None, "a part without data names a slot"
        return open_sealed(message, find(message.slot.number).view(part.offset, part.length))
    inputs = [
        RequestInput(
            name=part.name,
            shape=part.shape,
            datatype=part.datatype,
            parameters=_parameters(part.parameters),
            data=data,
        )
        for part, data in zip(message.parts, _data(message, find))
    ]
    outputs = None
    if message.outputs is not None:
        outputs = [RequestOutput(name=name, parameters=_parameters(values)) for name, values in message.outputs]
    return InferenceRequest(id=message.id, parameters=_parameters(message.parameters), inputs=inputs, outputs=outputs)


def unpack_response(message: Message, find: Find) -> InferenceResponse:
    """The response, its large tensors as views on the slot."""
    outputs = [
        ResponseOutput(
            name=part.name,
            shape=part.shape,
            datatype=part.datatype,
            parameters=_parameters(part.parameters),
            data=data,
        )
        for part, data in zip(message.parts, _data(message, find))
    ]
    return InferenceResponse(
        model_name=message.model_name,
        model_version=message.model_version,
        id=message.id,
        parameters=_parameters(message.parameters),
        outputs=outputs,
    )


def output_forms(request: InferenceRequest | None, response: InferenceResponse, form: str) -> list[str]:
    """The form in which each output shall travel: the transport's, unless the request asked for a binary one.

    "binary" is "raw", but "json" for what has no such form: null among texts or integers.
    """
    names = [one.name for one in response.outputs]
    if form == "contents" and any(one.datatype == "FP16" for one in response.outputs):
        return ["raw"] * len(names)  # typed contents have no field for it, and an answer is of one kind
    if form != "json" or request is None:
        return [form] * len(names)
    wanted = {}
    if request.outputs:
        wanted = {one.name: _flag(one.parameters, "binary_data") for one in request.outputs}
    default = bool(_flag(request.parameters, "binary_data_output"))
    return ["binary" if _first(wanted.get(name), default) else "json" for name in names]


def _flag(parameters: Parameters | None, name: str) -> Any:
    return None if parameters is None else dict.get(parameters, name)


def _first(value: Any, default: bool) -> bool:
    return default if value is None else bool(value)


def _as_it_came(data: TensorData, datatype: str) -> tuple[str, Any]:
    form = data.form
    return ("json", data.to_json(datatype)) if form == "object" else (form, data.payload)


def _in_form(output: ResponseOutput, form: str) -> tuple[str, Any]:
    if form == "json":
        return "json", output.data.to_json(output.datatype)
    if form == "contents":
        return "contents", output.data.to_contents(output.datatype)
    try:
        payload = output.data.to_raw(output.datatype)
    except CodecError:
        if form == "binary" and _has_null(output):  # an answer may have tensors of both kinds, and JSON can say it
            return "json", output.data.to_json(output.datatype)
        raise
    _check_length(output, payload)
    return "raw", payload


def _has_null(output: ResponseOutput) -> bool:
    """Whether values are missing where only floating point has binary ones for them; of texts it is taken to be so."""
    return output.datatype == BYTES or any(one is None for one in output.data.listed or ())


def _check_length(output: ResponseOutput, payload: Any) -> None:
    """CodecError unless the bytes are as many as datatype and shape say: nobody could read them otherwise."""
    if output.datatype == BYTES:
        return
    needed = math.prod(output.shape) * numpy_dtype(output.datatype).itemsize
    if needed != len(payload):
        raise CodecError(
            f"output '{output.name}': shape {output.shape} of {output.datatype!s} needs {needed} bytes, "
            f"got {len(payload)}"
        )


def _lay_out(
    tensors: Sequence[RequestInput] | Sequence[ResponseOutput],
    payloads: list[tuple[str, Any]],
    lease: Lease,
    plain: Callable[[Parameters | None], dict[str, Any] | None],
) -> tuple[list[Part], SlotRef | None]:
    """Parts for the tensors; those over INLINE_BYTES are written to one slot, each aligned."""
    views = [memoryview(payload) for _, payload in payloads]
    large = sum(aligned(view.nbytes) for view in views if view.nbytes > INLINE_BYTES)
    room = lease(large) if large else None
    offset = 0
    parts = []
    for tensor, (form, payload), view in zip(tensors, payloads, views):
        part = Part(tensor.name, tensor.datatype, tensor.shape, form, parameters=plain(tensor.parameters))
        if room is None or view.nbytes <= INLINE_BYTES:
            part.data = payload if type(payload) is bytes else bytes(view)
        else:
            part.offset, part.length = offset, view.nbytes
            room[1][offset : offset + view.nbytes] = view.cast("B")
            offset += aligned(view.nbytes)
        parts.append(part)
    return parts, room[0] if room is not None else None


def _data(message: Message, find: Find) -> list[TensorData]:
    hold = find(message.slot.number) if message.slot is not None else None
    return [_tensor(part, hold) for part in message.parts]


def _tensor(part: Part, hold: Hold | None) -> TensorData:
    payload: Any = part.data
    if payload is None:
        assert hold is not None, "a part without data names a slot"
        payload = hold.view(part.offset, part.length)
    if part.form == "json":
        return TensorData.from_json(payload)
    if part.form == "raw":
        return TensorData.from_raw(payload, part.datatype, part.shape)
    return TensorData.from_contents(payload, part.datatype, part.shape)


def _plain(parameters: Parameters | None) -> dict[str, Any] | None:
    return None if parameters is None else {**parameters}


def _parameters(values: dict[str, Any] | None) -> Parameters | None:
    return None if values is None else Parameters(**values)
