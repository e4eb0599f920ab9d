"""What one explanation leaves in an explainer does not show in the next, which may be somebody else's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris

from tests.explanations import explained, request_of, texts

pytestmark = pytest.mark.filterwarnings("ignore")  # its libraries warn of each other

X = load_iris().data.astype("float32")
Y = load_iris().target
RANGE = [X.min(axis=0, keepdims=True).tolist(), X.max(axis=0, keepdims=True).tolist()]
SHAPE = {"shape": [1, 4], "feature_range": RANGE}
IMAGE = np.zeros((1, 16, 16, 1), "float32")
IMAGE[:, 4:12, 4:12] = 1
SLIC = {"n_segments": 4, "compactness": 5, "sigma": 0.5, "start_label": 0}
IMAGES = {"image_shape": [16, 16, 1], "segmentation_fn": "slic", "segmentation_kwargs": SLIC}
CEM = {**SHAPE, "mode": "PN", "max_iterations": 20, "c_steps": 2, "no_info_val": 0.0, "clip": [-10, 10]}

# kind: the saved explainer or None, the model, its output, more settings, two instances with arguments of
# their own; CounterfactualProto is not here, whose answers differ from run to run in alibi itself
KINDS: dict[str, tuple[str | None, str, str, dict[str, Any], Any, Any]] = {
    "anchor_tabular": ("anchor_tabular", "iris", "predict", {}, (X[:1], {"threshold": 0.8}), (X[100:101], {})),
    "kernel_shap": (
        *("kernel_shap", "iris", "predict_proba", {}),
        *((X[:2], {"nsamples": 50, "l1_reg": False}), (X[100:101], {"nsamples": 60})),
    ),
    "anchor_image": (None, "bright", "", {"init_parameters": IMAGES}, (IMAGE, {"p_sample": 0.3}), (1 - IMAGE, {})),
    "anchor_text": (
        *("anchor_text", "good", "", {}),
        *((["a good book"], {"threshold": 0.8}), (["a bad good book of many words"], {})),
    ),
    "ale": ("ale", "iris", "predict_proba", {}, (X, {"features": [0]}), (X[:50], {"features": [1, 2]})),
    "partial_dependence": (
        *("partial_dependence", "iris", "predict_proba", {}),
        *((X, {"features": [0], "grid_resolution": 5}), (X[:50], {"features": [1], "grid_resolution": 4})),
    ),
    "permutation_importance": (
        *("permutation_importance", "iris", "predict", {}),
        *((X, {"y": Y.tolist(), "n_repeats": 3}), (X[:90], {"y": Y[:90].tolist(), "n_repeats": 2})),
    ),
    "tree_shap": ("tree_shap", "forest.joblib", "", {}, (X[:3], {"interactions": True}), (X[100:102], {})),
    "integrated_gradients": (
        *("integrated_gradients", "network.keras", "", {}),
        *((X[:2], {"target": [0, 1]}), (X[100:101], {"target": [2]})),
    ),
    "gradient_similarity": (
        "gradient_similarity",
        "network.keras",
        "",
        {},
        (X[:1], {"Y": [0]}),
        (X[100:101], {"Y": [2]}),
    ),
    "counterfactual_rl": (
        *("counterfactual_rl", "iris", "predict_proba", {}),
        *((X[:2], {"Y_t": [1], "batch_size": 10}), (X[100:101], {"Y_t": [0]})),
    ),
    "CEM": (None, "iris", "predict_proba", {"init_parameters": CEM}, (X[:1], {}), (X[100:101], {})),
    "Counterfactual": (
        *(None, "iris", "predict_proba", {"init_parameters": {**SHAPE, "max_iter": 20, "max_lam_steps": 2}}),
        *((X[:1], {}), (X[100:101], {})),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_explanation_is_as_if_it_were_the_first(world: Any, kind: str) -> None:
    name, model, output, extra, *asked = KINDS[kind]
    settings = {
        "explainer_type": kind,
        "seed": 7,
        "threads": 1,
        **extra,
        "infer_uri": str(world.folder / model) if "." in model else world.uri(model),
        **({"infer_output": output} if output else {}),
    }
    uri = world.folder / name if name else None
    one, another = (request_of(data, **arguments) for data, arguments in asked)
    found = [texts(answer) for answer in explained(settings, one, another, one, uri=uri)]
    alone = [texts(explained(settings, request, uri=uri)[0]) for request in (one, another)]
    assert found == [alone[0], alone[1], alone[0]]
