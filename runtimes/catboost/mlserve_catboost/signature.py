"""The inputs and outputs of a model as model metadata, as far as its file has them."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlserve.codecs import NumpyCodec, to_datatype
from mlserve.tabular import column_tensors
from mlserve.types import Datatype, MetadataTensor, Parameters
from mlserve_catboost.inputs import InputCheck

__all__ = ["signature"]


def signature(
    estimator: Any, check: InputCheck, default_output: str
) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
    """Inputs and outputs, the default output first. No inputs if embeddings are among columns without names."""
    names = dict.fromkeys([default_output, "predict", "predict_proba"])
    outputs = [_output(estimator, name) for name in names if hasattr(estimator, name)]
    if check.embeddings and check.names is None:
        return [], outputs
    return [_input(one, check) for one in column_tensors(check, Datatype.FP64, check.text)], outputs


def _input(column: MetadataTensor, check: InputCheck) -> MetadataTensor:
    if column.name in check.categorical:  # no content type: categories may be whole numbers too
        return MetadataTensor(name=column.name, datatype=Datatype.BYTES, shape=column.shape)
    return _embedding(column, check) if column.name in check.embeddings else column


def _embedding(column: MetadataTensor, check: InputCheck) -> MetadataTensor:
    """A column with several numbers a row, which the content type keeps together."""
    shape = [-1, check.embeddings[column.name] or -1]
    parameters = Parameters(content_type=NumpyCodec.ContentType)
    return MetadataTensor(name=column.name, datatype=Datatype.FP64, shape=shape, parameters=parameters)


def _output(estimator: Any, name: str) -> MetadataTensor:
    classes = np.asarray(estimator.classes_)
    if not classes.size or name not in ("predict", "predict_proba"):
        datatype = Datatype.UINT32 if name == "calc_leaf_indexes" else Datatype.FP64
        return MetadataTensor(name=name, datatype=datatype, shape=[-1, -1])
    several = str(estimator.get_all_params().get("loss_function", "")).startswith("Multi")
    if name == "predict":  # of several labels, each may hold or not
        shape = [-1, -1 if several else 1]
        return MetadataTensor(name=name, datatype=to_datatype(classes.dtype), shape=shape)
    return MetadataTensor(name=name, datatype=Datatype.FP64, shape=[-1, len(classes)])
