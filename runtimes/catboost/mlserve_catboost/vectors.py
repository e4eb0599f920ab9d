"""The embeddings of a request, checked row by row: CatBoost reads as many numbers as in training, whatever comes."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlserve.errors import InferenceError
from mlserve.tabular import Array

__all__ = ["vectors_of"]


def vectors_of(values: Array, name: str, width: int | None) -> Array:
    """The cells of a column as vectors of so many numbers; None asks only that all have as many.

    InferenceError names the first row that has something else.
    """
    if not len(values):
        raise InferenceError(f"column '{name}' holds embeddings, of which CatBoost needs one row at least")
    if values.dtype.kind in "iuf":  # one number in each row is how a frame has vectors of one
        values = values[:, np.newaxis]
    found = np.empty(len(values), object)
    for row, value in enumerate(values):
        size = len(value) if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim) else None
        told = f"a value of type {type(value).__name__}" if size is None else f"{size}"
        if size and size == (width or size):
            vector = _vector(value)
            if vector is not None:
                found[row], width = vector, size
                continue
            told = "others"
        expected = f"{width} finite numbers" if width else "finite numbers"
        raise InferenceError(f"column '{name}' holds embeddings, each a list of {expected}, but row {row} has {told}")
    return found


def _vector(value: Any) -> Array | None:
    """One embedding as an array, if it holds nothing but numbers that CatBoost's 32 bits can hold."""
    if not isinstance(value, np.ndarray) and bool in set(map(type, value)):
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unlike lengths in it
        return None
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        return None
    with np.errstate(over="ignore"):
        return array.astype(np.float64) if np.isfinite(array.astype(np.float32)).all() else None
