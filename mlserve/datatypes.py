"""The protocol's datatypes: their numpy types, sizes and ranges, and how many values a shape holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlserve.errors import CodecError

__all__ = [
    "BYTES",
    "DATATYPES",
    "DTYPES",
    "INT_RANGES",
    "Array",
    "Datatype",
    "cast",
    "check_count",
    "datatype_of",
    "does_not_fit",
    "fit_shape",
    "is_masked",
    "numpy_dtype",
    "without_mask",
]

Array = NDArray[Any]


class Datatype(str, Enum):
    """A tensor's datatype; each member equals its name on the wire (`datatype == "FP32"`), and reads as that."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"

    def __str__(self) -> str:
        return str.__str__(self)

    def __repr__(self) -> str:
        return str.__repr__(self)

    def __format__(self, spec: str) -> str:
        return str.__format__(self, spec)

    __hash__ = str.__hash__  # Enum's own is written in Python, and these are keys of tables on the request path.


BYTES = "BYTES"

DATATYPES: dict[str, Datatype] = {one.value: one for one in Datatype}  # Five times as fast as `Datatype(name)`.

# The numpy type of each datatype; little-endian, which is also the V2 binary form. BYTES has elements of any length.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype("O"),
}

INT_RANGES: dict[str, tuple[int, int]] = {
    name: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) for name, dtype in DTYPES.items() if dtype.kind in "iu"
}

_OF_KIND = {(dtype.kind, dtype.itemsize): Datatype(name) for name, dtype in DTYPES.items() if name != BYTES}


def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """The numpy type of a datatype; CodecError for a name that the protocol does not have."""
    try:
        return DTYPES[datatype]
    except (KeyError, TypeError):
        raise CodecError(f"unknown datatype {datatype!r}; expected one of {', '.join(DTYPES)}") from None


def datatype_of(dtype: np.dtype[Any]) -> Datatype:
    """The datatype that holds values of a numpy type; text, bytes and objects are BYTES.

    CodecError where there is none: dates, complex numbers, long doubles.
    """
    if dtype.kind in "USOT":
        return Datatype.BYTES
    found = _OF_KIND.get((dtype.kind, dtype.itemsize))
    if found is None:
        raise CodecError(f"no datatype of the protocol holds numpy's {dtype}")
    return found


MAX_DIMENSIONS = 64  # as many as numpy has; bounds what multiplying a client's sizes can cost
# Sizes of a tensor without values cost their sender nothing, but a model that pools over the size of 0 makes so many.
MAX_EMPTY_ROWS = 4096  # before the 0
_MAX_EMPTY_WIDTH = 1 << 24  # behind it


def check_count(shape: Sequence[int], count: int) -> tuple[int, ...]:
    """The shape that so many values have, where one size may be left open as -1; CodecError if they disagree.

    Counts in Python's integers, so that absurd shapes neither overflow nor allocate.
    """
    sizes = tuple(shape)
    if len(sizes) > MAX_DIMENSIONS:
        raise CodecError(f"a shape of {len(sizes)} dimensions; at most {MAX_DIMENSIONS} can be")
    needed, open_at = 1, -1
    for at, size in enumerate(sizes):
        if size == -1 and open_at < 0:
            open_at = at
        elif size < 0:
            raise CodecError(f"shape {_short(sizes)} has a negative size")
        else:
            needed *= size
    if open_at < 0:
        if needed != count:
            raise CodecError(f"shape {_short(sizes)} needs {_values(needed)}, got {count}")
    elif needed == 0 or count % needed:
        raise CodecError(f"shape {_short(sizes)} does not divide {_values(count)}")
    else:
        sizes = (*sizes[:open_at], count // needed, *sizes[open_at + 1 :])
    if not count:
        _check_empty(sizes)
    return sizes


def _check_empty(sizes: Sequence[int]) -> None:
    """CodecError for a tensor without values whose other sizes are large."""
    at = list(sizes).index(0)
    if math.prod(sizes[:at]) > MAX_EMPTY_ROWS:
        raise CodecError(
            f"shape {_short(tuple(sizes))} has rows without values; at most {MAX_EMPTY_ROWS} of them may come at once"
        )
    if math.prod(size for size in sizes[at:] if size) > _MAX_EMPTY_WIDTH:
        raise CodecError(f"shape {_short(tuple(sizes))} has no values, and sizes that are too large for that")


def fit_shape(array: Array, shape: Sequence[int]) -> Array:
    """The array in this shape, which may leave one size open as -1; CodecError if the counts disagree. No copy
    of C-contiguous arrays."""
    try:
        fitted = array.reshape(shape)
        if fitted.size and fitted.shape == tuple(shape):
            return fitted
    except (ValueError, TypeError, OverflowError):
        pass  # The slow way has the better words; numpy takes any negative size for -1.
    try:
        return array.reshape(check_count(shape, array.size))
    except (ValueError, OverflowError) as error:  # More dimensions than numpy has, or a size that it cannot index.
        raise CodecError(f"shape {_short(tuple(shape))} cannot be used: {error}") from None


def cast(array: Array, datatype: str) -> Array:
    """The same values as this datatype's numpy type; no copy if they are that already.

    CodecError names the first value that the datatype cannot hold. Floats lose precision silently, as they do in
    JSON; values beyond FP16 or FP32 become infinite.
    """
    wanted = numpy_dtype(datatype)
    if array.dtype == wanted:
        return array
    have, want = array.dtype.kind, wanted.kind
    if want == "f" and have in "iufb":
        with np.errstate(over="ignore"):
            return array.astype(wanted)
    if have not in "iufb" or want == "O":
        raise CodecError(f"values of numpy's {array.dtype} do not go into {datatype}")
    with np.errstate(invalid="ignore", over="ignore"):
        result = array.astype(wanted)
        wrong = result != array
    if have == "f" and want in "iu":  # 2.0**63 turns into the greatest int64 and compares equal to it as a float.
        low, high = INT_RANGES[datatype]
        wrong |= ~((array >= float(low)) & (array < float(high + 1)))
    elif have in "iu" and want in "iu":
        wrong |= (array < 0) != (result < 0)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise CodecError(f"data[{at}]: {array.ravel()[at].item()!r} {does_not_fit(datatype)}")
    return result


def changed(array: Array, made: Array) -> Array:
    """Where the values of an array that was made of another by a cast are others than its; NaN remains NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        wrong: Array = (made.astype(array.dtype) != array) & ~((array != array) & (made != made))
    if array.dtype.kind in "iu" and made.dtype.kind == "f":  # beyond the integers, going back may end at the greatest
        wrong |= made.astype(np.float64) >= float(int(np.iinfo(array.dtype).max) + 1)
    return wrong


def is_masked(value: Any) -> bool:
    """Whether this is one of numpy's masked arrays, which hide values that numpy's other functions would show."""
    return isinstance(value, np.ndarray) and hasattr(value, "mask")


def without_mask(array: Any) -> Any:
    """What a masked array holds, with what is hidden as missing: NaN in floating point; None in an array of text or
    objects, and in a flat list of anything else. A plain view of the array if nothing is hidden."""
    hidden, values = np.ma.getmaskarray(array), np.ma.getdata(array)
    if values.dtype.kind == "V" or not hidden.any():
        return values
    if values.dtype.kind == "f":
        shown = values.copy()
        shown[hidden] = np.nan
        return shown
    shown = values.astype(object)
    shown[hidden] = None
    return shown if values.dtype.kind in "USOT" else shown.ravel().tolist()


def does_not_fit(datatype: str) -> str:
    """The words after a value that a datatype cannot hold."""
    if datatype in INT_RANGES:
        low, high = INT_RANGES[datatype]
        return f"is no {datatype} (a whole number from {low} to {high})"
    return f"is no {datatype}" + (" (true or false)" if datatype == "BOOL" else "")


def _values(count: int) -> str:
    return "1 value" if count == 1 else f"{count} values"


def _short(shape: tuple[int, ...]) -> str:
    text = str(list(shape))
    return text if len(text) <= 80 else f"{text[:60]}... ({len(shape)} dimensions)"
