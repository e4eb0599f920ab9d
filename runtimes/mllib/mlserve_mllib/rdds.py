"""Models of the older RDD-based library, which have no columns: what they take, and their predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
from pyspark.ml.linalg import VectorUDT
from pyspark.mllib.linalg import Vectors
from pyspark.mllib.recommendation import MatrixFactorizationModel
from pyspark.sql.types import DoubleType, LongType

from mlserve.errors import InferenceError
from mlserve_mllib.columns import FEATURES, PREDICTION, Columns

__all__ = ["RddModel"]

_PAIR = ("user", "product")
_LARGEST = 2**31 - 1  # what Spark has users and products in


class RddModel:
    """One model."""

    def __init__(self, model: Any, session: Any, name: str) -> None:
        self._model = model
        self._context = session.sparkContext
        self._name = name
        self._is_recommender = isinstance(model, MatrixFactorizationModel)
        if self._is_recommender:
            given = {PREDICTION: DoubleType()}
            self.columns = Columns(dict.fromkeys(_PAIR, LongType()), given, None, [PREDICTION])
        else:
            self.columns = Columns({FEATURES: VectorUDT()}, {}, _width(model), [PREDICTION])

    def answer(self, given: dict[str, Any], names: list[str]) -> dict[str, Any]:
        """The predictions. InferenceError for another output, or for what is no such tensor."""
        other = [name for name in names if name != PREDICTION]
        if other:
            raise InferenceError(f"model '{self._name}' has no output '{other[0]}': it gives {PREDICTION}")
        return {PREDICTION: self._ratings(given) if self._is_recommender else self._predictions(given[FEATURES])}

    def _predictions(self, rows: Any) -> Any:
        if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "biuf" or rows.ndim > 2 or not len(rows):
            raise InferenceError(f"model '{self._name}' takes a tensor of numbers of shape [rows, size]")
        vectors = np.asarray(rows, np.float64).reshape(len(rows), -1)
        return np.asarray([self._model.predict(Vectors.dense(row)) for row in vectors])

    def _ratings(self, given: dict[str, Any]) -> Any:
        """One job for all pairs; NaN where the user or the product was not in training, for which Spark gives none."""
        pairs = list(zip(*(self._whole(name, given[name]) for name in _PAIR), strict=True))
        asked = self._context.parallelize(list(dict.fromkeys(pairs)))
        found = (
            {(one.user, one.product): one.rating for one in self._model.predictAll(asked).collect()} if pairs else {}
        )
        return np.array([found.get(pair, np.nan) for pair in pairs], np.float64)

    def _whole(self, name: str, values: Any) -> list[int]:
        array = np.asarray(values)
        is_number = array.dtype.kind in "iuf" and array.size == len(array)
        if not is_number or not np.all((np.trunc(array) == array) & (abs(array) <= _LARGEST)):
            raise InferenceError(f"'{name}' takes one whole number of 32 bits a row")
        return [int(one) for one in array.ravel().tolist()]


def _width(model: Any) -> int | None:
    """How many numbers a vector has; None where the model does not know: trees, and isotonic regressions."""
    if hasattr(model, "numFeatures"):
        return int(model.numFeatures)
    if hasattr(model, "theta"):
        return int(model.theta.shape[1])
    if hasattr(model, "gaussians"):
        return len(model.gaussians[0].mu)
    if hasattr(model, "clusterCenters"):
        return len(model.clusterCenters[0])
    return len(model.weights) if hasattr(model, "weights") else None
