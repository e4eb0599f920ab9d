"""What requests ask for: instances to explain, and arguments of `explain`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlserve import MLModel
from mlserve.codecs import NumpyRequestCodec, StringCodec
from mlserve.errors import InferenceError
from mlserve.types import InferenceRequest
from mlserve_alibi_explain.bounds import check_numbers
from mlserve_alibi_explain.kinds import Kind

__all__ = ["arguments_of", "as_alibi_has_it", "by_number", "check_shapes", "instances_of"]

_OF_TREES = ("TreeShap", "TreePartialDependence", "PartialDependenceVariance")
_PRINTING = ("verbose", "verbose_every", "print_every", "silent")  # what the server's output is told: no client's
_LABELS = ("y", "Y", "Y_t")
_ARRAYS = (*_LABELS, "baselines", "sample_weight")  # arguments of explain that are arrays, lists in JSON


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
    if is_batch:
        return [data]
    if kind.takes in ("one", "either"):
        return [data[place : place + 1] for place in range(len(data))]
    return list(data)


def check_shapes(model: MLModel, explainer: Any, instances: list[Any]) -> None:
    """InferenceError for instances of another shape than the explainer's, where that one tells its shape."""
    kind, own = type(explainer).__name__, 0  # dimensions that an instance has beyond the shape of one
    if kind == "AnchorTabular":
        expected = (len(explainer.feature_names),)
    elif kind == "AnchorImage":
        expected = tuple(explainer.image_shape)
    elif kind in ("CEM", "Counterfactual", "CounterfactualProto"):
        expected, own = tuple(explainer.meta["params"]["shape"])[1:], 1
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


def arguments_of(model: MLModel, defaults: Mapping[str, Any], request: InferenceRequest) -> dict[str, Any]:
    """The arguments of `explain`: those of the settings, overruled by those of the request. InferenceError."""
    given = dict.get(request.parameters, "explain_parameters") if request.parameters is not None else None
    if isinstance(given, str):  # gRPC has no parameters with an inside
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise InferenceError(f"explain_parameters: the text is no JSON: {error}") from None
    if given is not None and not isinstance(given, Mapping):
        raise InferenceError(f"explain_parameters: expected an object {{...}}, got {given!r:.80}")
    asked = as_alibi_has_it({name: value for name, value in (given or {}).items() if name not in _PRINTING})
    check_numbers(asked, defaults)
    arguments = {**defaults, **asked}
    if arguments.get("grid_points"):
        arguments["grid_points"] = dict(arguments["grid_points"])  # alibi sorts them in place
    if arguments.get("method") == "exact" and isinstance(arguments.get("sample_weight"), np.ndarray):
        arguments["sample_weight"] = arguments["sample_weight"].tolist()  # alibi asks whether it is empty
    return arguments


def as_alibi_has_it(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `explain` in JSON as alibi takes them. InferenceError."""
    made = dict(given)
    for name, value in given.items():
        if name in _ARRAYS and isinstance(value, list):
            made[name] = np.asarray(value)
        elif name in _LABELS and isinstance(value, int | float):
            made[name] = np.asarray([value])
        elif name == "C" and isinstance(value, list) and not _all(value, dict):
            made[name] = np.asarray(value)  # a condition as numbers
        elif name == "features" and isinstance(value, list):
            made[name] = [tuple(one) if isinstance(one, list) else one for one in value]
        elif name == "grid_points" and value is not None:
            made[name] = _points(value)
    return made


def by_number(name: str, given: Any) -> dict[int, Any]:
    """An object whose keys are numbers of columns, which JSON has as text. ValueError."""
    try:
        return {int(column): values for column, values in given.items()}
    except (AttributeError, ValueError, TypeError):
        raise ValueError(
            f'{name}: expected an object from numbers of columns to lists, such as {{"0": [...]}}, got {given!r:.80}'
        ) from None


def _points(given: Any) -> dict[int, Any]:
    """Points of a grid for each column. InferenceError."""
    try:
        return {column: _column(column, values) for column, values in by_number("grid_points", given).items()}
    except ValueError as error:
        raise InferenceError(f"explain_parameters: {error}") from None


def _column(column: int, values: Any) -> Any:
    is_list = isinstance(values, list) and len(values) > 0
    if not is_list or not (_all(values, int | float) or _all(values, str)):
        raise ValueError(
            f"grid_points of column {column}: expected a list of numbers, or of names of categories, got {values!r:.80}"
        )
    return np.asarray(values)


def _all(values: list[Any], kinds: Any) -> bool:
    return all(isinstance(one, kinds) for one in values)
