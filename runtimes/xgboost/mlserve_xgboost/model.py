"""XGBoostModel: answers requests with an XGBoost model."""

from __future__ import annotations

from typing import Any

import xgboost

from mlserve.tabular import TabularModel
from mlserve.types import MetadataTensor
from mlserve_xgboost.artifact import PLACE, load_estimator
from mlserve_xgboost.inputs import InputCheck
from mlserve_xgboost.signature import signature

__all__ = ["XGBoostModel"]


class XGBoostModel(TabularModel):
    """A classifier, regressor or ranker of XGBoost, trained through its scikit-learn classes or as a Booster."""

    wellknown_filenames = ("model.bst", "model.json", "model.ubj", "model.model")
    methods = ("predict", "predict_proba", "apply")
    input_errors = (*TabularModel.input_errors, xgboost.core.XGBoostError)

    def read(self, path: str) -> Any:
        """The estimator in a file."""
        return load_estimator(path, self.name, self.extra.threads())

    def input_check(self) -> InputCheck:
        """What the model's file knows of its columns."""
        return InputCheck(self._model.get_booster())

    def signature(self) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
        """Inputs as the model's file has them, and outputs as it gives them for a row of zeros."""
        names = dict.fromkeys([self._default[0].name, "predict", "predict_proba"])
        return signature(self.input_check(), [name for name in names if hasattr(self._model, name)], self.try_out)

    def known_methods(self) -> str:
        """What the model can be asked for, and where a Booster's probabilities are, in words."""
        known = super().known_methods()
        if not isinstance(self._model, xgboost.XGBRegressor):
            return known
        return (
            f"{known} (a Booster is served as one: its predict gives what its objective gives, such as probabilities)"
        )

    def words_of(self, error: Exception) -> str:
        """XGBoost's complaint without the time, the place in its source and the stack trace."""
        if not isinstance(error, xgboost.core.XGBoostError):
            return super().words_of(error)
        return super().words_of(ValueError(PLACE.sub("", str(error).partition("Stack trace:")[0])))
