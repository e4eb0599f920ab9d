"""The inputs and outputs of an estimator as model metadata: what it knows of its columns, and what it answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mlserve.types import Datatype, MetadataTensor, Parameters, ResponseOutput

__all__ = ["signature"]

_ROWS = (2, 3)  # of two trials: a size that differs between them hangs on the rows
_VALUES = (0.0, 1.0)  # some estimators take positive numbers only

Ask = Callable[[str, Any], list[ResponseOutput]]


def signature(estimator: Any, methods: list[str], ask: Ask) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
    """Inputs, and an output for each of the methods that gives one; empty where the estimator does not know.

    What it answers is found by asking it: its attributes do not tell it for all kinds, nor through pipelines.
    """
    outputs = [found for name in methods if (found := _output(estimator, name, ask)) is not None]
    return _inputs(estimator), outputs


# -- inputs -----------------------------------------------------------------------------------------------------------


def _inputs(estimator: Any) -> list[MetadataTensor]:
    names = getattr(estimator, "feature_names_in_", None)
    known = _known_values(estimator)
    if names is not None:
        return [_column(str(name), isinstance(known.get(name), str)) for name in names]
    count = getattr(estimator, "n_features_in_", None)
    if count is None:
        return []
    texts = sum(isinstance(value, str) for value in known.values())
    if texts not in (0, count):  # no tensor holds texts and numbers
        return []
    return [MetadataTensor(name="x", datatype=Datatype.BYTES if texts else Datatype.FP64, shape=[-1, int(count)])]


def _column(name: str, is_text: bool) -> MetadataTensor:
    if is_text:
        return MetadataTensor(
            name=name, datatype=Datatype.BYTES, shape=[-1, 1], parameters=Parameters(content_type="str")
        )
    return MetadataTensor(name=name, datatype=Datatype.FP64, shape=[-1, 1])


def _known_values(estimator: Any) -> dict[Any, Any]:
    """A value for each column whose categories an encoder has learnt, by the column's name or place."""
    return dict(_categories(estimator))


def _categories(estimator: Any) -> Iterator[tuple[Any, Any]]:
    for _, first in getattr(estimator, "steps", [])[:1]:
        yield from _categories(first)
    names = getattr(estimator, "feature_names_in_", None)
    for _, part, columns in getattr(estimator, "transformers_", []):
        encoder = next((step for _, step in getattr(part, "steps", [("", part)])[-1:]), part)
        known = getattr(encoder, "categories_", [])
        if isinstance(columns, (list, np.ndarray)) and len(known) == len(columns):
            yield from zip(columns, map(_first, known), strict=True)
    known = getattr(estimator, "categories_", [])
    if len(known) == getattr(estimator, "n_features_in_", -1):
        yield from zip(range(len(known)) if names is None else names, map(_first, known), strict=True)


def _first(categories: Any) -> Any:
    return categories.tolist()[0] if len(categories) else 0.0


# -- outputs ----------------------------------------------------------------------------------------------------------


def _output(estimator: Any, name: str, ask: Ask) -> MetadataTensor | None:
    """What one method gives; None if it cannot be asked, or gives several outputs."""
    for value in _VALUES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = [ask(name, _sample(estimator, value, rows)) for rows in _ROWS]
        except Exception:  # of code that may be anybody's; the metadata then does not say
            continue
        if any([one.name for one in outputs] != [name] for outputs in found):
            return None
        (first,), (second,) = found
        sizes = zip(first.shape[1:], second.shape[1:], strict=True)
        shape = [-1, *(size if size == other else -1 for size, other in sizes)]
        return MetadataTensor(name=name, datatype=first.datatype, shape=shape)
    return None


def _sample(estimator: Any, value: float, rows: int) -> Any:
    """So many rows that the estimator might take: with its columns, or texts if it knows of none."""
    count = getattr(estimator, "n_features_in_", None)
    if count is None:
        return [""] * rows
    known = _known_values(estimator)
    names = getattr(estimator, "feature_names_in_", None)
    row = [known.get(key, value) for key in (range(count) if names is None else names)]
    if names is None:
        return np.array([row] * rows, object if any(isinstance(one, str) for one in row) else np.float64)
    import pandas as pd

    return pd.DataFrame([row] * rows, columns=list(names))
