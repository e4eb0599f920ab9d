"""`mlserver_sklearn.sklearn`: the runtime and its constants, by the names that MLServer has for them."""

from __future__ import annotations

from mlserve_sklearn.model import SKLearnModel

__all__ = [
    "PREDICT_FN_KEY",
    "PREDICT_OUTPUT",
    "PREDICT_PROBA_OUTPUT",
    "PREDICT_TRANSFORM",
    "VALID_OUTPUTS",
    "WELLKNOWN_MODEL_FILENAMES",
    "SKLearnModel",
]

WELLKNOWN_MODEL_FILENAMES = list(SKLearnModel.wellknown_filenames)
PREDICT_OUTPUT = "predict"
PREDICT_PROBA_OUTPUT = "predict_proba"
PREDICT_TRANSFORM = "transform"
VALID_OUTPUTS = list(SKLearnModel.methods)
PREDICT_FN_KEY = "predict_fn"  # in parameters.extra
