"""Which arguments a request may give: each that alibi's explain has, of its type and within its bound."""

from __future__ import annotations

import inspect
import re
import warnings
from typing import Any

import anyio
import numpy as np
import pytest

from mlserve import ModelSettings
from mlserve.errors import MLServeError
from mlserve_alibi_explain import AlibiExplainRuntime
from mlserve_alibi_explain.arguments import ARGUMENTS, PRINTING
from mlserve_alibi_explain.kinds import KINDS
from tests.explanations import request_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its libraries
    from alibi import explainers

pytestmark = pytest.mark.filterwarnings("ignore")  # its libraries warn of each other


def test_requests_may_give_each_argument_that_alibi_has() -> None:
    """The table has all of their names, and no other."""
    for kind in KINDS.values():
        parameters = inspect.signature(getattr(explainers, kind.class_name).explain).parameters
        of_alibi = {name for name, one in parameters.items() if one.kind is not one.VAR_KEYWORD}
        of_shap = {"nsamples", "l1_reg"} if kind.name == "kernel_shap" else set()
        expected = of_alibi - {"self", "X", "image", "text", *PRINTING} | of_shap
        assert set(ARGUMENTS[kind.class_name]) == expected, kind.class_name


@pytest.mark.parametrize(
    ("kind", "argument", "words"),
    [
        (
            "anchor_tabular",
            {"coverage_samples": 5_000_000},
            "a whole number from 1 to 100000, got 5000000. The model's",
        ),
        ("anchor_tabular", {"coverage_samples": [10**9]}, "'coverage_samples': expected a whole number from 1 to"),
        (
            "anchor_tabular",
            {"coverage_samples": 1000.5},
            "'coverage_samples': expected a whole number from 1 to 100000",
        ),
        ("anchor_tabular", {"batch_size": 2001}, "'batch_size': expected a whole number from 10 to 2000, got 2001"),
        ("anchor_tabular", {"batch_size": True}, "'batch_size': expected a whole number"),
        ("anchor_tabular", {"batch_size": None}, "'batch_size': expected a whole number"),
        ("anchor_tabular", {"beam_size": -1}, "'beam_size': expected a whole number from 1 to 10, got -1"),
        ("anchor_tabular", {"delta": 5e-324}, "'delta': expected a number from 0.0001 to 1, got 5e-324"),
        ("anchor_tabular", {"tau": 1e-9}, "'tau': expected a number from 0.01 to 1, got 1e-09"),
        ("anchor_tabular", {"tau": [0.0001]}, "'tau': expected a number from 0.01 to 1, got [0.0001]"),
        ("anchor_tabular", {"threshold": float("nan")}, "'threshold': expected a number from 0 to 1, got nan"),
        ("anchor_tabular", {"max_anchor_size": 10**400}, "from 1 to 100000, or null, got 1000"),
        ("anchor_tabular", {"min_samples_start": 0}, "'min_samples_start': expected a whole number from 1 to 1000"),
        ("anchor_tabular", {"sample_cache_size": 10**9}, "a request to AnchorTabular may give no 'sample_cache_size'"),
        ("anchor_tabular", {"stop_on_first": 1}, "'stop_on_first': expected false or true, got 1"),
        ("counterfactual", {"X": [1]}, "a request to Counterfactual may give no 'X', but nothing"),
        (
            "kernel_shap",
            {"nsamples": 5_000_000},
            "'nsamples': expected a whole number from 1 to 20000, or \"auto\", got",
        ),
        ("kernel_shap", {"nsamples": 0}, "'nsamples': expected a whole number from 1 to 20000, or \"auto\", got 0"),
        ("kernel_shap", {"nsamples": ["auto"]}, "'nsamples': expected a whole number from 1 to 20000, or \"auto\""),
        ("kernel_shap", {"l1_reg": "num_features(x)"}, '\'l1_reg\': expected "auto", "aic", "bic"'),
        (
            "kernel_shap",
            {"cat_vars_start_idx": [10**9]},
            "expected a list of whole numbers from 0 to 100000, got [1000",
        ),
        ("counterfactual_proto", {"k": 10**9}, "'k': expected a whole number from 1 to 1000, or null, got 1000000000"),
        ("partial_dependence", {"grid_resolution": 10**6}, "'grid_resolution': expected a whole number from 2 to 300"),
        ("permutation_importance", {"n_repeats": float("nan")}, "'n_repeats': expected a whole number from 1 to 500"),
        ("permutation_importance", {"y": [[1], [1, 2]]}, "'y': expected a number, or numbers in lists that are of one"),
        ("permutation_importance", {"y": [10**400]}, "'y': expected a number, or numbers in lists that are of one"),
        ("permutation_importance", {"sample_weight": [[1], []]}, "'sample_weight': expected numbers in lists"),
        ("gradient_similarity", {"Y": [[1], []]}, "'Y': expected a number, or numbers in lists that are of one length"),
        ("counterfactual_rl", {"Y_t": [[1], []]}, "'Y_t': expected a number, or numbers in lists that are of one"),
        ("counterfactual_rl", {"C": [[1], [2, 3]]}, "'C': expected a list of objects from features to lists of"),
        ("counterfactual_rl_tabular", {"C": [{"age": [[1]]}]}, "'C': expected a list of objects from features"),
        ("integrated_gradients", {"baselines": [[1, 2], [1]]}, "'baselines': expected a number, or numbers in lists"),
        ("integrated_gradients", {"target": [0.5]}, "'target': expected a whole number, or whole numbers in lists"),
        ("integrated_gradients", {"forward_kwargs": 5}, "'forward_kwargs': expected an object {...}, got 5"),
    ],
)
def test_an_argument_of_another_type_or_beyond_its_bound_is_refused(
    kind: str, argument: dict[str, Any], words: str
) -> None:
    """Before the explainer is asked; the settings may go further, here to batches of 2000."""
    settings = {"explain_parameters": {"batch_size": 2000}} if kind == "anchor_tabular" else {}
    extra = {"explainer_type": kind, "infer_uri": "http://127.0.0.1:1/v2/models/x/infer", **settings}
    model = AlibiExplainRuntime(
        ModelSettings(name="why", implementation=AlibiExplainRuntime, parameters={"extra": extra})
    )
    with pytest.raises(MLServeError, match=re.escape(words)) as refused:
        anyio.run(model.predict, request_of(np.array([[5.1, 3.5, 1.4, 0.2]]), **argument))
    assert refused.value.status_code == 400
