"""The explainers of alibi that can be served: what each looks at, and what it takes at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mlserve.errors import ModelLoadError

__all__ = ["KINDS", "Kind", "kind_of"]


class Kind(NamedTuple):
    """One class of alibi.explainers."""

    name: str  # as MLServer's settings have it
    class_name: str
    is_blackbox: bool = True  # asks a served model, rather than looking into one that is loaded beside it
    takes: str = "batch"  # "row", "text", or "one" (row, in a batch): an instance a call; "either": by explainer_batch
    needs_fit: bool = False
    is_fitted_to_data: bool = False  # which its init_parameters may have beside them
    is_graph: bool = False  # made and asked in a graph of TensorFlow 1; alibi cannot save it
    has_modules: bool = False  # of PyTorch, saved whole
    defaults: Mapping[str, Any] = {}  # arguments of its explain


KINDS = {
    kind.name: kind
    for kind in (
        Kind("anchor_image", "AnchorImage", takes="row"),
        Kind("anchor_tabular", "AnchorTabular", takes="row", needs_fit=True, is_fitted_to_data=True),
        Kind("anchor_text", "AnchorText", takes="text"),
        Kind(
            *("kernel_shap", "KernelShap"),
            takes="either",
            needs_fit=True,
            is_fitted_to_data=True,
            defaults={"silent": True},  # no progress bar
        ),
        Kind("integrated_gradients", "IntegratedGradients", is_blackbox=False),
        Kind("tree_shap", "TreeShap", is_blackbox=False),
        Kind("tree_partial_dependence", "TreePartialDependence", is_blackbox=False),
        Kind("tree_partial_dependence_variance", "PartialDependenceVariance", is_blackbox=False),
        Kind("ale", "ALE"),
        Kind("partial_dependence", "PartialDependence"),
        Kind("partial_dependence_variance", "PartialDependenceVariance"),
        Kind("permutation_importance", "PermutationImportance"),
        Kind("gradient_similarity", "GradientSimilarity", is_blackbox=False, needs_fit=True),
        Kind("cem", "CEM", takes="one", is_fitted_to_data=True, is_graph=True),
        Kind("counterfactual", "Counterfactual", takes="one", is_graph=True),
        Kind("counterfactual_proto", "CounterfactualProto", takes="one", is_fitted_to_data=True, is_graph=True),
        Kind("counterfactual_rl", "CounterfactualRL", needs_fit=True, has_modules=True),
        Kind("counterfactual_rl_tabular", "CounterfactualRLTabular", needs_fit=True, has_modules=True),
    )
}

# alibi's other classes, and why they are not served: by name, without its "_", in small letters.
_NOT_SERVED = {
    "distributedanchortabular": "'anchor_tabular' explains the same; the server's workers share the requests",
    "protoselect": "it picks typical instances of a data set, and explains none",
}


def kind_of(model: str, explainer_type: str) -> Kind:
    """The kind of that name, or of that class of alibi. ModelLoadError if there is none."""
    wanted = explainer_type.rpartition(".")[2]
    kind = KINDS.get(wanted)
    if kind is None:
        kind = next((one for one in reversed(KINDS.values()) if one.class_name == wanted), None)
    if kind is None:
        reason = _NOT_SERVED.get(wanted.replace("_", "").lower())
        raise ModelLoadError(
            f"model '{model}': parameters.extra.explainer_type: no explainer '{explainer_type}' can be served"
            f"{f' ({reason})' if reason else ''}; expected one of {', '.join(KINDS)}"
        )
    return kind
