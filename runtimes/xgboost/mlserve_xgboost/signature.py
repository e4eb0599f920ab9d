"""The inputs and outputs of a model as model metadata, as far as its file has them."""

from __future__ import annotations

from typing import Any

from mlserve.tabular import column_tensors
from mlserve.types import Datatype, MetadataTensor
from mlserve_xgboost.inputs import InputCheck

__all__ = ["signature"]


def signature(
    estimator: Any, check: InputCheck, default_output: str
) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
    """Inputs and outputs, the default output first."""
    names = dict.fromkeys([default_output, "predict", "predict_proba"])
    return column_tensors(check, Datatype.FP32, check.categorical), [
        _output(estimator, name) for name in names if hasattr(estimator, name)
    ]


def _output(estimator: Any, name: str) -> MetadataTensor:
    classes = getattr(estimator, "n_classes_", None)
    if name == "predict":
        datatype = Datatype.FP32 if classes is None else Datatype.INT64
        return MetadataTensor(name=name, datatype=datatype, shape=[-1, -1 if classes is None else 1])
    width = int(classes) if name == "predict_proba" and classes else -1
    return MetadataTensor(name=name, datatype=Datatype.FP32, shape=[-1, width])
