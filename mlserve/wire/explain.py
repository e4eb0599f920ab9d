"""Says what is wrong with a JSON body that is no inference request: the place, what was expected there, what came.

Only ever called with a body that was refused already, so it may be slow; but it must not do more work than reading
the body once, whatever is in it: values are looked at as text, and tensors' data not at all.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from mlserve.datatypes import DTYPES

__all__ = ["json_fault", "request_fault"]

_SHOWN_BYTES = 40
_DEEP = "the body: nested too deep"

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_size = msgspec.json.Decoder(int, strict=False).decode


class _Fault(Exception):
    """The first thing that is wrong."""


def json_fault(text: Any, error: BaseException) -> str:
    """The message for a body that msgspec (or Python) could not read as JSON."""
    if isinstance(error, RecursionError):
        return _DEEP
    if isinstance(error, UnicodeDecodeError):
        return f"the body is not valid UTF-8: {error.reason} at byte {error.start}"
    if not len(text):
        return 'the body is empty: expected a JSON object {"inputs": [...]}'
    if bytes(text[:3]) == b"\xef\xbb\xbf":
        return "the body is not valid JSON: it starts with a byte order mark, which JSON does not allow"
    reason = str(error).removeprefix("JSON is malformed: ")
    return f"the body is not valid JSON: {reason[:1].lower()}{reason[1:]}{_line_of(text, reason)}"


def _line_of(text: Any, reason: str) -> str:
    """The place as line and column too, where the text has several lines."""
    _, found, place = reason.rpartition("(byte ")
    if not found:
        return ""
    before = bytes(text[: int(place.rstrip(")"))])
    line, column = before.count(b"\n"), len(before) - before.rfind(b"\n")
    return f", line {line + 1}, column {column}" if line else ""


def request_fault(text: Any, error: BaseException) -> str:
    """The message for valid JSON that is no inference request; the decoder's own words where nothing is found."""
    try:
        _request(text)
    except _Fault as fault:
        return str(fault)
    return f"the body is no inference request: {error}"


def _request(text: Any) -> None:
    request = _object("the body", text)
    _text("id", request.get("id"), needed=False)
    _parameters("parameters", request.get("parameters"))
    if "inputs" not in request:
        have = ", ".join(list(request)[:8]) or "nothing"
        raise _Fault(f"inputs: missing; a request needs a list of input tensors, this one has {have}")
    for at, one in enumerate(_list("inputs", request["inputs"], "a list of input tensors")):
        _input(f"inputs[{at}]", one)
    outputs = request.get("outputs")
    if outputs is not None and not _is_null(outputs):
        for at, one in enumerate(_list("outputs", outputs, "a list of requested outputs")):
            output = _object(f"outputs[{at}]", one)
            _text(f"outputs[{at}].name", output.get("name"))
            _parameters(f"outputs[{at}].parameters", output.get("parameters"))


def _input(place: str, text: Any) -> None:
    tensor = _object(place, text)
    _text(f"{place}.name", tensor.get("name"))
    expected = "a list of whole numbers"
    shape = tensor.get("shape")
    if shape is None:
        raise _Fault(f"{place}.shape: missing; expected {expected}")
    for size in _list(f"{place}.shape", shape, expected):
        try:
            _size(size)
        except msgspec.DecodeError:
            raise _expected(f"{place}.shape", expected, size) from None
    _text(f"{place}.datatype", tensor.get("datatype"))
    if _value(tensor["datatype"]) not in DTYPES:
        raise _expected(f"{place}.datatype", f"one of {', '.join(DTYPES)}", tensor["datatype"])
    _parameters(f"{place}.parameters", tensor.get("parameters"))


def _parameters(place: str, text: Any) -> None:
    if text is None or _is_null(text):
        return
    members = _object(place, text)
    _text(f"{place}.content_type", members.get("content_type"), needed=False)
    headers = members.get("headers")
    if headers is not None and not _is_null(headers):
        _object(f"{place}.headers", headers)


def _object(place: str, text: Any) -> dict[str, Any]:
    if _first(text) != b"{":
        raise _expected(place, "an object {...}", text)
    return _members(text)


def _list(place: str, text: Any, expected: str) -> list[Any]:
    if _first(text) != b"[":
        raise _expected(place, expected, text)
    return _items(text)


def _text(place: str, text: Any, *, needed: bool = True) -> None:
    if text is None:
        if needed:
            raise _Fault(f"{place}: missing; expected a text")
        return
    if _first(text) != b'"' and (needed or not _is_null(text)):
        raise _expected(place, "a text", text)


def _expected(place: str, expected: str, text: Any) -> _Fault:
    shown = bytes(text[: _SHOWN_BYTES * 4] if isinstance(text, bytes | bytearray | memoryview) else text)
    short = shown.decode("utf-8", "replace").strip()
    if len(short) > _SHOWN_BYTES:
        short = f"{short[:_SHOWN_BYTES]}..."
    return _Fault(f"{place}: expected {expected}, got {short}")


_VISIBLE = re.compile(rb"\S")


def _first(text: Any) -> bytes:
    found = _VISIBLE.search(memoryview(text))
    return b"" if found is None else found.group()


def _is_null(text: Any) -> bool:
    return _first(text) == b"n"


def _value(text: Any) -> Any:
    return msgspec.json.decode(text)
