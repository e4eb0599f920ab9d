"""The inputs and outputs of an estimator as model metadata, as far as it knows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mlserve.codecs import to_datatype
from mlserve.errors import CodecError
from mlserve.types import Datatype, MetadataTensor, Parameters

__all__ = ["signature"]


def signature(estimator: Any, default_output: str) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
    """Inputs and outputs, the default output first. Lists are empty where the estimator does not know."""
    outputs = []
    for name in dict.fromkeys([default_output, "predict", "predict_proba", "decision_function", "transform"]):
        if hasattr(estimator, name):
            outputs += _output(estimator, name)
    return _inputs(estimator), outputs


def _inputs(estimator: Any) -> list[MetadataTensor]:
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        text = set(_text_columns(estimator))
        return [_column(str(name), str(name) in text) for name in names]
    count = getattr(estimator, "n_features_in_", None)
    return [] if count is None else [MetadataTensor(name="x", datatype=Datatype.FP64, shape=[-1, int(count)])]


def _column(name: str, is_text: bool) -> MetadataTensor:
    if is_text:
        return MetadataTensor(
            name=name, datatype=Datatype.BYTES, shape=[-1, 1], parameters=Parameters(content_type="str")
        )
    return MetadataTensor(name=name, datatype=Datatype.FP64, shape=[-1, 1])


def _text_columns(estimator: Any) -> Iterator[str]:
    """Columns that are text, known from the categories that an encoder has learnt."""
    for _, first in getattr(estimator, "steps", [])[:1]:
        yield from _text_columns(first)
    for _, part, columns in getattr(estimator, "transformers_", []):
        encoder = next((step for _, step in getattr(part, "steps", [("", part)])[-1:]), part)
        categories = getattr(encoder, "categories_", [])
        if isinstance(columns, (list, np.ndarray)) and len(categories) == len(columns):
            pairs = zip(columns, categories, strict=True)
            yield from (str(name) for name, known in pairs if known.dtype.kind in "OUST")


def _output(estimator: Any, name: str) -> list[MetadataTensor]:
    classes = getattr(estimator, "classes_", None)
    if isinstance(classes, list):  # several targets: one answer each, which the shape cannot tell
        return []
    if name == "predict":
        datatype = _datatype_of_predict(estimator, classes)
        return [MetadataTensor(name=name, datatype=datatype, shape=[-1, _width(estimator)])]
    if name == "predict_proba" and classes is not None:
        return [MetadataTensor(name=name, datatype=Datatype.FP64, shape=[-1, len(classes)])]
    if name == "decision_function":
        width = len(classes) if classes is not None and len(classes) > 2 else 1
        return [MetadataTensor(name=name, datatype=Datatype.FP64, shape=[-1, width])]
    return [MetadataTensor(name=name, datatype=Datatype.FP64, shape=[-1, -1])]


def _datatype_of_predict(estimator: Any, classes: Any) -> str:
    if classes is not None:
        try:
            return to_datatype(np.asarray(classes).dtype)
        except CodecError:
            return Datatype.BYTES
    return Datatype.INT64 if getattr(estimator, "_estimator_type", None) == "clusterer" else Datatype.FP64


def _width(estimator: Any) -> int:
    coefficients: Any = getattr(estimator, "coef_", None)
    if getattr(coefficients, "ndim", 1) == 2 and getattr(estimator, "classes_", None) is None:
        return int(coefficients.shape[0])
    return int(getattr(estimator, "n_outputs_", 1))
