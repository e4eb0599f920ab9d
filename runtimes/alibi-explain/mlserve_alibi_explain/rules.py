"""What one argument of `explain` may be: its type, which JSON is turned into, and its range."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

__all__ = [
    *("Array", "Choice", "Conditions", "Features", "Number", "Points", "Regularisation", "Rule", "Table", "Wholes"),
    "by_number",
]

_MOST_COLUMNS = 100_000  # a number of a column; alibi counts up to some of them
_SELECTION = re.compile(r"num_features\([1-9]\d{0,4}\)")


class Rule:
    """Of one argument."""

    def read(self, value: Any) -> Any:
        """As alibi takes it. ValueError with what was expected, where it is of another type."""
        raise NotImplementedError

    def check(self, value: Any, told: Any) -> None:
        """ValueError for one, as it was read, beyond its bounds and those of the settings, which have `told`."""


@dataclass(frozen=True)
class Number(Rule):
    """A plain number, or one of the others that may stand in its place."""

    least: float
    most: float
    is_whole: bool = True
    others: tuple[Any, ...] = ()

    def read(self, value: Any) -> Any:
        if _is_one_of(value, self.others) or _is_number(value, self.is_whole):
            return value
        raise ValueError(self._expected(self.least, self.most))

    def check(self, value: Any, told: Any) -> None:
        if not _is_number(value, False):
            return
        bounds = [self.least, self.most, *([told] if _is_number(told, False) else [])]
        if not min(bounds) <= value <= max(bounds):
            raise ValueError(self._expected(min(bounds), max(bounds)))

    def _expected(self, least: float, most: float) -> str:
        others = "".join(f", or {json.dumps(one)}" for one in self.others)
        return f"a {'whole ' if self.is_whole else ''}number from {least} to {most}{others}"


@dataclass(frozen=True)
class Choice(Rule):
    """One of these, and nothing that is equal to it."""

    choices: tuple[Any, ...]

    def read(self, value: Any) -> Any:
        if not _is_one_of(value, self.choices):
            raise ValueError(" or ".join(map(json.dumps, self.choices)))
        return value


@dataclass(frozen=True)
class Regularisation(Rule):
    """SHAP's choice of features: its own, by a criterion, by their number, by a penalty, or none."""

    def read(self, value: Any) -> Any:
        is_named = _is_one_of(value, ("auto", "aic", "bic", False))
        is_selection = isinstance(value, str) and _SELECTION.fullmatch(value) is not None
        if is_named or is_selection or (_is_number(value, False) and value >= 0):
            return value
        raise ValueError('"auto", "aic", "bic", "num_features(N)", false, or a number from 0 on')


@dataclass(frozen=True)
class Array(Rule):
    """Numbers in nested lists of one length each, as an array; or null."""

    scalar: str = ""  # "wrapped" into an array of one, "kept" as it is, or refused
    is_whole: bool = False

    def read(self, value: Any) -> Any:
        if value is None or (self.scalar == "kept" and _is_number(value, self.is_whole)):
            return value
        if isinstance(value, list) or (self.scalar == "wrapped" and _is_number(value, self.is_whole)):
            array = _array(value if isinstance(value, list) else [value])
            if array is not None and (not self.is_whole or array.dtype.kind in "iu"):
                return array
        number = "whole number" if self.is_whole else "number"
        raise ValueError(f"{f'a {number}, or ' if self.scalar else ''}{number}s in lists that are of one length each")


@dataclass(frozen=True)
class Wholes(Rule):
    """A list of whole numbers, of columns or classes; or null."""

    def read(self, value: Any) -> Any:
        if value is None or (isinstance(value, list) and all(_is_column(one) for one in value)):
            return value
        raise ValueError(f"a list of whole numbers from 0 to {_MOST_COLUMNS}")


@dataclass(frozen=True)
class Features(Rule):
    """Numbers of columns, and where the explainer knows of them tuples of such numbers, lists in JSON; or null."""

    def read(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, list):
            made = [tuple(one) if isinstance(one, list) else one for one in value]
            if all(_is_column(one) for each in made for one in (each if isinstance(each, tuple) else (each,))):
                return made
        raise ValueError(f"a list of numbers of columns from 0 to {_MOST_COLUMNS}, or of lists of them")

    def check(self, value: Any, told: Any) -> None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError("each feature once")


@dataclass(frozen=True)
class Points(Rule):
    """Points of a grid by column; or null."""

    most: int  # for each column

    def read(self, value: Any) -> Any:
        return None if value is None else {column: _points(given) for column, given in by_number(value).items()}

    def check(self, value: Any, told: Any) -> None:
        for column, points in (value or {}).items():
            bound = max(self.most, len((told or {}).get(column, ())))
            if len(points) > bound:
                raise ValueError(f"at most {bound} points of column {column}, and here are {len(points)}")


@dataclass(frozen=True)
class Conditions(Rule):
    """Of counterfactuals: objects from features to ranges or categories, or numbers; or null."""

    def read(self, value: Any) -> Any:
        if value is None or (isinstance(value, list) and all(map(_is_condition, value))):
            return value
        array = _array(value) if isinstance(value, list) else None
        if array is None:
            raise ValueError("a list of objects from features to lists of numbers or of texts, or numbers in lists")
        return array


@dataclass(frozen=True)
class Table(Rule):
    """An object of any inside, which the model gets; or null."""

    def read(self, value: Any) -> Any:
        if value is not None and not isinstance(value, Mapping):
            raise ValueError("an object {...}")
        return value


def by_number(given: Any) -> dict[int, Any]:
    """An object whose keys are numbers of columns, which JSON has as text. ValueError."""
    try:
        return {int(column): values for column, values in given.items()}
    except (AttributeError, ValueError, TypeError):
        raise ValueError('an object from numbers of columns to lists, such as {"0": [...]}') from None


def _points(values: Any) -> Any:
    if isinstance(values, list) and values:
        if all(isinstance(one, str) for one in values):
            return np.asarray(values)
        array = _array(values)
        if array is not None and array.ndim == 1:
            return array
    raise ValueError("for each column a list of numbers, or of names of categories")


def _array(values: list[Any]) -> Any:
    """An array of numbers; None where they make none."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):  # ragged; beyond any number
        return None
    return array if array.dtype.kind in "biuf" and np.isfinite(array).all() else None


def _is_number(value: Any, is_whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if is_whole else int | float):
        return False
    return not isinstance(value, float) or isfinite(value)


def _is_column(value: Any) -> bool:
    return _is_number(value, True) and 0 <= value <= _MOST_COLUMNS


def _is_condition(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(one, list) and all(isinstance(part, str) or _is_number(part, False) for part in one)
        for one in value.values()
    )


def _is_one_of(value: Any, choices: tuple[Any, ...]) -> bool:
    return any(type(value) is type(one) and value == one for one in choices)
