"""Counterfactuals and contrastive explanations: computed in a graph of TensorFlow 1, or read with PyTorch's modules."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris

from mlserve.errors import MLServeError, ModelLoadError
from tests.explanations import explained, own, request_of, texts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its libraries
    import tensorflow
    from alibi import explainers
    from alibi.saving import load_explainer

pytestmark = pytest.mark.filterwarnings("ignore")  # its libraries warn of each other

X = load_iris().data.astype("float32")
RANGE = [X.min(axis=0, keepdims=True).tolist(), X.max(axis=0, keepdims=True).tolist()]
SHAPE = {"shape": [1, 4], "feature_range": RANGE}
ARGUMENTS = {
    "CEM": {**SHAPE, "mode": "PN", "max_iterations": 20, "c_steps": 2, "no_info_val": 0.0, "clip": [-10, 10]},
    "Counterfactual": {**SHAPE, "max_iter": 20, "max_lam_steps": 2},
    "CounterfactualProto": {**SHAPE, "max_iterations": 20, "c_steps": 2, "use_kdtree": True, "theta": 10.0},
}


def of_alibi(kind: str, predict: Callable[..., Any]) -> Any:
    """The explainer made as alibi's documentation makes it, with tuples and arrays."""
    given: dict[str, Any] = {**ARGUMENTS[kind], "shape": (1, 4), "feature_range": tuple(map(np.float32, RANGE))}
    if "clip" in given:
        given["clip"] = tuple(given["clip"])
    session = tensorflow.compat.v1.get_default_session()
    tensorflow.compat.v1.keras.backend.get_session = lambda: session  # Keras 3 has none
    return getattr(explainers, kind)(predict, sess=session, **given)


def settings(world: Any, kind: str) -> dict[str, Any]:
    output = {"infer_uri": world.uri("iris"), "infer_output": "predict_proba", "seed": 7}
    return {**output, "explainer_type": kind, "init_parameters": ARGUMENTS[kind]}


@pytest.mark.parametrize("kind", ["CEM", "Counterfactual"])
def test_they_are_alibis_own_and_leave_the_process_as_it_is(world: Any, kind: str) -> None:
    folder = world.folder / "served"  # of the model, which the server names where the settings name no file
    (found,) = explained(settings(world, kind), request_of(X[[0, 100]]), uri=folder)
    assert tensorflow.executing_eagerly()
    with tensorflow.Graph().as_default() as graph, tensorflow.compat.v1.Session(graph=graph):
        expected = [
            own(lambda: of_alibi(kind, world.models["iris"].predict_proba), X[place : place + 1]) for place in (0, 100)
        ]
    for text, of_itself in zip(texts(found), expected, strict=True):
        answer, alibis = json.loads(text), json.loads(of_itself)
        assert answer["data"] == alibis["data"]
        assert answer["meta"]["name"] == kind


def test_counterfactuals_near_prototypes_are_of_another_class(world: Any) -> None:
    """Alibi's own answers differ from run to run."""
    uri = world.folder / "flowers.npy"
    (found,) = explained(settings(world, "CounterfactualProto"), request_of(X[:1]), uri=uri)
    answer = json.loads(texts(found)[0])
    counterfactual = answer["data"]["cf"]
    assert answer["data"]["orig_class"] == 0 != counterfactual["class"]
    assert world.models["iris"].predict(counterfactual["X"]) == [counterfactual["class"]]


def test_a_graph_explainer_and_one_that_is_eager_live_in_one_process(world: Any) -> None:
    explained(settings(world, "CEM"), request_of(X[:1]))
    extra = {"explainer_type": "integrated_gradients", "infer_uri": str(world.folder / "network.keras")}
    (found,) = explained(extra, request_of(X[:1]), uri=world.folder / "integrated_gradients")
    assert json.loads(texts(found)[0])["meta"]["name"] == "IntegratedGradients"


def test_counterfactuals_by_reinforcement_learning_are_read_and_written(world: Any) -> None:
    uri = world.folder / "counterfactual_rl"
    extra = {"explainer_type": "counterfactual_rl", "infer_uri": world.uri("iris"), "infer_output": "predict_proba"}
    found, again = explained(
        extra, request_of(X[:2], Y_t=[1], batch_size=10), request_of(X[:2], Y_t=1, batch_size=10), uri=uri
    )
    (text,) = texts(found)
    assert texts(again) == [text]
    answer = json.loads(text)
    assert answer["meta"]["params"]["device"] in ("cpu", "cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        itself = load_explainer(uri, world.models["iris"].predict_proba).explain(X[:2], Y_t=np.array([1]))
    np.testing.assert_array_equal(answer["data"]["cf"]["X"], itself.data["cf"]["X"].tolist())


@pytest.mark.parametrize("kind", ["AnchorTabular", "KernelShap"])
def test_data_beside_init_parameters_are_what_an_explainer_is_fitted_to(world: Any, kind: str) -> None:
    own_names = {"feature_names": load_iris().feature_names, "seed": 0} if kind == "AnchorTabular" else {"seed": 0}
    output = "predict" if kind == "AnchorTabular" else "predict_proba"
    extra = {"explainer_type": kind, "infer_uri": world.uri("iris"), "infer_output": output, "seed": 7}
    (found,) = explained({**extra, "init_parameters": own_names}, request_of(X[:1]), uri=world.folder / "flowers.npy")

    def make() -> Any:
        return getattr(explainers, kind)(getattr(world.models["iris"], output), **own_names).fit(X)

    assert texts(found) == [
        own(make, X[0] if kind == "AnchorTabular" else X[:1], **({"silent": True} if kind == "KernelShap" else {}))
    ]


def test_rows_of_another_shape_are_refused(world: Any) -> None:
    with pytest.raises(MLServeError, match=r"takes instances of shape \[-1, 4\], got \[-1, 3\]") as refused:
        explained(settings(world, "Counterfactual"), request_of(X[:1, :3]))
    assert refused.value.status_code == 400


def test_data_that_cannot_be_read_are_told_when_it_is_loaded(world: Any) -> None:
    with pytest.raises(ModelLoadError, match=r"it names the data that CounterfactualProto is fitted to.*iris\.joblib"):
        explained(settings(world, "CounterfactualProto"), uri=world.folder / "iris.joblib")
