"""Which inputs and outputs of an ONNX file have a shape: ONNX Runtime shows a scalar like one of unknown dimensions."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

__all__ = ["names_with_shape"]

# Numbers of the fields in onnx.proto3.
_GRAPH, _INPUT, _OUTPUT = 7, 11, 12  # of a ModelProto; of its GraphProto
_NAME, _TYPE = 1, 2  # of a ValueInfoProto
_TENSOR, _SHAPE = 1, 2  # of a TypeProto; of its Tensor


def names_with_shape(path: str) -> frozenset[str]:
    """The names; none for a file of another form, such as ONNX Runtime's own."""
    try:
        with open(path, "rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))  # weights are skipped unread
        return frozenset(_names(content))
    except (ValueError, IndexError):
        return frozenset()


def _names(content: memoryview) -> Iterator[str]:
    for graph in _fields(content, _GRAPH):
        for info in (*_fields(graph, _INPUT), *_fields(graph, _OUTPUT)):
            tensors = [tensor for kind in _fields(info, _TYPE) for tensor in _fields(kind, _TENSOR)]
            if any(True for tensor in tensors for _ in _fields(tensor, _SHAPE)):
                yield from (bytes(name).decode() for name in _fields(info, _NAME))


def _fields(content: memoryview, wanted: int) -> Iterator[memoryview]:
    """The fields of this number, in the encoding of Protocol Buffers. IndexError or ValueError if it is not that."""
    at = 0
    while at < len(content):
        key, at = _number(content, at)
        number, kind = key >> 3, key & 7
        if kind == 2:
            size, at = _number(content, at)
            if number == wanted:
                yield content[at : at + size]
            at += size
        elif kind == 0:
            _, at = _number(content, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"no field is of kind {kind}")


def _number(content: memoryview, at: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    value = shift = 0
    while True:
        octet = content[at]
        value |= (octet & 127) << shift
        at, shift = at + 1, shift + 7
        if octet < 128:
            return value, at
