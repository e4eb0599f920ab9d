"""Requests that the server passes on unread: reading them would hold its event loop up, so their worker does it.

A sealed request has one input whose data, of the form "body", is all that came. Its id and the headers in its
parameters are the server's; `open_sealed` puts them into what it finds in the body. It runs alone, since nobody knows
yet what could run with it.
"""

from __future__ import annotations

from typing import Any

from mlserve.cloudevents import event_ids
from mlserve.errors import InvalidRequest
from mlserve.frames import Message
from mlserve.nesting import MOST_LEVELS, is_too_deep
from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, Parameters, RequestInput
from mlserve.wire.v2json import Buffer, decode_request

__all__ = ["is_sealed", "open_sealed", "read_or_seal"]

# Read in some 20 ms at most (bench/large_json.py). Counted are names with a value, of which an input has four and more
# and a parameter one, lists and objects; a tensor's data is one list, or as many as it has rows.
READ_HERE_BYTES = 4 << 20
READ_HERE_PARTS = 20_000


def read_or_seal(body: Buffer, header_length: int | None) -> InferenceRequest:
    """The request in a body, or one that is still sealed if reading it would take long. As `decode_request`."""
    if _is_costly(body, header_length):
        parameters = None if header_length is None else Parameters(header_length=header_length)
        whole = RequestInput(
            name="", shape=[], datatype="BYTES", parameters=parameters, data=TensorData.from_body(body)
        )
        return InferenceRequest(inputs=[whole])
    return _read(body, header_length)


def _read(body: Buffer, header_length: int | None) -> InferenceRequest:
    request = decode_request(body, header_length)
    for owner in (request, *request.inputs, *(request.outputs or ())):
        if owner.parameters and is_too_deep(owner.parameters):
            raise InvalidRequest(f"the body: nested too deep, parameters may have {MOST_LEVELS} levels")
    return request


def _is_costly(body: Buffer, header_length: int | None) -> bool:
    size = len(body) if header_length is None else min(header_length, len(body))
    if size <= READ_HERE_PARTS or size > READ_HERE_BYTES:
        return size > READ_HERE_BYTES
    text = bytes(body) if isinstance(body, memoryview) else body
    return sum(text.count(mark, 0, size) for mark in (b":", b"[", b"{")) > READ_HERE_PARTS


def is_sealed(message: Message) -> bool:
    """Whether a message holds a request that nobody has read yet."""
    return len(message.parts) == 1 and message.parts[0].form == "body"


def open_sealed(message: Message, body: Any) -> InferenceRequest:
    """The request in a sealed one. InvalidRequest says what is wrong with it, as the server would."""
    outer = message.parameters or {}
    request = _read(memoryview(body), (message.parts[0].parameters or {}).get("header_length"))
    headers = dict(outer.get("headers") or {})
    if request.id is None:
        request.id = message.id
    else:
        headers |= event_ids(request.id)
    if request.parameters is None:
        request.parameters = Parameters()
    request.parameters.headers = headers
    return request
