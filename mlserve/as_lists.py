"""The arrays that numpy makes of lists of numbers, made of an array of the same numbers without the lists.

Code written for MLServer, whose tensors hold lists, counts on their types: integers are int64, all floats float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlserve.datatypes import Array

__all__ = ["converted", "widened"]

_WIDE = {"b": np.dtype(np.bool_), "i": np.dtype(np.int64), "u": np.dtype(np.int64), "f": np.dtype(np.float64)}


def widened(array: Array) -> Array:
    """What `np.array(array.tolist())` gives for a flat array of numbers that fit int64; always a copy."""
    return array.astype(_WIDE[array.dtype.kind]) if array.size else np.empty(0)  # numpy makes floats of an empty list


def converted(array: Array, dtype: Any) -> Array | None:
    """What `np.array(array.tolist(), dtype)` gives for a flat array of numbers, or None where only numpy itself knows:
    of numbers that are out of an integer type's range it makes an error, from lists, and from arrays other numbers."""
    wanted = np.dtype(dtype)
    if wanted.kind not in "biuf" or not array.size:
        return None
    if wanted.kind in "iu" and array.dtype.kind in "iuf":
        low, high = np.iinfo(wanted).min, np.iinfo(wanted).max
        if not (array.min().item() >= low and array.max().item() < int(high) + 1):  # false for NaN, too
            return None
    return array.astype(wanted)
