"""CatboostModel: answers requests with a CatBoost model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import catboost

from mlserve.settings import ModelSettings
from mlserve.tabular import TabularModel
from mlserve.thread_limits import threads_of_process
from mlserve.types import MetadataTensor
from mlserve_catboost.artifact import load_estimator, widths_of
from mlserve_catboost.inputs import InputCheck
from mlserve_catboost.signature import signature

__all__ = ["CatboostModel"]


class CatboostModel(TabularModel):
    """A classifier, regressor or ranker of CatBoost, as its file says what it is."""

    wellknown_filenames = ("model.cbm", "model.json", "model.bin")
    methods = ("predict", "predict_proba", "predict_log_proba", "calc_leaf_indexes")
    input_errors = (*TabularModel.input_errors, catboost.CatBoostError)

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._options: dict[str, int] = {}
        self._widths: dict[int, int | None] = {}

    def read(self, path: str) -> Any:
        """The estimator in a file."""
        threads = self.extra.threads() or threads_of_process()
        self._options = {} if threads is None else {"thread_count": threads}
        estimator = load_estimator(path, self.name)
        self._widths = widths_of(estimator, path, self.name)
        return estimator

    def input_check(self) -> InputCheck:
        """What the model's file knows of its columns."""
        return InputCheck(self._model, self._widths)

    def signature(self) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
        """Inputs and outputs, as far as the model's file has them."""
        return signature(self._model, self.input_check(), self._default[0].name)

    def call(self, method: Callable[..., Any], data: Any) -> Any:
        """Each call is told how many threads it may use."""
        return method(data, **self._options)

    def words_of(self, error: Exception) -> str:
        """CatBoost's complaint without the place in its source, and without the whole of a long value."""
        text = super().words_of(error)
        place, _, message = text.partition(": ")
        return (message if ".cpp:" in place and message else text)[:500]
