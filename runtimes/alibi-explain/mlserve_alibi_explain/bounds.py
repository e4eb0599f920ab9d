"""Bounds of what arguments together may make an explanation cost: a few bytes must not become gigabytes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from math import prod
from typing import Any

import numpy as np

from mlserve.errors import InferenceError

__all__ = ["check_cost", "fitting"]

_MOST_VALUES = 10_000_000  # kept at a time for each output of the model: 80 MB
_MOST_QUESTIONS = 20_000  # to the model, one after the other
_MOST_CHARACTERS = 500_000_000  # of sampled texts, kept at a time: 2 GB
_DEFAULT_RESOLUTION = 100  # alibi's
_DEFAULT_REPEATS = 50
_DEFAULT_COVERAGE = 10_000
_DEFAULT_BATCH = 100
_DEFAULT_CACHE = 10_000  # batches
_LEAST_COVERAGE = 1000  # below, what it says of an anchor's coverage means little
_UNKNOWN = "UNK"  # stands for words that are left out
_PLOTS = ("PartialDependence", "TreePartialDependence", "PartialDependenceVariance")


def check_cost(explainer: Any, data: Any, arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """InferenceError for arguments that together keep more values than one answer may, and than the settings' own."""
    if type(explainer).__name__.startswith("Anchor"):
        _check_cache(arguments, defaults)
    cost = _values_kept(explainer, data, arguments)
    if cost > _MOST_VALUES and cost > _values_kept(explainer, data, defaults):
        raise _refusal(
            f"these arguments for {len(data)} rows make {type(explainer).__name__} keep {cost} values for each output "
            f"of the model, and a request may ask for {_MOST_VALUES}: send fewer rows, features or points, or take "
            f"another method or kind"
        )
    asked = _questions(explainer, data, arguments)
    if asked > _MOST_QUESTIONS and asked > _questions(explainer, data, defaults):
        raise _refusal(
            f"these arguments for {len(data)} rows make {type(explainer).__name__} ask the model {asked} times, and a "
            f"request may {_MOST_QUESTIONS} times: send fewer rows, features, points or n_repeats"
        )


def _check_cache(arguments: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """An anchor's room for samples is made at once, for so many batches."""
    rows, own = (
        one.get("batch_size", _DEFAULT_BATCH) * one.get("binary_cache_size", _DEFAULT_CACHE)
        for one in (arguments, told)
    )
    if rows > max(_MOST_VALUES, own):
        raise _refusal(
            f"'batch_size' times 'binary_cache_size' are {rows} samples to make room for, and a request may ask for "
            f"{_MOST_VALUES}"
        )


def fitting(explainer: Any, data: Any, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments, for a text with as many coverage_samples as have room where nobody says how many. InferenceError
    if there is no room for those that somebody asks for."""
    if type(explainer).__name__ != "AnchorText":
        return arguments
    tokens = getattr(explainer.model, "make_doc", None)  # spaCy's; a language model has none
    words = [word.text for word in tokens(data)] if tokens is not None else data.split()
    longest = max(map(len, (_UNKNOWN, *words)))
    room = _MOST_CHARACTERS // max(len(words) * len(words) * longest, 1)  # each word has the room of the whole text
    told = [arguments.get(name) for name in ("coverage_samples", "batch_size", "min_samples_start")]
    most = max((one for one in told if one is not None), default=_LEAST_COVERAGE)
    if "coverage_samples" not in arguments:
        most = max(most, _LEAST_COVERAGE)
    if most > room:
        raise InferenceError(
            f"explain_parameters: {most} samples of a text of {len(words)} words, up to {longest} characters long, are "
            f"too many: there is room for {room}. Send a shorter text, or ask for fewer coverage_samples"
        )
    return {"coverage_samples": min(_DEFAULT_COVERAGE, room), **arguments}


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


def _questions(explainer: Any, data: Any, arguments: Mapping[str, Any]) -> int:
    """To the model: one for each point of a grid, for each time that a column is permuted."""
    kind = type(explainer).__name__
    if kind not in ("PartialDependence", "PartialDependenceVariance", "PermutationImportance", "ALE"):
        return 0
    features = arguments.get("features") or range(int(data.shape[1]))
    if kind == "ALE":
        return 2 * len(features)
    if kind == "PermutationImportance":
        is_exact = arguments.get("method") == "exact"
        return int(len(features) * (len(data) if is_exact else arguments.get("n_repeats", _DEFAULT_REPEATS)))
    return sum(_grids(explainer, data, features, arguments))


def _of_plots(explainer: Any, data: Any, features: Any, arguments: Mapping[str, Any]) -> int:
    """A grid's points for each row while it is computed, and in the answer where that has each row's own."""
    grids = _grids(explainer, data, features, arguments)
    kept = sum(grids) if arguments.get("kind") in ("individual", "both") else max(grids, default=0)
    return int(len(data) * kept + sum(grids))


def _grids(explainer: Any, data: Any, features: Any, arguments: Mapping[str, Any]) -> list[int]:
    """The points of each grid."""
    resolution, given = arguments.get("grid_resolution", _DEFAULT_RESOLUTION), arguments.get("grid_points") or {}
    categories = getattr(explainer, "pd_explainer", explainer).categorical_names or {}

    def points(feature: int) -> int:
        values = len(np.unique(data[:, feature]))
        return len(given[feature]) if feature in given else values if feature in categories else min(values, resolution)

    if arguments.get("method") == "interaction" and not arguments.get("features"):
        features = combinations(features, 2)
    sizes = {feature: points(feature) for feature in range(data.shape[1])}
    return [
        prod(sizes.get(one, 1) for one in (feature if isinstance(feature, tuple) else (feature,)))
        for feature in features
    ]
