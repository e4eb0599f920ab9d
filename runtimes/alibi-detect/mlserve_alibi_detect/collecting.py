"""Collects the inputs of so many requests, which are then tested together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mlserve.datatypes import Array, cast, datatype_of
from mlserve.errors import CodecError, InferenceError

__all__ = ["Collector"]


class Collector:
    """What waits for a whole batch. All of it has one form, so that no request spoils the batch of the others.

    Once the detector has answered a batch its form is the one that is taken. Before, nobody knows which of two forms is
    wrong: then the second is refused and what was collected is dropped, since it might be in everybody's way for ever.
    """

    def __init__(self, model: str, size: int, *, has_step: bool = False) -> None:
        self._model = model
        self._size = size
        self._has_step = has_step  # which may take numbers of one type only
        self._types: list[str] = []  # of numbers that it took; the last one last
        self._parts: list[Any] = []
        self._form = ""  # of the parts, or of a batch that was answered
        self._is_known = False

    def add(self, data: Any, form: str) -> bool:
        """Whether this completes the batch. InferenceError for what does not go with the others.

        After a whole batch comes one of answered(), drop() and take_back().
        """
        if (self._is_known or self._parts) and form != self._form:
            dropped = 0 if self._is_known else len(self._parts)
            if dropped:
                self.drop()
            raise InferenceError(
                f"model '{self._model}' tests {self._size} requests together: expected {self._form:.300} as in those "
                f"before, got {form:.300}"
                + (f"; the {dropped} collected so far are dropped, and the next begins anew" if dropped else "")
            )
        if self._has_step and isinstance(data, np.ndarray) and data.dtype.kind in "biuf":
            data = self._of_known_type(data)
        self._form = form
        self._parts.append(data)
        return len(self._parts) == self._size

    def batch(self) -> Any:
        """All that is collected, as one."""
        return _joined(self._parts)

    def answered(self) -> None:
        """The detector has answered the batch: it takes this form."""
        self._is_known = True
        if isinstance(self._parts[0], np.ndarray):
            kind = datatype_of(self._parts[0].dtype)
            self._types = [*(one for one in self._types if one != kind), kind]
        self._parts = []

    def _of_known_type(self, array: Array) -> Array:
        """An array as the others of the batch, or else as one that was answered, if its numbers are such. If they are
        not, those of the batch become as this one is: whole numbers that came first are in no fraction's way."""
        kind = datatype_of(array.dtype)
        if not self._parts and (kind in self._types or not self._types):
            return array
        try:
            return cast(array, datatype_of(self._parts[0].dtype) if self._parts else self._types[-1])
        except CodecError:
            self._parts = [part.astype(array.dtype) for part in self._parts]
            return array

    def drop(self) -> None:
        """Forgets what is collected."""
        self._parts = []

    def take_back(self) -> None:
        """Forgets what was added last."""
        self._parts.pop()


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], pd.DataFrame):
        return pd.concat(parts, ignore_index=True)
    if isinstance(parts[0], list):
        return [one for part in parts for one in part]
    return np.concatenate(parts)
