"""Which row of an answer belongs to which row of its request, whatever a model's transform does to their order.

A number travels with each row as one more column, and answers are put in its order. Stages of Spark's own leave columns
that they do not know alone. A statement of SQL may drop the number or hang on it, and code of others may look at all
columns, so there the plan that Spark makes is asked, and what it does not prove is not relied on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from pyspark.errors import AnalysisException
from pyspark.ml.feature import SQLTransformer

from mlserve_mllib.columns import Columns, stages_of
from mlserve_mllib.frames import frame_of

__all__ = ["Rows", "Transformed", "counts_of"]

_NUMBER = "mlserve_row"
_STRAIGHT = {"Project", "Filter", "SubqueryAlias", "View"}  # steps of a plan that see row by row, in the order given
_BY_ROW = {*_STRAIGHT, "Sort", "Generate"}  # that see row by row; the last may make several of one
_CARRYING = {*_BY_ROW, "Window", "Join"}  # whose rows are the same with a column more


class Transformed(NamedTuple):
    """What a model's transform gives for the rows of a request."""

    frame: Any
    number: str | None  # the column that numbers them; None: they are in the order in which Spark gives them
    is_by_row: bool  # what becomes of a row does not hang on others, and it can be told whose it is

    @property
    def names(self) -> list[str]:
        """The columns of the model's."""
        return [name for name in self.frame.columns if name != self.number]

    def in_order(self, collected: list[Any]) -> list[Any]:
        """The rows in the order of the request; each ends with its number, if they have one."""
        return collected if self.number is None else sorted(collected, key=_number_of)


class Rows:
    """Transforms the rows of requests with a model."""

    def __init__(self, model: Any, columns: Columns, session: Any) -> None:
        self._model = model
        self._columns = columns
        self._session = session
        stages = stages_of(model)
        self._is_numbered = all(type(stage).__module__.startswith("pyspark.ml.") for stage in stages)
        self._has_statements = any(isinstance(stage, SQLTransformer) for stage in stages)

    def transform(self, given: dict[str, Any]) -> Transformed:
        """The frame for the columns of a request, with numbered rows if that changes nothing else."""
        numbered = self._numbered(given) if self._is_numbered else None
        if numbered is not None:
            return numbered
        sent = frame_of(given, self._columns, self._session)
        frame = self._model.transform(sent)
        self._is_numbered = False  # a statement that cannot carry a number never can
        return Transformed(frame, None, _is_straight(_plan_of(frame), _plan_of(sent)))

    def _numbered(self, given: dict[str, Any]) -> Transformed | None:
        name = self._free_name(given)
        count = len(next(iter(given.values()), ()))
        numbers = {name: np.arange(count, dtype=np.float64)}  # of a type that may be in the plan itself
        sent = frame_of({**numbers, **given}, self._columns, self._session)
        if not self._has_statements:
            return Transformed(self._model.transform(sent), name, True)
        try:
            frame = self._model.transform(sent)
        except AnalysisException:  # such as a UNION with so many columns
            return None
        plan = _plan_of(frame)
        if frame.columns.count(name) != 1 or not _is_carried(name, plan):
            return None
        return Transformed(frame, name, all(step.nodeName() in _BY_ROW for step in _steps(plan)))

    def _free_name(self, given: dict[str, Any]) -> str:
        """A name that no column has; to Spark, `A` and `a` are one."""
        others = {one.lower() for one in (*given, *(self._columns.taken or ()), *self._columns.given)}
        name = _NUMBER
        while name in others:
            name += "_"
        return name


def counts_of(collected: Sequence[Any], sent: Sequence[int]) -> list[int]:
    """How many of the numbered rows, in order, each of the requests has that sent so many."""
    ends = np.searchsorted([_number_of(row) for row in collected], np.cumsum(sent))
    counts: list[int] = np.diff(ends, prepend=0).tolist()
    return counts


def _number_of(row: Any) -> float:
    return math.inf if row[-1] is None else row[-1]  # None: an outer join has made it


def _plan_of(frame: Any) -> Any:
    return frame._jdf.queryExecution().analyzed()


def _listed(sequence: Any) -> Iterator[Any]:
    """The elements of a sequence of Scala."""
    for at in range(sequence.size()):
        yield sequence.apply(at)


def _nodes(plan: Any) -> Iterator[Any]:
    yield plan
    for child in _listed(plan.children()):
        yield from _nodes(child)


def _steps(plan: Any) -> list[Any]:
    """What a plan does with the rows that its leaves have."""
    return [node for node in _nodes(plan) if node.children().size() > 0]


def _is_straight(plan: Any, sent: Any) -> bool:
    """Whether it provably gives the rows that are sent in their order, each by itself; it may leave some out."""
    nodes = list(_nodes(plan))
    steps, leaf = nodes[:-1], nodes[-1]
    known = all(step.nodeName() in _STRAIGHT for step in steps)
    return known and leaf.output().equals(sent.output()) and plan.subqueriesAll().isEmpty()


def _is_carried(number: str, plan: Any) -> bool:
    """Whether the number goes through a plan from end to end, and nothing is made of it."""
    return plan.subqueriesAll().isEmpty() and all(
        step.nodeName() in _CARRYING and not any(_looks_at(number, one) for one in _users(step))
        for step in _steps(plan)
    )


def _users(step: Any) -> list[Any]:
    """What may look at columns in a step; those that a projection only hands on do not."""
    if step.nodeName() != "Project":
        return [step]
    return [one for one in _listed(step.projectList()) if one.getClass().getSimpleName() != "AttributeReference"]


def _looks_at(number: str, user: Any) -> bool:
    return any(one.name() == number for one in _listed(user.references().toSeq()))
