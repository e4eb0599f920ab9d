"""Which columns of a LightGBM model are categories, as its text tells, and a column of a request as such categories."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from mlserve.errors import InferenceError

__all__ = ["Categories", "categories_by_column"]

_CATEGORICAL = re.compile(r"^\[categorical_feature: ([\d,]+)\]$", re.MULTILINE)  # empty before LightGBM 3.0
_WHOLE = re.compile(r"\[(\d+):(\d+)\]")


class Categories:
    """What one column can be, in the order in which the model numbers it. `kind` is of what: "" if of several."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values
        kinds = {_kind_of(one) for one in values}
        self.kind = kinds.pop() if len(kinds) == 1 else ""
        self._places = {value: at for at, value in enumerate(values)}

    def of(self, column: Any) -> Any:
        """A column of a frame as categories; missing values, and what was none in training, as missing ones.

        InferenceError for values of another kind, all of which would count as missing. Numbers 0 and 1 are booleans.
        """
        import pandas as pd

        values, missing = column.tolist(), column.isna().to_numpy()
        fitting = {self.kind, "numbers" if self.kind == "booleans" else self.kind}
        for row, one in enumerate(values):
            if not missing[row] and _kind_of(one) not in fitting and self.values:
                raise InferenceError(
                    f"column '{column.name}' holds categories that are {self.kind} ({self._some()}), "
                    f"got {_kind_of(one)} in row {row}"
                )
        # 1.0 finds 1 and true: numbers become such beside missing ones.
        codes = [-1 if missing[row] else self._places.get(one, -1) for row, one in enumerate(values)]
        # The categories as a frame has them after training: LightGBM compares their list.
        return pd.Series(
            pd.Categorical.from_codes(np.array(codes, np.int64), pd.Index(self.values)), index=column.index
        )

    def _some(self) -> str:
        told = ", ".join(repr(one) for one in self.values[:3])
        return f"{told}, …" if len(self.values) > 3 else told


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "booleans"
    if isinstance(value, int | float):
        return "numbers"
    return "text" if isinstance(value, str) else f"a {type(value).__name__}"


# -- which columns ----------------------------------------------------------------------------------------------------


class _Column(NamedTuple):
    """What a model's text tells of one column."""

    is_categorical: bool
    largest: int | None  # number of a category, or of a column of whole numbers from 0 on; None where it has neither
    is_constant: bool


def categories_by_column(booster: Any) -> dict[str, Categories] | None:
    """The categories by the names of the columns that were categories of the frame in training; None if hidden.

    A model has the lists of categories in the order of the columns, but not which columns these are. It was those that
    LightGBM took as categories, unless the training named columns for that by itself, or categories had an order.
    """
    lists = [Categories(values) for values in booster.pandas_categorical or ()]
    if not all(one.kind for one in lists if one.values):
        return None
    names = booster.feature_name()
    places = _assigned(lists, _columns(booster.model_to_string(num_iteration=1, start_iteration=0)))
    return None if places is None else {names[at]: one for at, one in zip(places, lists, strict=True)}


def _columns(text: str) -> list[_Column]:
    """What `feature_infos` has for each: [0:9] of numbers, 3:1:2 of categories, none of what never changed."""
    begin = text.index("\nfeature_infos=") + len("\nfeature_infos=")
    infos = text[begin : text.index("\n", begin)].split()
    named = _CATEGORICAL.search(text)
    categorical = {int(at) for at in named[1].split(",") if at} if named is not None else set()
    return [_column(info, at in categorical) for at, info in enumerate(infos)]


def _column(info: str, is_named: bool) -> _Column:
    if info == "none":
        return _Column(is_named, None, True)
    if not info.startswith("["):
        return _Column(True, max(int(code) for code in info.split(":")), False)
    whole = _WHOLE.fullmatch(info)
    return _Column(is_named, int(whole[2]) if whole is not None and whole[1] == "0" else None, False)


def _assigned(lists: list[Categories], columns: list[_Column]) -> list[int] | None:
    """The place of the column of each list; None if that cannot be told."""
    likely = [at for at, one in enumerate(columns) if one.is_categorical]
    if len(likely) != len(lists):
        first, last = _first_fit(lists, columns, True), _last_fit(lists, columns, True)
        return first if first == last else None
    if not all(_fits(one, columns[at], True) for one, at in zip(lists, likely, strict=True)):
        return None
    # Whole numbers of another column could stand for categories too; text could not, for it is refused there.
    first, last = _first_fit(lists, columns, False), _last_fit(lists, columns, False)
    doubtful = [one for one, early, late in zip(lists, first or likely, last or likely, strict=True) if early != late]
    return None if any(one.kind != "text" for one in doubtful) else likely


def _fits(categories: Categories, column: _Column, may_be_constant: bool) -> bool:
    if column.is_categorical:
        return column.largest is None or column.largest < len(categories.values)
    if column.is_constant:
        return may_be_constant
    return column.largest is not None and column.largest == len(categories.values) - 1


def _first_fit(lists: list[Categories], columns: list[_Column], may_be_constant: bool) -> list[int] | None:
    """The leftmost columns that the lists fit, in their order; None if there are not enough."""
    places: list[int] = []
    for at, column in enumerate(columns):
        if len(places) < len(lists) and _fits(lists[len(places)], column, may_be_constant):
            places.append(at)
    return places if len(places) == len(lists) else None


def _last_fit(lists: list[Categories], columns: list[_Column], may_be_constant: bool) -> list[int] | None:
    places = _first_fit(lists[::-1], columns[::-1], may_be_constant)
    return None if places is None else [len(columns) - 1 - at for at in places[::-1]]
