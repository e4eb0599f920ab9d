"""The few facts of the protobuf encoding that we need to move tensors past the protobuf library."""

from __future__ import annotations

__all__ = ["Chunk", "field", "read_varint", "split_fields"]

Chunk = bytes | bytearray | memoryview

_MANY_FIELDS = 4096
_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5


def field(number: int, size: int) -> bytes:
    """What stands before a submessage, text or bytes of this size. Numbers up to 15."""
    if size < 0x80:
        return bytes((number << 3 | _LEN, size))
    out = bytearray((number << 3 | _LEN,))
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


def read_varint(view: memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends. ValueError if it is cut or too long."""
    value = shift = 0
    for place in range(at, min(at + 10, len(view))):
        octet = view[place]
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, place + 1
        shift += 7
    raise ValueError("a number is cut or too long")


def split_fields(view: memoryview, wanted: int) -> tuple[list[memoryview], list[memoryview]] | None:
    """All fields but one, each with its tag, and the payloads of that one. Views; nothing is copied.

    ValueError if the message is broken. None if it has thousands of fields: a loop over them in Python would hold up
    the event loop.
    """
    rest: list[memoryview] = []
    found: list[memoryview] = []
    at, end = 0, len(view)
    for _ in range(_MANY_FIELDS):
        if at == end:
            return rest, found
        start = at
        tag, at = read_varint(view, at)
        kind = tag & 7
        body = at
        if kind == _LEN:
            size, body = read_varint(view, at)
            at = body + size
        elif kind == _VARINT:
            _, at = read_varint(view, at)
        elif kind == _I64:
            at += 8
        elif kind == _I32:
            at += 4
        else:
            raise ValueError(f"wire type {kind} in field {tag >> 3}")
        if at > end:
            raise ValueError(f"field {tag >> 3} runs {at - end} bytes over the end")
        if tag == wanted << 3 | _LEN:
            found.append(view[body:at])
        else:
            rest.append(view[start:at])
    return None
