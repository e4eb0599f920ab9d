"""Bounds of what a request may make an explanation cost: a few bytes must not become gigabytes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from math import prod
from typing import Any

import numpy as np

from mlserve.errors import InferenceError

__all__ = ["check_cost", "check_numbers"]

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
    "num_samples": 10,
    "patience": 10_000,
}
_LEAST = {"tau": 0.01}  # the samples that an anchor takes, which are kept, grow with its inverse squared
_MOST_VALUES = 10_000_000  # kept at a time for each output of the model: 80 MB
_DEFAULT_RESOLUTION = 100  # alibi's
_PLOTS = ("PartialDependence", "TreePartialDependence", "PartialDependenceVariance")


def check_numbers(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """InferenceError for a number beyond its bound, or beyond what the settings have where that is further."""
    for name, value in given.items():
        if name == "grid_points":
            _check_points(value, defaults)
        if name not in _MOST.keys() | _LEAST.keys() or not isinstance(value, int | float):
            continue
        told = defaults.get(name)
        bounds = [one for one in (_MOST.get(name), _LEAST.get(name), told) if isinstance(one, int | float)]
        bound = max(bounds) if name in _MOST else min(bounds)
        if not (value <= bound if name in _MOST else value >= bound):
            which = "most" if name in _MOST else "least"
            raise _refusal(f"'{name}' is at {which} {bound} in a request, got {value}: memory grows with it")


def _check_points(given: Mapping[int, Any], defaults: Mapping[str, Any]) -> None:
    told = defaults.get("grid_points") or {}
    for feature, points in given.items():
        bound = max(_MOST["grid_resolution"], len(told.get(feature, ())))
        if len(points) > bound:
            raise _refusal(
                f"'grid_points' of feature {feature}: at most {bound} in a request, got {len(points)}: memory grows "
                f"with them"
            )


def check_cost(explainer: Any, data: Any, arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """InferenceError for arguments that together keep more values than one answer may, and than the settings' own."""
    cost = _values_kept(explainer, data, arguments)
    if cost > _MOST_VALUES and cost > _values_kept(explainer, data, defaults):
        raise _refusal(
            f"these arguments for {len(data)} rows make {type(explainer).__name__} keep {cost} values for each output "
            f"of the model, and a request may ask for {_MOST_VALUES}: send fewer rows, features or points, or take "
            f"another method or kind"
        )


def _refusal(what: str) -> InferenceError:
    return InferenceError(
        f"explain_parameters: {what}. The model's settings may go further (parameters.extra.explain_parameters), and "
        f"requests then as far as they"
    )


def _values_kept(explainer: Any, data: Any, arguments: Mapping[str, Any]) -> int:
    kind = type(explainer).__name__
    if kind not in (*_PLOTS, "PermutationImportance", "ALE", "TreeShap"):
        return 0
    rows, columns = int(data.shape[0]), int(data.shape[1])
    features = arguments.get("features") or range(columns)
    if kind in _PLOTS:
        return _of_plots(explainer, data, features, arguments)
    if kind == "PermutationImportance":
        return rows * rows if arguments.get("method") == "exact" else rows
    if kind == "ALE":
        return rows * len(features)
    if kind == "TreeShap" and arguments.get("interactions"):
        return rows * columns * columns
    return 0


def _of_plots(explainer: Any, data: Any, features: Any, arguments: Mapping[str, Any]) -> int:
    """A grid's points for each row while it is computed, and in the answer where that has each row's own."""
    resolution, given = arguments.get("grid_resolution", _DEFAULT_RESOLUTION), arguments.get("grid_points") or {}
    categories = getattr(explainer, "pd_explainer", explainer).categorical_names or {}

    def points(feature: int) -> int:
        values = len(np.unique(data[:, feature]))
        return len(given[feature]) if feature in given else values if feature in categories else min(values, resolution)

    if arguments.get("method") == "interaction" and not arguments.get("features"):
        features = combinations(features, 2)
    sizes = {feature: points(feature) for feature in range(data.shape[1])}
    grids = [
        prod(sizes.get(one, 1) for one in (feature if isinstance(feature, tuple) else (feature,)))
        for feature in features
    ]
    kept = sum(grids) if arguments.get("kind") in ("individual", "both") else max(grids, default=0)
    return int(len(data) * kept + sum(grids))
