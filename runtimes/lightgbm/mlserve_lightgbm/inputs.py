"""What a request must be like for a LightGBM model: so many columns, those of a frame by name, and categories."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from typing import Any

from mlserve.errors import InferenceError
from mlserve.tabular import ColumnCheck

__all__ = ["InputCheck"]


class InputCheck(ColumnCheck):
    """Checks data against what the model was trained on, and gives it in the form that LightGBM takes."""

    def __init__(self, booster: Any) -> None:
        count: int = booster.num_feature()
        names: list[str] = booster.feature_name()
        # Trained on an array, the columns are named by LightGBM: those are no names that a client would know.
        super().__init__(count, names if names != [f"Column_{at}" for at in range(count)] else None)
        self.has_categories = bool(booster.pandas_categorical)
        self.categorical = _categories_of(booster, names) if self.has_categories else {}
        self.text = {name for name, known in self.categorical.items() if all(isinstance(one, str) for one in known)}
        # An array for an estimator that was fitted on a frame is what most clients send: its columns go by position.
        warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)

    def spelled(self, column: str) -> str:
        """A column's name as LightGBM writes it to its files."""
        return column.replace(" ", "_")

    def categories(self, frame: Any) -> Any:
        """Categories as such, which LightGBM goes by. Where the file does not tell their columns, those of text."""
        if not self.has_categories:
            return frame
        columns = {
            name: self._as_categories(frame[name]) for name in frame.columns if self._is_categorical(frame[name])
        }
        return frame.assign(**columns)

    def _is_categorical(self, column: Any) -> bool:
        return self.spelled(str(column.name)) in self.categorical if self.categorical else _is_text(column)

    def _as_categories(self, column: Any) -> Any:
        import pandas as pd

        name = self.spelled(str(column.name))
        if name in self.text and not _is_text(column) and not column.isna().all():
            raise InferenceError(f"column '{column.name}' holds categories that are text, got numbers")
        values = column.tolist()
        for row, one in enumerate(values):
            if not isinstance(one, Hashable):
                kind = type(one).__name__
                raise InferenceError(f"column '{column.name}' holds categories, and has a {kind} in row {row}")
        if name not in self.categorical:
            return column.astype("category")
        known = self.categorical[name]
        places = {one: at for at, one in enumerate(known)}
        codes = [places.get(one, -1) for one in values]  # 1.0 finds 1 and true, as missing ones beside make them
        return pd.Series(pd.Categorical.from_codes(codes, known), index=column.index)


def _is_text(column: Any) -> bool:
    return column.dtype.kind not in "fiub"


def _categories_of(booster: Any, names: list[str]) -> dict[str, list[Any]]:
    """What each column of categories can hold; empty if the file does not tell which columns those are.

    It has their values in order and, apart from that, which features the trees take for categories, by their codes.
    These are the same, unless numbers were declared to be categories too; of a feature of one value nothing is told.
    """
    told = booster.dump_model(num_iteration=1)["feature_infos"]
    columns = {name: told[name]["values"] for name in names if told.get(name, {}).get("values")}
    known: list[list[Any]] = booster.pandas_categorical
    if len(told) < len(names) or len(columns) != len(known):
        return {}
    fits = all(max(codes) < len(values) for codes, values in zip(columns.values(), known))
    return dict(zip(columns, known)) if fits else {}
