"""The instances that requests ask to have explained."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlserve import MLModel
from mlserve.codecs import NumpyRequestCodec, StringCodec
from mlserve.errors import InferenceError
from mlserve.types import InferenceRequest
from mlserve_alibi_explain.kinds import Kind

__all__ = ["check_shapes", "instances_of"]

_OF_TREES = ("TreeShap", "TreePartialDependence", "PartialDependenceVariance")


def instances_of(model: MLModel, kind: Kind, is_batch: bool, request: InferenceRequest) -> list[Any]:
    """What `explain` is called with, in turn: each instance, or all of them together. InferenceError."""
    if not request.inputs:
        raise InferenceError(f"model '{model.name}' explains an instance, and the request has no input")
    if kind.takes == "text":
        texts = model.decode(request.inputs[0], StringCodec)
        if isinstance(texts, np.ndarray):
            texts = texts.ravel().tolist()
        if not all(isinstance(one, str) for one in texts):
            raise InferenceError(f"model '{model.name}' explains texts: inputs[0] must have the datatype BYTES")
        _check_any(model, texts)
        return list(texts)
    data = np.asarray(model.decode_request(request, NumpyRequestCodec))
    if data.dtype.kind not in "biuf":
        got = ", ".join(f"'{one.name}' ({one.datatype})" for one in request.inputs)
        raise InferenceError(
            f"model '{model.name}' explains numbers: expected one tensor of them, or one for each column with the "
            f"content type 'pd', got {got}"
        )
    if data.ndim < 2:
        raise InferenceError(
            f"model '{model.name}' takes instances in rows, of shape [n, ...], got {list(data.shape)}: one instance "
            f"is of shape {[1, *data.shape]}"
        )
    _check_any(model, data)
    if is_batch:
        return [data]
    if kind.takes in ("one", "either"):
        return [data[place : place + 1] for place in range(len(data))]
    return list(data)


def _check_any(model: MLModel, data: Any) -> None:
    if len(data) == 0:
        raise InferenceError(f"model '{model.name}' explains an instance, and the request has none: inputs[0] is empty")


def check_shapes(model: MLModel, explainer: Any, instances: list[Any]) -> None:
    """InferenceError for instances of another shape than the explainer's, where that one tells its shape."""
    kind, own = type(explainer).__name__, 0  # dimensions that an instance has beyond the shape of one
    if kind == "AnchorTabular":
        expected = (len(explainer.feature_names),)
    elif kind == "AnchorImage":
        expected = tuple(explainer.image_shape)
    elif kind in ("CEM", "Counterfactual", "CounterfactualProto"):
        expected, own = tuple(explainer.meta["params"]["shape"])[1:], 1
    elif kind == "KernelShap":
        expected, own = (int(explainer._explainer.data.data.shape[1]),), 1
    elif kind in _OF_TREES:  # shap's C code reads and writes beyond rows of another width
        expected, own = (_columns(explainer, instances[0].shape[1]),), 1
    else:
        return
    for instance in instances:
        if instance.shape[own:] != expected:
            raise InferenceError(
                f"model '{model.name}' takes instances of shape {[-1, *expected]}, got {[-1, *instance.shape[own:]]}"
            )


def _columns(explainer: Any, given: int) -> int:
    """The columns of the trees that it looks into, as their framework tells them; or else those given, if the trees
    look at no others."""
    trees = getattr(explainer, "pd_explainer", explainer).predictor
    names = getattr(trees, "feature_names_", None)  # CatBoost
    if isinstance(names, list):
        return len(names)
    for name in ("n_features_in_", "num_features", "num_feature"):  # scikit-learn and its like, XGBoost, LightGBM
        told = getattr(trees, name, None)
        told = told() if callable(told) else told
        if isinstance(told, int | np.integer):
            return int(told)
    if type(explainer).__name__ != "TreeShap":
        return given
    return max(given, int(explainer._explainer.model.features.max()) + 1)
