"""The inputs and outputs of a model as model metadata, as far as its file has them."""

from __future__ import annotations

from typing import Any

from mlserve.codecs import to_datatype
from mlserve.tabular import column_tensors
from mlserve.types import Datatype, MetadataTensor
from mlserve_lightgbm.inputs import InputCheck

__all__ = ["signature"]


def signature(
    model: Any, booster: Any, check: InputCheck, default_output: str
) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
    """Inputs and outputs, the default output first. No inputs where the file hides which columns are categories."""
    names = dict.fromkeys([default_output, "predict", "predict_proba"])
    outputs = [_output(model, booster, name) for name in names if hasattr(model, name)]
    if check.known is None:
        return [], outputs
    text = {name for name, one in check.known.items() if one.kind == "text"}
    return column_tensors(check, Datatype.FP64, text), outputs


def _output(model: Any, booster: Any, name: str) -> MetadataTensor:
    classes = getattr(model, "classes_", None)
    if classes is None:  # a Booster or a regressor: one number for each class, else one
        return MetadataTensor(name=name, datatype=Datatype.FP64, shape=[-1, booster.num_model_per_iteration()])
    if name == "predict":
        return MetadataTensor(name=name, datatype=to_datatype(classes.dtype), shape=[-1, 1])
    return MetadataTensor(name=name, datatype=Datatype.FP64, shape=[-1, len(classes)])
