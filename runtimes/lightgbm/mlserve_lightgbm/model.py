"""LightGBMModel: answers requests with a LightGBM model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightgbm

from mlserve.settings import ModelSettings
from mlserve.tabular import TabularModel
from mlserve.types import MetadataTensor
from mlserve_lightgbm.artifact import load_model
from mlserve_lightgbm.inputs import InputCheck
from mlserve_lightgbm.signature import signature

__all__ = ["LightGBMModel"]


class LightGBMModel(TabularModel):
    """A Booster of LightGBM, or one of its scikit-learn classes from joblib or pickle."""

    wellknown_filenames = ("model.bst", "model.txt", "model.model", "model.joblib", "model.pickle", "model.pkl")
    methods = ("predict", "predict_proba")
    input_errors = (*TabularModel.input_errors, lightgbm.basic.LightGBMError)

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._options: dict[str, int] = {}

    def read(self, path: str) -> Any:
        """The Booster or estimator in a file."""
        threads = self.extra.threads()
        self._options = {} if threads is None else {"num_threads": threads}
        return load_model(path, self.name)

    def input_check(self) -> InputCheck:
        """What the model knows of its columns."""
        return InputCheck(self._booster())

    def signature(self) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
        """Inputs and outputs, as far as the model has them."""
        return signature(self._model, self._booster(), self.input_check(), self._default[0].name)

    def call(self, method: Callable[..., Any], data: Any) -> Any:
        """Each call is told how many threads it may use."""
        return method(data, **self._options)

    def _booster(self) -> lightgbm.Booster:
        return self._model if isinstance(self._model, lightgbm.Booster) else self._model.booster_
