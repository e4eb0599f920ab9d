"""An estimator's columns: their names, and a value of each from whichever part of it sees the column first."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlserve.estimators import parts

__all__ = ["column_names", "columns_of", "first_step", "known_values", "used_columns"]

Keys = list[Any]  # of columns: their names, or their places where they have none


def columns_of(estimator: Any) -> Keys | None:
    """The columns that an estimator was fitted on; None if it does not know, as text pipelines do not."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        return list(names)
    count = getattr(estimator, "n_features_in_", None)
    return None if count is None else list(range(int(count)))


def column_names(estimator: Any, method: str, count: int) -> list[str]:
    """Names for so many columns that a method gives: those that the estimator knows, or numbered ones."""
    if method == "transform" and hasattr(estimator, "get_feature_names_out"):
        with contextlib.suppress(Exception):  # a part may be anybody's code, or have no names
            names = [str(name) for name in estimator.get_feature_names_out()]
            if len(names) == count:
                return names
    return [f"{method}_{at}" for at in range(count)]


def first_step(estimator: Any) -> Any:
    """The part of a pipeline, or of a search for one, that sees the columns first; any other estimator itself."""
    from sklearn.pipeline import Pipeline

    first = getattr(estimator, "best_estimator_", estimator)  # of a search
    while isinstance(first, Pipeline):
        first = first.steps[0][1]
    return first


def used_columns(estimator: Any) -> list[str] | None:
    """The columns that an estimator uses of those that it was fitted on, if its first step picks them by itself."""
    from sklearn.compose import ColumnTransformer

    first = first_step(estimator)
    keys = columns_of(first)
    if not isinstance(first, ColumnTransformer) or keys is None:
        return None
    picks = [_picked(columns, keys) for _, inner, columns in first.transformers_ if not _is_dropped(inner)]
    used = {key for pick in picks for key in pick}
    return [str(key) for key in keys if key in used]


def known_values(estimator: Any) -> dict[Any, str | float]:
    """A value that the estimator knows, for each column of which it has learnt whether it is text or numbers."""
    known = _Known()
    known.look(estimator, columns_of(estimator) or [])
    return {**known.guesses, **known.categories}


class _Known:
    """What a walk through an estimator's parts has found."""

    def __init__(self) -> None:
        self.categories: dict[Any, str | float] = {}  # encoders may refuse any other value
        self.guesses: dict[Any, str | float] = {}  # of the right kind, though an encoder behind may not know them
        self._seen: set[int] = set()

    def look(self, part: Any, keys: Keys) -> None:
        """Notes what a part and all parts within it have learnt of the columns that it is given."""
        if id(part) not in self._seen:
            self._seen.add(id(part))
            with contextlib.suppress(Exception):  # a part may be anybody's code; a trial shows what is right
                self._look(part, keys)

    def _look(self, part: Any, keys: Keys) -> None:
        from sklearn.compose import ColumnTransformer  # here, for most models are loaded without them
        from sklearn.pipeline import Pipeline

        _note(self.categories, keys, map(_value_of, getattr(part, "categories_", ())))
        _note(self.guesses, keys, map(_value, getattr(part, "statistics_", ())))
        if hasattr(part, "build_analyzer"):  # it takes texts apart: all that it is given are such
            _note(self.guesses, keys, [""] * len(keys))
        if isinstance(part, Pipeline):
            self._look_at_steps(part.steps, keys)
        elif isinstance(part, ColumnTransformer):
            for _, inner, columns in getattr(part, "transformers_", ()):  # none of one that is not fitted
                self.look(inner, _picked(columns, keys))
        else:
            for inner in parts(part):
                if columns_of(inner) is None or len(columns_of(inner) or []) == len(keys):
                    self.look(inner, keys)

    def _look_at_steps(self, steps: Sequence[tuple[str, Any]], keys: Keys) -> None:
        """Up to the first step that is no mere filling of gaps or function: behind it come other values."""
        from sklearn.preprocessing import FunctionTransformer

        for _, step in steps:
            self.look(step, keys)
            if not (isinstance(step, str | FunctionTransformer) or step is None or hasattr(step, "statistics_")):
                return


def _is_dropped(part: Any) -> bool:
    return isinstance(part, str) and part == "drop"


def _picked(columns: Any, keys: Keys) -> Keys:
    """The keys that a ColumnTransformer's choice means: names, places, a mask or a slice of them, or just one."""
    ends = [columns.start, columns.stop] if isinstance(columns, slice) else np.atleast_1d(columns).tolist()
    import pandas as pd  # which has chosen them, if they are no positions; it need not be there otherwise

    all_keys = pd.Series(keys, index=keys, dtype=object)
    chosen = (all_keys.loc if any(isinstance(one, str) for one in ends) else all_keys.iloc)[columns]
    return chosen.tolist() if isinstance(chosen, pd.Series) else [chosen]


def _note(found: dict[Any, str | float], keys: Keys, values: Any) -> None:
    values = list(values)
    if len(values) == len(keys):
        found.update({key: value for key, value in zip(keys, values, strict=True) if value is not None})


def _value_of(categories: Any) -> str | float | None:
    return next((value for one in categories if (value := _value(one)) is not None), None)


def _value(one: Any) -> str | float | None:
    """Text or a number; None for what is neither, and for what stands for a missing value."""
    if isinstance(one, str):
        return str(one)
    is_number = isinstance(one, numbers.Real | np.bool_) and one == one
    return float(one) if is_number else None
