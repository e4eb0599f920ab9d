"""Answers of a single model for a few vectors without a job of Spark, made of the same steps as its transform's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pyspark.ml.classification import ClassificationModel
from pyspark.ml.clustering import BisectingKMeansModel, GaussianMixtureModel, KMeansModel
from pyspark.ml.common import _java2py, _py2java
from pyspark.ml.linalg import DenseVector, VectorUDT
from pyspark.ml.regression import RegressionModel

from mlserve_mllib.columns import Columns, stages_of
from mlserve_mllib.frames import values_of

__all__ = ["Direct"]

_ROWS = 64  # up to here, asking a model row by row is faster than a job of Spark

_Step = Callable[[Any], Any]  # from a vector of Java


class Direct:
    """The outputs that a lone model of Spark's own gives for vectors; none for any other.

    A model's `predict` alone would not do: that of some classes passes over what transform heeds, such as `thresholds`.
    """

    def __init__(self, model: Any, columns: Columns, session: Any) -> None:
        self._context = session.sparkContext
        self._columns = columns
        self._column = next(iter(columns.taken or ()), "")
        self._steps = _steps(model, columns)

    @property
    def names(self) -> list[str]:
        """The outputs that it knows."""
        return sorted(self._steps)

    def answer(self, given: dict[str, Any], names: list[str]) -> dict[str, Any] | None:
        """The outputs for the column that the model takes, whatever others there are; None where Spark has to do it."""
        rows: Any = given.get(self._column)
        if rows is None or not self._steps.keys() >= set(names) or not _are_vectors(rows) or len(rows) > _ROWS:
            return None
        vectors = [DenseVector(row) for row in np.asarray(rows, np.float64).reshape(len(rows), -1)]
        sent = [_py2java(self._context, one) for one in vectors]
        return {name: self._values(name, sent) for name in names}

    def _values(self, name: str, sent: list[Any]) -> Any:
        step = self._steps[name]
        return values_of([_java2py(self._context, step(one)) for one in sent], self._columns.given[name])


def _steps(model: Any, columns: Columns) -> dict[str, _Step]:
    """By output, what transform does for one row."""
    stages = stages_of(model)
    taken = columns.taken or {}
    if len(stages) != 1 or len(taken) != 1 or not isinstance(next(iter(taken.values())), VectorUDT):
        return {}
    stage = stages[0]
    if not type(stage).__module__.startswith("pyspark.ml."):  # somebody else's, whose transform may do anything
        return {}
    java = stage._java_obj
    if isinstance(stage, ClassificationModel):
        found = _of_classifier(stage, java)
    elif isinstance(stage, RegressionModel | KMeansModel | BisectingKMeansModel | GaussianMixtureModel):
        found = {"predictionCol": java.predict}
        if isinstance(stage, GaussianMixtureModel):
            found["probabilityCol"] = java.predictProbability
    else:
        return {}
    named = {stage.getOrDefault(param): step for param, step in found.items()}
    return {name: step for name, step in named.items() if name in columns.given}


def _of_classifier(stage: Any, java: Any) -> dict[str, _Step]:
    """Transform makes the prediction of the raw one, where that has a column, and `thresholds` are applied there."""
    if not stage.getOrDefault("rawPredictionCol"):
        return {}
    found: dict[str, _Step] = {
        "rawPredictionCol": java.predictRaw,
        "predictionCol": lambda vector: java.raw2prediction(java.predictRaw(vector)),
    }
    if stage.hasParam("probabilityCol"):
        found["probabilityCol"] = java.predictProbability
    return found


def _are_vectors(rows: Any) -> bool:
    return isinstance(rows, np.ndarray) and rows.dtype.kind in "biuf" and rows.ndim <= 2 and len(rows) > 0
