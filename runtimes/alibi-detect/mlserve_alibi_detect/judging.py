"""Judges a request before a detector, or a batch that others wait for, gets to see it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from mlserve.datatypes import cast, datatype_of
from mlserve.errors import CodecError, InferenceError
from mlserve.repeated import check_repeated
from mlserve.types import RequestOutput
from mlserve_alibi_detect.traits import (
    computes_in_one_type,
    default_most_rows,
    has_step,
    reference,
    remembers,
    rows_like,
)

__all__ = ["Judge"]

Array = np.ndarray[Any, Any]


class Judge:
    """What a detector takes and gives, as far as that is known. A request that it refuses leaves no trace.

    `tested_together` is how many requests make up one test; `most_rows` the most rows of that.
    """

    def __init__(self, model: str, detector: Any, tested_together: int, most_rows: int | None) -> None:
        self._model = model
        self._like = rows_like(detector)
        self._casts = computes_in_one_type(detector)
        steps = has_step(detector)
        known = None if steps else reference(detector)
        self._table = known if known is not None and known.dtype == object else None  # numbers beside texts
        self._takes_arrays = self._like is not None or known is not None
        shared = tested_together > 1 or remembers(detector)
        self._finite = shared and not steps  # a step may know what to do with missing values
        most = most_rows or default_most_rows(detector)
        self._most_rows = None if most is None else max(most // tested_together, 1)
        self._names: list[str] | None = None

    def learn(self, names: Iterable[str]) -> None:
        """The detector has answered with these outputs, and will with no others: its arguments are the settings'."""
        self._names = list(names)

    def unknown(self, asked: Sequence[RequestOutput]) -> str | None:
        """The name of an output that is asked for and is not there, as far as that is known."""
        names = self._names
        return None if names is None else next((one.name for one in asked if one.name not in names), None)

    def check_outputs(self, asked: Sequence[RequestOutput]) -> None:
        """InferenceError for outputs that it does not have, or that are asked for again and again."""
        check_repeated(asked)
        name = self.unknown(asked)
        if name is not None:
            has = ", ".join(self._names or ())
            raise InferenceError(f"model '{self._model}' has no output '{name[:200]}': it has {has}")

    def rows(self, data: Any) -> Any:
        """The data as the detector takes them. InferenceError if it does not."""
        if self._takes_arrays:
            data = self._as_array(data)
        self._check_count(data)
        if isinstance(data, np.ndarray):
            data = data if self._like is None else self._alike(data, self._like)
            if self._table is not None:
                self._check_table(data, self._table)
            self._check_values(data)
        return data

    def form(self, data: Any) -> str:
        """In words, what data must have alike that are tested together: of those that rows() has let pass."""
        if isinstance(data, pd.DataFrame):
            return "columns " + ", ".join(f"{name} ({_kinds(column.dropna())})" for name, column in data.items())
        if isinstance(data, list):
            return f"a list of {_kinds(data)}"
        if isinstance(data, np.ndarray):
            return f"{_kinds(data)} of shape {[-1, *data.shape[1:]]}"
        raise InferenceError(
            f"model '{self._model}' collects requests for one test, which takes rows: got {type(data).__name__}"
        )

    def _as_array(self, data: Any) -> Array:
        if isinstance(data, pd.DataFrame):
            return np.asarray(data)
        if isinstance(data, np.ndarray):
            return data
        raise InferenceError(
            f"model '{self._model}' takes an array and has no preprocessing step, got {type(data).__name__}: "
            f"leave the content type out, or give 'np'"
        )

    def _check_count(self, data: Any) -> None:
        if isinstance(data, np.ndarray) and data.ndim == 0:
            raise InferenceError(f"model '{self._model}' takes rows: expected the shape [n, ...], got []")
        rows = len(data) if hasattr(data, "__len__") else 1
        if not rows:
            raise InferenceError(f"model '{self._model}' takes one row at least, got none")
        if self._most_rows is not None and rows > self._most_rows:
            raise InferenceError(
                f"model '{self._model}' takes {self._most_rows} rows at most in a request, got {rows}: with more it "
                f"would keep others waiting. The model's settings may allow more (parameters.extra.max_rows)"
            )

    def _alike(self, array: Array, like: Array) -> Array:
        self._check_shape(array, like)
        if _is_text(array) != _is_text(like):
            raise InferenceError(
                f"model '{self._model}' takes {'texts' if _is_text(like) else 'numbers'}, got "
                f"{datatype_of(array.dtype)}"
            )
        return self._cast(array, like) if self._casts else array

    def _check_table(self, array: Array, table: Array) -> None:
        """Of numbers and texts in columns: the same columns, and in each the same of both."""
        self._check_shape(array, table)
        rows = array.reshape(len(array), -1)
        for at, known in enumerate(table[0].ravel().tolist() if table.ndim > 1 else table[:1].tolist()):
            is_text = isinstance(known, str)
            for value in rows[:, at].tolist():
                is_right = isinstance(value, str) if is_text else _is_finite(value)
                if not is_right:
                    kind = "texts" if is_text else "numbers"
                    raise InferenceError(f"model '{self._model}' takes {kind} in column {at}, got {value!r:.60}")

    def _check_shape(self, array: Array, like: Array) -> None:
        if array.shape[1:] != like.shape[1:]:
            raise InferenceError(
                f"model '{self._model}' takes an array of shape {[-1, *like.shape[1:]]}, got {list(array.shape)}"
            )

    def _check_values(self, array: Array) -> None:
        if self._finite and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InferenceError(
                f"model '{self._model}' tests the rows of several requests together: NaN or infinity would spoil the "
                f"test of the others"
            )

    def _cast(self, array: Array, like: Array) -> Array:
        kind = datatype_of(like.dtype)
        try:
            made = cast(array, kind)
            if made.dtype.kind == "f" and (np.isinf(made) & np.isfinite(array)).any():
                raise CodecError(f"a number is beyond {kind}")
            return made
        except CodecError as error:
            got = datatype_of(array.dtype)
            raise InferenceError(
                f"model '{self._model}' takes {kind}, as its reference data are, got {got}: {error}"
            ) from error


def _kinds(values: Any) -> str:
    """In a word, what values are."""
    if isinstance(values, (np.ndarray, pd.Series)) and is_numeric_dtype(values.dtype):
        return "numbers"
    types = {type(value) for value in (values.ravel() if isinstance(values, np.ndarray) else values)}
    return ", ".join(sorted({_kind(one) for one in types})) or "texts"


def _kind(of: type) -> str:
    if issubclass(of, str):
        return "texts"
    return "numbers" if issubclass(of, (Number, np.number, np.bool_)) else of.__name__


def _is_text(array: Array) -> bool:
    return array.dtype.kind not in "biuf"


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)
