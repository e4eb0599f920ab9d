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
from mlserve_alibi_explain.kinds import Kind

__all__ = ["arguments_of", "check_shapes", "instances_of"]

# Arguments of explain that memory grows with: ten times alibi's default. A grid of two features has its square.
_MOST = {
    "batch_size": 1000,
    "beam_size": 10,
    "binary_cache_size": 100_000,
    "cache_margin": 10_000,
    "coverage_samples": 100_000,
    "grid_resolution": 300,
    "min_samples_start": 1000,
    "n_covered_ex": 100,
    "n_repeats": 500,
    "nsamples": 20_000,
}
_LEAST = {"tau": 0.01}  # the samples that an anchor takes, which are kept, grow with its inverse squared
_ARRAYS = ("y", "Y", "baselines")  # arguments of explain that are arrays, lists in JSON


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
    if kind.takes == "either":
        return [data[place : place + 1] for place in range(len(data))]
    return list(data)


def check_shapes(model: MLModel, explainer: Any, instances: list[Any]) -> None:
    """InferenceError for instances of another shape than the explainer's, where that one tells its shape."""
    kind = type(explainer).__name__
    if kind == "AnchorTabular":
        expected = (len(explainer.feature_names),)
    elif kind == "AnchorImage":
        expected = tuple(explainer.image_shape)
    else:
        return
    for instance in instances:
        if instance.shape != expected:
            raise InferenceError(
                f"model '{model.name}' takes instances of shape {[-1, *expected]}, got {[-1, *instance.shape]}"
            )


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
    _check_bounds(given or {}, defaults)
    arguments = {**defaults, **(given or {})}
    for name in _ARRAYS:
        if isinstance(arguments.get(name), list):
            arguments[name] = np.asarray(arguments[name])
    return arguments


def _check_bounds(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """InferenceError for a number beyond its bound, or beyond what the settings have where that is further."""
    for name, value in given.items():
        told = defaults.get(name)
        bounds = [one for one in (_MOST.get(name), _LEAST.get(name), told) if isinstance(one, int | float)]
        if name not in _MOST.keys() | _LEAST.keys() or not isinstance(value, int | float):
            continue
        bound = max(bounds) if name in _MOST else min(bounds)
        if not (value <= bound if name in _MOST else value >= bound):
            raise InferenceError(
                f"explain_parameters: '{name}' is at {'most' if name in _MOST else 'least'} {bound} in a request, got "
                f"{value}: memory grows with it. The model's settings may go further (parameters.extra."
                f"explain_parameters), and requests then as far as they"
            )
