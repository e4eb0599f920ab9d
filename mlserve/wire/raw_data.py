"""A tensor in the V2 binary form: little-endian and row-major; BYTES with a 4-byte length before each element."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any

import numpy as np

from mlserve.datatypes import BYTES, Array, check_count, numpy_dtype
from mlserve.errors import CodecError

__all__ = [
    "Buffer",
    "aligned",
    "bools",
    "check_raw",
    "elements_from_raw",
    "encoded",
    "numbers_from_raw",
    "numbers_to_raw",
    "raw_from_elements",
]

Buffer = bytes | bytearray | memoryview

_LENGTH = Struct("<I")
_pack_length = _LENGTH.pack
_read_length = _LENGTH.unpack_from


def check_raw(buffer: Buffer, datatype: str, shape: Sequence[int]) -> None:
    """CodecError unless the buffer holds just what datatype and shape say; copies nothing."""
    if datatype == BYTES:
        check_count(shape, len(_spans(memoryview(buffer))))
        return
    size, item = memoryview(buffer).nbytes, numpy_dtype(datatype).itemsize
    try:
        if size % item == 0:
            check_count(shape, size // item)
            return
    except CodecError as error:
        raise CodecError(f"{error} ({size} bytes of {datatype})") from None
    raise CodecError(f"{size} bytes are no whole number of {datatype} values, which have {item} bytes each")


def numbers_from_raw(buffer: Buffer, datatype: str) -> Array:
    """A flat array that views the buffer; copied only where the bytes lie at an odd address or a BOOL is neither 0
    nor 1."""
    dtype = numpy_dtype(datatype)
    size = memoryview(buffer).nbytes
    if not size:
        return np.empty(0, dtype)
    if size % dtype.itemsize:
        raise CodecError(f"{size} bytes are no whole number of {datatype} values, which have {dtype.itemsize} each")
    if datatype == "BOOL":
        return bools(np.frombuffer(buffer, np.uint8))
    return aligned(np.frombuffer(buffer, dtype))


def aligned(array: Array) -> Array:
    """The array, copied if its items lie at odd addresses: C extensions may refuse those, or crash on them."""
    return array if array.flags.aligned else array.copy()


def bools(numbers: Array) -> Array:
    """True for each number that is not 0; a view of bytes that are 0 or 1."""
    if numbers.dtype == np.uint8 and numbers.max() <= 1:
        return numbers.view(np.bool_)
    return numbers.astype(np.bool_)


def numbers_to_raw(array: Array) -> bytes | memoryview:
    """The bytes of an array of a protocol datatype; a view of it where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b""


def elements_from_raw(buffer: Buffer) -> list[bytes]:
    """The elements of a BYTES tensor; CodecError if a length runs over the end."""
    whole = bytes(buffer)
    return [whole[start:end] for start, end in _spans(memoryview(whole))]


def raw_from_elements(elements: Sequence[Any]) -> bytes:
    """The V2 form of text and bytes; text becomes UTF-8. CodecError for None, which has no form here."""
    parts: list[bytes] = []
    for data in encoded(elements):
        parts += (_pack_length(len(data)), data)
    return b"".join(parts)


def encoded(elements: Sequence[Any]) -> list[bytes]:
    """The elements of a BYTES tensor as bytes."""
    return [one if type(one) is bytes else _element_bytes(one, at) for at, one in enumerate(elements)]


def _element_bytes(one: Any, at: int) -> bytes:
    if isinstance(one, str):
        try:
            return one.encode()
        except UnicodeEncodeError as error:
            raise CodecError(f"data[{at}]: the text has no UTF-8 form ({error.reason})") from None
    if isinstance(one, bytes):
        return bytes(one)
    if one is None:
        raise CodecError(f"data[{at}]: null has no binary form; BYTES has strings")
    raise CodecError(
        f"data[{at}]: {repr(one)[:40]} has no binary form; BYTES has strings, and other values only in JSON: ask over "
        "REST, or make it text (json.dumps)"
    )


def _spans(view: memoryview) -> list[tuple[int, int]]:
    """Start and end of each element of a BYTES tensor."""
    if view.format != "B" or view.ndim != 1:
        view = view.cast("B")
    spans: list[tuple[int, int]] = []
    at, size = 0, len(view)
    while at < size:
        start = at + 4
        if start > size:
            raise CodecError(f"BYTES element {len(spans)}: {size - at} bytes are left, too few for its length")
        at = start + _read_length(view, at)[0]
        if at > size:
            raise CodecError(
                f"BYTES element {len(spans)} has a length of {at - start} bytes, but {size - start} are left"
            )
        spans.append((start, at))
    return spans
