"""`mlserver_xgboost.xgboost`: the runtime and its constants, by the names that MLServer has for them."""

from __future__ import annotations

from mlserve_xgboost.model import XGBoostModel

__all__ = [
    "PREDICT_OUTPUT",
    "PREDICT_PROBA_OUTPUT",
    "VALID_OUTPUTS",
    "WELLKNOWN_MODEL_FILENAMES",
    "XGBoostModel",
]

WELLKNOWN_MODEL_FILENAMES = list(XGBoostModel.wellknown_filenames)
PREDICT_OUTPUT = "predict"
PREDICT_PROBA_OUTPUT = "predict_proba"
VALID_OUTPUTS = list(XGBoostModel.methods)
