"""A tensor in gRPC's typed form: a serialised InferTensorContents, to and from numpy, without a protobuf library.

upb would make a Python object of every value. Numbers travel packed (one field, all values), so that fixed-size
types are a view of the message and varints are read by numpy, all at once; unpacked and repeated fields, which the
protobuf encoding allows too, are read as well. Field numbers: `protos/`, message InferTensorContents. Encoding:
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlserve.datatypes import BYTES, INT_RANGES, Array, check_count, does_not_fit, numpy_dtype
from mlserve.errors import CodecError, InvalidRequest
from mlserve.wire.raw_data import Buffer, aligned, bools, encoded, numbers_to_raw

__all__ = [
    "check_contents",
    "contents_from_elements",
    "contents_from_numbers",
    "elements_from_contents",
    "numbers_from_contents",
]

_NAMES = {
    1: "bool_contents",
    2: "int_contents",
    3: "int64_contents",
    4: "uint_contents",
    5: "uint64_contents",
    6: "fp32_contents",
    7: "fp64_contents",
    8: "bytes_contents",
}
_FIELDS = {
    "BOOL": 1,
    "INT8": 2,
    "INT16": 2,
    "INT32": 2,
    "INT64": 3,
    "UINT8": 4,
    "UINT16": 4,
    "UINT32": 4,
    "UINT64": 5,
    "FP32": 6,
    "FP64": 7,
    "BYTES": 8,
}
_FIXED: dict[int, np.dtype[Any]] = {6: np.dtype("<f4"), 7: np.dtype("<f8")}
_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5  # Wire types.
_UNPACKED = {6: _I32, 7: _I64}  # Wire type of a value that is not packed; of the other fields: _VARINT.
_BYTES_TAG = 8 << 3 | _LEN
_TAG = bytes((_BYTES_TAG,))
_TAGS = [bytes((_BYTES_TAG, length)) for length in range(0x80)]  # With the length of a short element.
_SEVEN_BITS = np.uint64(0x7F)

# Where the values of one occurrence of a field lie in the message: start, end, and whether it is a single value.
Span = tuple[int, int, bool]


def check_contents(buffer: Buffer, datatype: str, shape: Sequence[int]) -> None:
    """InvalidRequest unless the message is well formed, fills the datatype's field alone, and has as many values as
    the shape.

    Copies nothing and does not look at the values, only at their number.
    """
    field = _field_of(datatype)
    view = _octets(buffer)
    spans = _spans(view, field, datatype)
    if field == _FIELDS[BYTES]:
        check_count(shape, len(spans))
    else:
        check_count(shape, sum(1 if single else _count(view[start:end], field) for start, end, single in spans))


def numbers_from_contents(buffer: Buffer, datatype: str) -> Array:
    """A flat array of the message's values.

    A view of the message where that is possible: values of fixed size (and BOOL and UINT8 below 128) that are packed
    in one field and lie at an even address. InvalidRequest for malformed messages, for values in another field than
    the datatype's, and for values that the datatype cannot hold.
    """
    field = _field_of(datatype)
    view = _octets(buffer)
    spans = _spans(view, field, datatype)
    if len(spans) == 1:
        start, end, _ = spans[0]
        packed = view[start:end]
    else:  # Put together, single values and packed ones are packed values.
        packed = memoryview(b"".join([view[start:end] for start, end, _ in spans]))
    if not len(packed):
        return np.empty(0, numpy_dtype(datatype))
    if field in _FIXED:
        _count(packed, field)
        return aligned(np.frombuffer(packed, _FIXED[field]))
    return _typed(_varint_values(packed, field), datatype)


def elements_from_contents(buffer: Buffer) -> list[bytes]:
    """The elements of a BYTES tensor."""
    whole = bytes(buffer)
    return [whole[start:end] for start, end, _ in _spans(memoryview(whole), _FIELDS[BYTES], BYTES)]


def contents_from_numbers(array: Array, datatype: str) -> bytes:
    """The message for an array of the datatype's numpy type; CodecError for FP16, which has no field."""
    field = _field_of(datatype)
    if not array.size:
        return b""
    packed = numbers_to_raw(array) if field in _FIXED or field == _FIELDS["BOOL"] else _varints(array.ravel())
    return b"".join((_varint(field << 3 | _LEN), _varint(len(packed)), packed))


def contents_from_elements(elements: Sequence[Any]) -> bytes:
    """The message for text and bytes."""
    parts: list[bytes] = []
    for data in encoded(elements):
        parts += (_TAGS[len(data)] if len(data) < 0x80 else _TAG + _varint(len(data)), data)
    return b"".join(parts)


def _field_of(datatype: str) -> int:
    field = _FIELDS.get(datatype)
    if field is None:
        numpy_dtype(datatype)  # Raises for a name that is no datatype at all.
        raise CodecError(f"{datatype} has no field in InferTensorContents; use raw contents")
    return field


def _octets(buffer: Buffer) -> memoryview:
    view = memoryview(buffer)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


# -- taking a message apart -------------------------------------------------------------------------------------------


def _spans(view: memoryview, field: int, datatype: str) -> list[Span]:
    """Where the field's values are. Unknown fields are passed over, as protobuf does."""
    spans: list[Span] = []
    at, size = 0, len(view)
    while at < size:
        if view[at] == _BYTES_TAG and at + 1 < size and view[at + 1] < 0x80:  # Short elements: most of many.
            number, wire, start = 8, _LEN, at + 2
            end = start + view[at + 1]
        else:
            number, wire, start, end = _step(view, at)
        if end > size:
            raise InvalidRequest(f"contents: field {number} runs {end - size} bytes over the end of the message")
        if number == field:
            if wire != _LEN and wire != _UNPACKED.get(field, _VARINT):
                raise InvalidRequest(f"contents: {_NAMES[field]} has wire type {wire}")
            if wire != _LEN and field == 8:
                raise InvalidRequest(f"contents: {_NAMES[field]} has wire type {wire}")
            spans.append((start, end, wire != _LEN))
        elif number in _NAMES and (end > start or number == 8):  # An empty packed field holds no value.
            raise InvalidRequest(f"contents: {datatype} belongs into {_NAMES[field]}, found {_NAMES[number]}")
        at = end
    return spans


def _step(view: memoryview, at: int) -> tuple[int, int, int, int]:
    """Number and wire type of the field that starts here, start and end of its value."""
    tag, start = _read_varint(view, at)
    number, wire = tag >> 3, tag & 7
    if not 0 < number < 1 << 29:
        raise InvalidRequest(f"contents: {number} is no field number")
    if wire == _LEN:
        length, start = _read_varint(view, start)
        return number, wire, start, start + length
    if wire == _VARINT:
        return number, wire, start, _read_varint(view, start)[1]
    if wire in (_I32, _I64):
        return number, wire, start, start + (4 if wire == _I32 else 8)
    raise InvalidRequest(f"contents: field {number} has wire type {wire}")


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    """The number that starts here, and where it ends."""
    value = shift = 0
    for place in range(at, min(at + 10, len(view))):
        octet = view[place]
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, place + 1
        shift += 7
    raise InvalidRequest("contents: a varint runs over the end of the message, or over 10 bytes")


def _count(packed: memoryview, field: int) -> int:
    """How many values are packed here."""
    size = len(packed)
    dtype = _FIXED.get(field)
    if dtype is not None:
        if size % dtype.itemsize:
            raise InvalidRequest(f"contents: {_NAMES[field]} has {size} bytes, no whole number of values")
        return size // dtype.itemsize
    if not size:
        return 0
    if packed[-1] >= 0x80:
        raise InvalidRequest(f"contents: {_NAMES[field]} ends within a value")
    return int(np.count_nonzero(np.frombuffer(packed, np.int8) >= 0))


# -- varints ----------------------------------------------------------------------------------------------------------


def _varint_values(packed: memoryview, field: int) -> Array:
    """Values of varints that lie one after the other: uint8 (a view) if each has one byte, else uint64."""
    octets = np.frombuffer(packed, np.uint8)
    if octets.max() < 0x80:
        return octets
    ends = np.flatnonzero(octets < 0x80)
    if not ends.size or ends[-1] != octets.size - 1:
        raise InvalidRequest(f"contents: {_NAMES[field]} ends within a value")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > 10:
        raise InvalidRequest(f"contents: {_NAMES[field]} has a value of {longest} bytes, varints have at most 10")
    values: Array = octets[starts].astype(np.uint64) & _SEVEN_BITS
    for place in range(1, longest):
        longer = np.flatnonzero(lengths > place)
        part = octets[starts[longer] + place].astype(np.uint64) & _SEVEN_BITS
        values[longer] |= part << np.uint64(7 * place)  # Bits past the 64th are cut, as protobuf does.
    return values


def _typed(values: Array, datatype: str) -> Array:
    """Values as read, as the datatype's numpy type."""
    dtype = numpy_dtype(datatype)
    if datatype == "BOOL":
        return bools(values)
    if values.dtype == np.uint8:  # 0 to 127, which every integer type holds.
        return values if datatype == "UINT8" else values.astype(dtype)
    if dtype.itemsize == 8:
        return values.view(dtype)
    # The field itself has 32 bits; protobuf cuts what is longer, and so does this, before the datatype's own range.
    cut: Array = values.astype(np.uint32)
    if dtype.kind == "i":
        cut = cut.view(np.int32)
    if dtype.itemsize < 4:
        low, high = INT_RANGES[datatype]
        wrong = np.flatnonzero((cut < low) | (cut > high))
        if wrong.size:
            raise CodecError(f"data[{wrong[0]}]: {int(cut[wrong[0]])} {does_not_fit(datatype)}")
    return cut.astype(dtype, copy=False)


def _varints(flat: Array) -> bytes:
    """Varints of integers; negative ones as 64-bit two's complement, ten bytes each."""
    values = flat.astype(np.int64).view(np.uint64) if flat.dtype.kind == "i" else flat.astype(np.uint64)
    width = -(-int(values.max()).bit_length() // 7)
    if width <= 1:
        return values.astype(np.uint8).tobytes()
    table = np.empty((values.size, width), np.uint8)  # Seven bits in each place, the lowest first,
    used = np.empty((values.size, width), np.bool_)  # and whether there is anything in this place or after it.
    for place in range(width):
        rest = values >> np.uint64(7 * place)
        table[:, place] = rest & _SEVEN_BITS
        used[:, place] = rest != 0
    used[:, 0] = True
    table[:, :-1] |= used[:, 1:].view(np.uint8) << 7
    return table[used].tobytes()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
