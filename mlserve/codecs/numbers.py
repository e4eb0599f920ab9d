"""Numbers as Python has them, as one array: none of them changes on the way, or it is an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlserve.errors import CodecError

__all__ = ["array_of"]

_INTEGERS = (int, np.integer)
_EXACT_UP_TO = 2.0**53  # up to here a float is every integer


def array_of(values: Sequence[Any]) -> NDArray[Any]:
    """A flat array of these values as numpy finds its type, with NaN for None; of objects if not all are numbers.

    CodecError names an integer that would be another one as the floating point that None or floats beside it ask for.
    """
    array = np.array([np.nan if one is None else one for one in values])
    if array.dtype.kind != "f" or not np.nanmax(np.abs(array), initial=0.0) >= _EXACT_UP_TO:
        return array
    if all(isinstance(one, _INTEGERS) for one in values):
        return _integers(values)
    for one, made in zip(values, array.tolist(), strict=True):
        if isinstance(one, _INTEGERS) and (made in (np.inf, -np.inf) or int(made) != int(one)):
            told = "would lose digits as FP64, beside floats or missing values; give an array, or floats only"
            raise CodecError(f"{one} {told}")
    return array


def _integers(values: Sequence[Any]) -> NDArray[Any]:
    """Integers of which some are beyond int64: numpy prefers floats where others would fit int64."""
    low, high = min(values), max(values)
    if low < 0:
        raise CodecError(f"no integer type holds both {low} and {high}; give an array of floats")
    return np.array(values, np.uint64)
