"""Collects the inputs of so many requests, which are then tested together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from mlserve.datatypes import Array, cast, changed, datatype_of
from mlserve.errors import CodecError, InferenceError

__all__ = ["Collector"]


class Collector:
    """What waits for a whole batch. All of it has one form, so that no request spoils the batch of the others.

    Once the detector has answered a batch its form is the one that is taken. Before, nobody knows which of two forms is
    wrong: then the second is refused and what was collected is dropped, since it might be in everybody's way for ever.
    """

    def __init__(self, model: str, size: int) -> None:
        self._model = model
        self._size = size
        self._parts: list[Any] = []
        self._form = ""  # of the parts, or of a batch that was answered
        self._is_known = False
        self._answered_type = ""  # of the numbers of the last batch

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
        self._form = form
        self._parts.append(data)
        return len(self._parts) == self._size

    def batches(self) -> Iterator[Any]:
        """All that is collected, as one, in the types that the detector may take it in: first as numpy joins numbers.

        What refuses that, as some preprocessing steps do, may take the type that was answered last, or one in which
        some of it came. Fractions lose digits then; whole numbers stay what they are.
        """
        whole = _joined(self._parts)
        yield whole
        if not _is_numbers(whole):
            return
        came_in = [datatype_of(part.dtype) for part in self._parts]
        for kind in dict.fromkeys([*filter(None, [self._answered_type]), *came_in]):
            try:
                parts = [_kept(part, kind) for part in self._parts]
            except CodecError:
                continue
            batch = _joined(parts)
            if batch.dtype != whole.dtype and np.isfinite(batch).all() == np.isfinite(whole).all():
                yield batch

    def answered(self, batch: Any) -> None:
        """The detector has answered this batch: it takes its form."""
        self._is_known = True
        if _is_numbers(batch):
            self._answered_type = datatype_of(batch.dtype)
        self._parts = []

    def drop(self) -> None:
        """Forgets what is collected."""
        self._parts = []

    def take_back(self) -> None:
        """Forgets what was added last."""
        self._parts.pop()


def _kept(part: Array, kind: str) -> Array:
    """Numbers of another type. CodecError if whole ones change."""
    made = cast(part, kind)
    if part.dtype.kind in "iu" and changed(part, made).any():
        raise CodecError(f"whole numbers do not go into {kind}")
    return made


def _is_numbers(data: Any) -> bool:
    return isinstance(data, np.ndarray) and data.dtype.kind in "biuf"


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], pd.DataFrame):
        return pd.concat(parts, ignore_index=True)
    if isinstance(parts[0], list):
        return [one for part in parts for one in part]
    return np.concatenate(parts)
