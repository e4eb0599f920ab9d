"""The inputs and outputs of a model as model metadata, as far as its file has them."""

from __future__ import annotations

from typing import Any

from mlserve.types import Datatype, MetadataTensor, Parameters
from mlserve_xgboost.inputs import InputCheck

__all__ = ["signature"]


def signature(
    estimator: Any, check: InputCheck, default_output: str
) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
    """Inputs and outputs, the default output first."""
    names = dict.fromkeys([default_output, "predict", "predict_proba"])
    return _inputs(check), [_output(estimator, name) for name in names if hasattr(estimator, name)]


def _inputs(check: InputCheck) -> list[MetadataTensor]:
    if check.names is None:
        return [MetadataTensor(name="x", datatype=Datatype.FP32, shape=[-1, check.count])]
    kinds = check.types or ["float"] * check.count
    return [_column(name, kind == "c") for name, kind in zip(check.names, kinds)]


def _column(name: str, is_text: bool) -> MetadataTensor:
    if is_text:
        return MetadataTensor(
            name=name, datatype=Datatype.BYTES, shape=[-1, 1], parameters=Parameters(content_type="str")
        )
    return MetadataTensor(name=name, datatype=Datatype.FP32, shape=[-1, 1])


def _output(estimator: Any, name: str) -> MetadataTensor:
    classes = getattr(estimator, "n_classes_", None)
    if name == "predict":
        datatype = Datatype.FP32 if classes is None else Datatype.INT64
        return MetadataTensor(name=name, datatype=datatype, shape=[-1, -1 if classes is None else 1])
    width = int(classes) if name == "predict_proba" and classes else -1
    return MetadataTensor(name=name, datatype=Datatype.FP32, shape=[-1, width])
