"""Collects the inputs of so many requests, which are then tested together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mlserve.errors import InferenceError

__all__ = ["Collector"]


class Collector:
    """What waits for a whole batch. All of it has one form, so that no request spoils the batch of the others.

    Once the detector has answered a batch its form is the one that is taken. Before, nobody knows which of two forms is
    wrong: then the second is refused and what was collected is dropped, since it might be in everybody's way for ever.
    """

    def __init__(self, model: str, size: int, like: Any = None) -> None:
        self._model = model
        self._size = size
        self._parts: list[Any] = []
        self._form: Any = None if like is None else _form(like)  # or of the parts, or of a batch that was answered
        self._is_known = like is not None

    def add(self, data: Any) -> Any:
        """The batch, if this completes it, else None. InferenceError for what does not go with the others."""
        form = _form(data)
        if (self._is_known or self._parts) and form != self._form:
            dropped = 0 if self._is_known else len(self._parts)
            if dropped:
                self._parts = []
            raise InferenceError(
                f"model '{self._model}' tests {self._size} requests together: expected {_in_words(self._form)} as in "
                f"those before, got {_in_words(form)}"
                + (f"; the {dropped} collected so far are dropped, and the next begins anew" if dropped else "")
            )
        self._form = form
        self._parts.append(data)
        if len(self._parts) < self._size:
            return None
        parts, self._parts = self._parts, []
        return _joined(parts)

    def answered(self) -> None:
        """The detector has answered the batch: it takes this form."""
        self._is_known = True


def _form(data: Any) -> Any:
    """What must be alike in data that are put together."""
    if isinstance(data, pd.DataFrame):
        return tuple(data.columns)
    if isinstance(data, list):
        return list
    array = np.asarray(data)
    if array.ndim == 0:
        raise InferenceError(
            "requests are collected for one test, which takes rows: expected the shape [n, ...], got []"
        )
    return (*array.shape[1:], "numbers" if array.dtype.kind in "biuf" else "texts")


def _in_words(form: Any) -> str:
    if form is list:
        return "a list"
    if form and form[-1] in ("numbers", "texts"):
        return f"{form[-1]} of shape {[-1, *form[:-1]]}"
    return f"columns {', '.join(map(str, form))}"


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], pd.DataFrame):
        return pd.concat(parts, ignore_index=True)
    if isinstance(parts[0], list):
        return [one for part in parts for one in part]
    return np.concatenate(parts)
