"""The arguments of `explain` that a request may give: of each explainer by name, with type and range."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlserve.errors import InferenceError
from mlserve.types import InferenceRequest
from mlserve_alibi_explain.rules import (
    Array,
    Choice,
    Conditions,
    Features,
    Number,
    Points,
    Regularisation,
    Rule,
    Table,
    Wholes,
)

__all__ = ["ARGUMENTS", "PRINTING", "arguments_of", "as_alibi_has_it"]

PRINTING = ("verbose", "verbose_every", "print_every", "silent")  # what the server's output is told: no client's

_MOST_POINTS = 300
_FLAG = Choice((False, True))
_LABELS = Array(scalar="wrapped")
_CATEGORIES = {"summarise_result": _FLAG, "cat_vars_start_idx": Wholes(), "cat_vars_enc_dim": Wholes()}
# Where memory or time grows with a number, ten times alibi's default is the most.
_ANCHOR = {
    "threshold": Number(0, 1, is_whole=False),
    "delta": Number(0.0001, 1, is_whole=False),  # samples grow with the logarithm of its inverse
    "tau": Number(0.01, 1, is_whole=False),  # and with the square of this one's; they are kept
    "batch_size": Number(10, 1000),  # the model is asked once for each
    "coverage_samples": Number(1, 100_000),
    "beam_size": Number(1, 10),
    "stop_on_first": _FLAG,
    "max_anchor_size": Number(1, 100_000, others=(None,)),
    "min_samples_start": Number(1, 1000),
    "n_covered_ex": Number(1, 100),
    "binary_cache_size": Number(1, 100_000),
    "cache_margin": Number(1, 10_000),
}
_GRID = {
    "features": Features(),
    "percentiles": Array(),
    "grid_resolution": Number(2, _MOST_POINTS),  # a grid of two features has its square
    "grid_points": Points(_MOST_POINTS),
}
_PLOT = {**_GRID, "kind": Choice(("average", "individual", "both"))}
_COUNTERFACTUAL = {"Y_t": _LABELS, "C": Conditions(), "batch_size": Number(1, 1000)}

ARGUMENTS: Mapping[str, Mapping[str, Rule]] = {
    "AnchorImage": {**_ANCHOR, "p_sample": Number(0, 1, is_whole=False)},
    "AnchorTabular": _ANCHOR,
    "AnchorText": _ANCHOR,
    "KernelShap": {**_CATEGORIES, "nsamples": Number(1, 20_000, others=("auto",)), "l1_reg": Regularisation()},
    "TreeShap": {
        **_CATEGORIES,
        "y": _LABELS,
        "interactions": _FLAG,
        "approximate": _FLAG,
        "check_additivity": _FLAG,
        "tree_limit": Number(-1, 1_000_000, others=(None,)),
    },
    "IntegratedGradients": {
        "forward_kwargs": Table(),
        "baselines": Array(scalar="kept"),
        "target": Array(scalar="kept", is_whole=True),
        "attribute_to_layer_inputs": _FLAG,
    },
    "GradientSimilarity": {"Y": _LABELS},
    "ALE": {
        "features": Features(),
        "min_bin_points": Number(1, 1_000_000),
        "grid_points": Points(_MOST_POINTS),
    },
    "PartialDependence": _PLOT,
    "TreePartialDependence": _GRID,
    "PartialDependenceVariance": {**_GRID, "method": Choice(("importance", "interaction"))},
    "PermutationImportance": {
        "y": _LABELS,
        "features": Features(),
        "method": Choice(("estimate", "exact")),
        "kind": Choice(("ratio", "difference")),
        "n_repeats": Number(1, 500),
        "sample_weight": Array(),
    },
    "CEM": {"Y": _LABELS},
    "Counterfactual": {},
    "CounterfactualProto": {
        "Y": _LABELS,
        "target_class": Wholes(),
        "k": Number(1, 1000, others=(None,)),
        "k_type": Choice(("mean", "point")),
        "threshold": Number(0, 1_000_000, is_whole=False),
        "log_every": Number(1, 1_000_000),
    },
    "CounterfactualRL": _COUNTERFACTUAL,
    "CounterfactualRLTabular": {
        **_COUNTERFACTUAL,
        "diversity": _FLAG,
        "num_samples": Number(1, 1000),  # of alibi's default 1; its own examples have 100
        "patience": Number(1, 10_000),
        "tolerance": Number(1e-9, 1_000_000, is_whole=False),
    },
}


def arguments_of(class_name: str, told: Mapping[str, Any], request: InferenceRequest) -> dict[str, Any]:
    """The arguments of `explain`: those of the settings, overruled by those of the request. InferenceError."""
    given = dict.get(request.parameters, "explain_parameters") if request.parameters is not None else None
    if isinstance(given, str):  # gRPC has no parameters with an inside
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise InferenceError(f"explain_parameters: the text is no JSON: {error}") from None
    if given is not None and not isinstance(given, Mapping):
        raise InferenceError(f"explain_parameters: expected an object {{...}}, got {given!r:.80}")
    asked = {name: value for name, value in (given or {}).items() if name not in PRINTING}
    _check_names(class_name, asked)
    read = as_alibi_has_it(class_name, asked)
    _check_bounds(class_name, read, told)
    arguments = {**told, **read}
    if arguments.get("grid_points"):
        arguments["grid_points"] = dict(arguments["grid_points"])  # alibi sorts them in place
    if arguments.get("method") == "exact" and arguments.get("sample_weight") is not None:
        arguments["sample_weight"] = arguments["sample_weight"].tolist()  # alibi asks whether it is empty
    return arguments


def as_alibi_has_it(class_name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments in JSON as alibi takes them; those that no request may give as they are. InferenceError."""
    rules, made = ARGUMENTS[class_name], dict(given)
    for name in rules.keys() & given.keys():
        try:
            made[name] = rules[name].read(given[name])
        except ValueError as error:
            raise _refusal(name, error, given[name]) from None
    return made


def _check_names(class_name: str, asked: Mapping[str, Any]) -> None:
    rules = ARGUMENTS[class_name]
    unknown = next((name for name in asked if name not in rules), None)
    if unknown is not None:
        raise InferenceError(
            f"explain_parameters: a request to {class_name} may give no '{unknown:.80}', but "
            f"{', '.join(rules) or 'nothing'}"
        )


def _check_bounds(class_name: str, read: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    for name, value in read.items():
        try:
            ARGUMENTS[class_name][name].check(value, told.get(name))
        except ValueError as error:
            further = (
                "The model's settings may go further (parameters.extra.explain_parameters), and requests then as far "
                "as they"
            )
            raise InferenceError(f"{_refusal(name, error, value)}. {further}") from None


def _refusal(name: str, error: ValueError, value: Any) -> InferenceError:
    return InferenceError(f"explain_parameters: '{name}': expected {error}, got {value!r:.80}")
