"""The `data` member of a tensor as JSON text: to numpy and to Python values, and back.

Larger texts of plain numbers go through simdjson's `as_buffer`, which flattens nested lists, knows no type but
int64, uint64 and double, and refuses booleans, null and `1.0` as an integer. So the type is chosen by the datatype,
nesting is checked for raggedness, and whatever simdjson refuses takes the slow, exact way through Python values,
which also names the first value that does not fit.

What a value may be follows MLServer: whole floats, booleans and numbers in strings count as numbers; null is NaN
among floating-point numbers. What MLServer cuts or wraps silently (1.5 as an integer, 7 as a boolean) is an error.
"""

from __future__ import annotations

import datetime
import math
import re
import threading
from array import array as typed_array
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import orjson
import simdjson

from mlserve.datatypes import DTYPES, INT_RANGES, Array, cast, does_not_fit, numpy_dtype
from mlserve.errors import CodecError
from mlserve.wire.raw_data import Buffer, aligned

__all__ = [
    "check_utf8",
    "encodable",
    "flat_numbers",
    "flatten",
    "numbers_from_json",
    "numbers_from_values",
    "strings_from_values",
    "text_of_bytes",
    "to_json",
    "values_from_json",
]

# Up to here a Python list is quicker than simdjson's fixed cost (bench/tensors.py): some 64 numbers.
_SMALL_BYTES = 384
# Larger texts get a parser of their own, so that no thread keeps its tape (some ten times the text) for ever.
_KEPT_PARSER_BYTES = 4 << 20

# By datatype: the type code with which Python's array refuses, in C, what does not fit, and the numpy type of that.
_TYPED: dict[str, tuple[str, np.dtype[Any]]] = {
    "BOOL": ("B", np.dtype("u1")),
    "UINT8": ("B", np.dtype("u1")),
    "UINT16": ("H", np.dtype("u2")),
    "UINT32": ("I", np.dtype("u4")),
    "UINT64": ("Q", np.dtype("u8")),
    "INT8": ("b", np.dtype("i1")),
    "INT16": ("h", np.dtype("i2")),
    "INT32": ("i", np.dtype("i4")),
    "INT64": ("q", np.dtype("i8")),
    "FP16": ("d", np.dtype("f8")),
    "FP32": ("f", np.dtype("f4")),
    "FP64": ("d", np.dtype("f8")),
}
_BUFFER_DTYPES = {"d": np.dtype("f8"), "i": np.dtype("i8"), "u": np.dtype("u8")}
_NOT_BRACKETS = bytes(code for code in range(256) if code not in b"[],")
_LISTS = (list, tuple, np.ndarray)
_BYTES = (bytes, bytearray)
_STRINGS = (str, bytes)
_BEGINS_WITH_NUMBER = re.compile(rb"\s*\[\s*[-\d]")
_MARKS_OF_FLOATS = (b".", b"e", b"E")

# orjson 3.12 and 3.13 write past the end of their buffer when they serialise arrays of float64: the heap is corrupt
# afterwards (tests/test_tensors.py shows it with PYTHONMALLOC=debug). Lists and the other types of array are sound.
# Both end the process on texts of some 500 MB, of lists and arrays alike: large ones are written in pieces.
_FLOAT64_ARRAYS_ARE_SAFE = tuple(int(part) for part in orjson.__version__.split(".")[:2]) < (3, 12)

_PIECE_VALUES = 1 << 20

_decode = msgspec.json.Decoder().decode  # Keeps integers of any size exact, which orjson does not.
_local = threading.local()


# -- reading ----------------------------------------------------------------------------------------------------------


def values_from_json(text: Buffer) -> Any:
    """The JSON value as Python has it: lists, numbers, strings, None."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CodecError(f"data is not valid JSON: {error}") from None
    except RecursionError:
        raise CodecError("data is nested too deep") from None


def check_utf8(text: Buffer) -> None:
    """CodecError unless the text is UTF-8; msgspec's Raw does not look inside strings."""
    if isinstance(text, _BYTES):
        if text.isascii():
            return
    elif not len(text) or int(np.frombuffer(text, np.int8).min()) >= 0:
        return
    try:
        str(text, "utf-8")
    except UnicodeDecodeError as error:
        raise CodecError(f"data is not valid UTF-8: {error.reason} at byte {error.start}") from None


def numbers_from_json(text: Buffer, datatype: str) -> Array:
    """A flat, writeable array with the text's numbers; null is NaN for floating-point types.

    CodecError for ragged lists and for values that the datatype cannot hold, with the place of the first.
    """
    if len(text) > _SMALL_BYTES and datatype != "BOOL":
        found = _by_simdjson(text, datatype)
        if found is not None:
            return found
    return numbers_from_values(values_from_json(text), datatype)


def numbers_from_values(values: Any, datatype: str) -> Array:
    """A flat, writeable array of Python values: a number, or lists of them, nested evenly."""
    try:
        code, dtype = _TYPED[datatype]
    except KeyError:
        numpy_dtype(datatype)  # Raises for a name that is no datatype at all.
        raise CodecError(f"{datatype} has no numbers") from None
    flat = flatten(values)
    if not flat:
        return np.empty(0, DTYPES[datatype])
    try:
        found: Array = np.frombuffer(typed_array(code, flat), dtype)
    except (TypeError, ValueError, OverflowError):
        return _value_by_value(flat, datatype)
    if datatype == "BOOL":
        return found.view(np.bool_) if found.max() <= 1 else _value_by_value(flat, datatype)
    return cast(found, datatype) if datatype == "FP16" else found


def flat_numbers(text: Buffer) -> Array | None:
    """The array that numpy makes of the text's list, if that is one of nothing but integers of 64 bits, or numbers of
    which some have a point or an exponent; None for any other, and for texts so small that lists are quicker."""
    if len(text) <= _SMALL_BYTES or not _BEGINS_WITH_NUMBER.match(text):
        return None
    whole = text if isinstance(text, _BYTES) else bytes(text)
    return _parsed(whole, "d" if any(mark in whole for mark in _MARKS_OF_FLOATS) else "i")


def strings_from_values(values: Any) -> list[Any]:
    """The elements of a BYTES tensor: text, bytes or None. CodecError for anything else."""
    flat = flatten(values)
    for at, one in enumerate(flat):
        if not isinstance(one, _STRINGS) and one is not None:
            raise CodecError(f"data[{at}]: {_show(one)} is no string, as BYTES has them")
    return flat


def flatten(values: Any) -> list[Any]:
    """One flat list of a scalar, a list, or evenly nested lists; CodecError if some entry has another length."""
    if isinstance(values, np.ndarray):
        numbers: list[Any] = values.ravel().tolist()
        return numbers
    if not isinstance(values, list):
        values = list(values) if isinstance(values, tuple) else [values]
    flat: list[Any] = values
    while flat and isinstance(flat[0], _LISTS):
        rows, width = flat, len(flat[0])
        flat = []
        for at, row in enumerate(rows):
            if not isinstance(row, _LISTS) or len(row) != width:
                raise CodecError(f"data is ragged: entry 0 is a list of {width}, entry {at} is {_describe(row)}")
            flat.extend(row)
    return flat


def _by_simdjson(text: Buffer, datatype: str) -> Array | None:
    """The numbers, if simdjson can give them as they are meant; otherwise None."""
    found = _parsed(text, "d" if datatype[0] == "F" else "u" if datatype[0] == "U" else "i")
    if found is None:
        return None
    if datatype in INT_RANGES and found.size and found.dtype.itemsize > DTYPES[datatype].itemsize:
        low, high = INT_RANGES[datatype]
        if found.min() < low or found.max() > high:
            return None
        return found.astype(DTYPES[datatype])
    return cast(found, datatype)


def _parsed(text: Buffer, kind: Literal["d", "i", "u"]) -> Array | None:
    """The numbers of evenly nested lists, flat, if simdjson can give all of them in this type."""
    # The parser is taken out while in use: a signal handler that raises here must not leave one that is half used.
    parser = _local.__dict__.pop("parser", None) or simdjson.Parser()
    document: Any = None
    try:
        document = parser.parse(text)
        if not isinstance(document, simdjson.Array):
            return None
        found: Array = np.frombuffer(document.as_buffer(of_type=kind), _BUFFER_DTYPES[kind])
        if not _is_even(text, document, found.size):
            return None
    except (ValueError, TypeError, RuntimeError):  # Malformed, another type of value, over 64 bits.
        return None
    finally:
        del document  # A parser refuses the next text while something refers to the last one.
    if len(text) <= _KEPT_PARSER_BYTES:
        _local.parser = parser
    return found


def _is_even(text: Buffer, document: Any, count: int) -> bool:
    """Whether lists in the text have equal lengths on each level, so that flattening loses nothing.

    The text has numbers only, so each bracket and comma in it is one of the lists'.
    """
    if isinstance(text, _BYTES) and text.find(b"[", text.find(b"[") + 1) < 0:
        return True
    lists = int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord("[")))
    if lists == 1:
        return True
    sizes = _first_sizes(document)
    if count == 0 or math.prod(sizes) != count:
        return False
    rows, width = sizes[0], sizes[-1]
    if lists == rows + 1 and rows * 64 < len(text):  # Few wide rows: asking each is quicker than reading the text.
        try:
            return all(len(row) == width for row in document)
        except TypeError:  # A number beside the rows.
            return False
    grid = b"[" + b"," * (width - 1) + b"]"
    for size in reversed(sizes[:-1]):
        grid = b"[" + b",".join([grid] * size) + b"]"  # At most three bytes for each value: no size is 0 here.
    return bytes(text).translate(None, _NOT_BRACKETS) == grid


def _first_sizes(node: Any) -> list[int]:
    """The lengths of a list, of its first entry, of that one's first entry, and so on."""
    sizes = []
    while isinstance(node, simdjson.Array):
        sizes.append(len(node))
        if not len(node):
            break
        node = node[0]
    return sizes


def _value_by_value(flat: Sequence[Any], datatype: str) -> Array:
    """The exact way, for what Python's array type refuses."""
    if datatype[0] == "F":
        return cast(np.array([_float(one, at, datatype) for at, one in enumerate(flat)], np.float64), datatype)
    if datatype == "BOOL":
        return np.array([_bool(one, at) for at, one in enumerate(flat)], np.bool_)
    return np.array([_int(one, at, datatype) for at, one in enumerate(flat)], DTYPES[datatype])


def _float(value: Any, at: int, datatype: str) -> float:
    if value is None:
        return math.nan
    try:
        if not isinstance(value, (dict, *_LISTS)):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise _no_fit(value, at, datatype)


def _int(value: Any, at: int, datatype: str) -> int:
    low, high = INT_RANGES[datatype]
    try:
        number = int(value)
        if low <= number <= high and (isinstance(value, str) or bool(number == value)):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise _no_fit(value, at, datatype)


def _bool(value: Any, at: int) -> bool:
    if isinstance(value, bool | int | float | np.generic) and bool(value == 0 or value == 1):
        return bool(value)
    raise _no_fit(value, at, "BOOL")


def _no_fit(value: Any, at: int, datatype: str) -> CodecError:
    if isinstance(value, _LISTS):
        return CodecError(f"data is ragged: {_describe(value)} at {at}, among values")
    return CodecError(f"data[{at}]: {_show(value)} {does_not_fit(datatype)}")


def _describe(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, _LISTS) else _show(value)


def _show(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


# -- writing ----------------------------------------------------------------------------------------------------------


def to_json(values: Any) -> bytes:
    """JSON text of an array (flat, in C order) or of Python values; NaN and the infinities become null.

    CodecError for bytes that are not UTF-8, and for objects that have no JSON form.
    """
    if isinstance(values, np.ndarray):
        if values.dtype.kind in "biuf" and values.dtype.itemsize <= 8:
            return _numbers_to_json(_as_orjson_takes_it(values))
        values = values.ravel().tolist()
    try:
        return _list_to_json(values) if isinstance(values, list) else orjson.dumps(values, default=_plain_value)
    except TypeError as error:  # Also orjson's own errors; a CodecError from below is their cause.
        if isinstance(error.__cause__, CodecError):
            raise error.__cause__ from None
        try:
            return msgspec.json.encode(values, enc_hook=_plain_value)  # Integers of more than 64 bits.
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise CodecError(f"data cannot be written as JSON: {error}") from None


def _numbers_to_json(flat: Array) -> bytes:
    if len(flat) > _PIECE_VALUES:
        return _joined(_numbers_to_json(flat[at : at + _PIECE_VALUES]) for at in range(0, len(flat), _PIECE_VALUES))
    if flat.dtype != np.float64 or _FLOAT64_ARRAYS_ARE_SAFE:
        return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)
    return orjson.dumps(flat.tolist())


def _list_to_json(values: list[Any]) -> bytes:
    """A list, perhaps of lists that are about as long as the first."""
    width = len(values[0]) if values and isinstance(values[0], list) else 1
    if len(values) * width <= _PIECE_VALUES:
        return orjson.dumps(values, default=_plain_value)
    if len(values) == 1:
        return b"[" + _list_to_json(values[0]) + b"]"
    step = max(1, _PIECE_VALUES // max(1, width))
    return _joined(_list_to_json(values[at : at + step]) for at in range(0, len(values), step))


def _joined(lists: Iterable[bytes]) -> bytes:
    """One JSON list of the entries of several."""
    return b"[" + b",".join(text[1:-1] for text in lists) + b"]"


def _as_orjson_takes_it(array: Array) -> Array:
    """The array flat, contiguous, aligned, in native byte order."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return aligned(array).ravel()


def _plain_value(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return text_of_bytes(value)
    if hasattr(value, "tolist"):  # numpy's arrays and scalars, those of other libraries, the data of tensors
        return value.tolist()
    if hasattr(value, "__array__"):
        return np.asarray(value).tolist()
    if isinstance(value, datetime.datetime):  # pandas' own, which neither orjson nor msgspec takes for one
        return value.isoformat() if value == value else None
    raise TypeError(f"{type(value).__name__} has no JSON form")


def encodable(text: str) -> str:
    """Text as UTF-8 can hold it: lone surrogates, as names of files and models may have them, become question marks."""
    return text.encode("utf-8", "replace").decode()


def text_of_bytes(value: Buffer) -> str:
    """A BYTES element as the text that stands for it in JSON; CodecError if it is not UTF-8."""
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise CodecError(
            f"BYTES element {bytes(value[:24])!r} is not UTF-8 ({error.reason} at byte {error.start}), so JSON "
            "cannot carry it; use base64, binary outputs or gRPC"
        ) from None
