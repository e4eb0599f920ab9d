"""The inputs and outputs of an estimator as model metadata: what it knows of its columns, and what it answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from mlserve.types import Datatype, MetadataTensor, Parameters, ResponseOutput
from mlserve_sklearn.columns import columns_of, known_values

__all__ = ["UnansweredError", "signature"]

_ROWS = (2, 3)  # of two trials: a size that differs between them hangs on the rows

Row = dict[Any, Any] | None  # a text or number for each column; None: a text, for what knows of no columns
Ask = Callable[[str, Any], list[ResponseOutput]]


class UnansweredError(Exception):
    """The estimator answers none of the rows that it is tried with; tells of its first refusal."""

    def __init__(self, refusals: list[Exception]) -> None:
        first = f"{type(refusals[0]).__name__}: {refusals[0]}" if refusals else "it has no methods"
        super().__init__(first)
        self.refusals = refusals


def signature(estimator: Any, methods: list[str], ask: Ask) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
    """Inputs of a kind that it has answered, and an output for each of the methods that gives one; UnansweredError.

    What it answers is found by asking it: its attributes do not tell it for all kinds, nor through pipelines.
    """
    refusals: list[Exception] = []
    for rows in _guesses(estimator):
        outputs: list[MetadataTensor] = []
        answered = False
        for name in methods:
            found = _first_answer(partial(ask, name), estimator, rows, refusals)
            answered = answered or found is not None
            outputs += _output(name, *found) if found is not None else []
        if answered:
            return _inputs(estimator, rows[0]), outputs
    raise UnansweredError(refusals)


def _guesses(estimator: Any) -> Iterator[list[Row]]:
    """Rows to try, together those in which the same columns are text; where that is not known, numbers come first."""
    columns = columns_of(estimator)
    if columns is None:
        yield [None]
        return
    known = known_values(estimator)
    yield [dict.fromkeys(columns, value) | known for value in (0.0, 1.0)]  # some take positive numbers only
    yield [dict.fromkeys(columns, "") | known]


def _first_answer(
    ask: Callable[[Any], list[ResponseOutput]], estimator: Any, rows: list[Row], refusals: list[Exception]
) -> tuple[list[ResponseOutput], ...] | None:
    """What a method gives for one of the rows, for each of `_ROWS`."""
    for row in rows:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return tuple(ask(_sample(estimator, row, count)) for count in _ROWS)
        except Exception as error:  # of code that may be anybody's
            refusals.append(error)
    return None


def _sample(estimator: Any, row: Row, count: int) -> Any:
    """So many times the row, in the form in which the estimator was fitted."""
    if row is None:
        return [""] * count
    values = [list(row.values())] * count
    if not hasattr(estimator, "feature_names_in_"):
        return np.array(values, object if _texts(row) else np.float64)
    import pandas as pd

    return pd.DataFrame(values, columns=list(row))


def _texts(row: dict[Any, Any]) -> int:
    return sum(isinstance(value, str) for value in row.values())


# -- what is declared -------------------------------------------------------------------------------------------------


def _inputs(estimator: Any, row: Row) -> list[MetadataTensor]:
    """Tensors for such rows; none where there is no saying it: for plain texts, and texts with numbers in one array."""
    if row is None:
        return []
    if hasattr(estimator, "feature_names_in_"):
        return [_column(str(name), isinstance(value, str)) for name, value in row.items()]
    if _texts(row) not in (0, len(row)):
        return []
    return [MetadataTensor(name="x", datatype=Datatype.BYTES if _texts(row) else Datatype.FP64, shape=[-1, len(row)])]


def _column(name: str, is_text: bool) -> MetadataTensor:
    if is_text:
        return MetadataTensor(
            name=name, datatype=Datatype.BYTES, shape=[-1, 1], parameters=Parameters(content_type="str")
        )
    return MetadataTensor(name=name, datatype=Datatype.FP64, shape=[-1, 1])


def _output(name: str, *answers: list[ResponseOutput]) -> list[MetadataTensor]:
    """What a method gives; nothing if that is several outputs."""
    if any([one.name for one in outputs] != [name] for outputs in answers):
        return []
    (first,), (second,) = answers
    sizes = zip(first.shape[1:], second.shape[1:], strict=True)
    shape = [-1, *(size if size == other else -1 for size, other in sizes)]
    return [MetadataTensor(name=name, datatype=first.datatype, shape=shape)]
