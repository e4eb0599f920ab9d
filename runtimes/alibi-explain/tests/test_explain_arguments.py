"""Arguments of explain: what JSON cannot say as it is, and what a request may make an explanation cost."""

from __future__ import annotations

import json
import re
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris

from mlserve.errors import MLServeError, ModelLoadError
from mlserve_alibi_explain.bounds import fitting
from tests.explanations import explained, own, request_of, texts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its libraries
    import spacy
    from alibi import explainers

pytestmark = pytest.mark.filterwarnings("ignore")  # its libraries warn of each other

X = load_iris().data.astype("float32")
Y = load_iris().target
PAIR = {"0": list(range(200)), "1": list(range(200))}
CATEGORIES = {"cat_vars_start_idx": [0], "cat_vars_enc_dim": [2]}


def settings(world: Any, kind: str, output: str = "predict_proba", **more: Any) -> dict[str, Any]:
    return {"explainer_type": kind, "infer_uri": world.uri("iris"), "infer_output": output, "seed": 7, **more}


@pytest.mark.parametrize("kind", ["ALE", "PartialDependence", "PartialDependenceVariance"])
def test_points_of_a_grid_are_given_by_column(world: Any, kind: str) -> None:
    """Keys of an object are text in JSON; alibi wants numbers, and arrays behind them."""
    points = {"0": [5.0, 4.5, 6.0], "2": [2.0, 4.0]}
    (found,) = explained(settings(world, kind, init_parameters={}), request_of(X, features=[0, 2], grid_points=points))
    given = {int(column): np.array(values) for column, values in points.items()}
    make = lambda: getattr(explainers, kind)(world.models["iris"].predict_proba)  # noqa: E731
    assert json.loads(texts(found)[0])["data"] == json.loads(own(make, X, features=[0, 2], grid_points=given))["data"]


def test_pairs_of_features_and_points_in_the_settings(world: Any) -> None:
    told = {"features": [[0, 1]], "grid_points": {"0": [4.5, 5.0], "1": [3.0]}}
    both = explained(
        settings(world, "PartialDependence", init_parameters={}, explain_parameters=told),
        *(request_of(X[:20]), request_of(X[:20], grid_points={"1": [2.0, 3.0]}, grid_resolution=3)),
    )
    shapes = [np.shape(json.loads(texts(one)[0])["data"]["pd_values"][0]) for one in both]
    assert shapes == [(3, 2, 1), (3, 3, 2)]


def test_names_of_categories_are_given_by_column(world: Any) -> None:
    init = {"categorical_names": {"0": ["small", "big"]}}
    rows = np.column_stack([np.arange(20) % 2, X[:20, 1:]]).astype("float32")
    (found,) = explained(
        settings(world, "PartialDependence", init_parameters=init),
        request_of(rows, features=[0], grid_points={"0": ["big"]}),
    )
    assert json.loads(texts(found)[0])["data"]["feature_values"] == [[1]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"grid_points": {"a": [1]}}, "expected an object from numbers of columns to lists"),
        ({"grid_points": [[1]]}, "expected an object from numbers of columns to lists"),
        ({"grid_points": {"0": 1}}, "'grid_points': expected for each column a list of numbers, or of names"),
        ({"grid_points": {"0": [[1], [2, 3]]}}, "'grid_points': expected for each column a list of numbers"),
        ({"grid_points": {"0": []}}, "'grid_points': expected for each column a list of numbers"),
        ({"grid_points": {"9": [1]}}, "are not a subset of the dataset features"),
        (
            {"grid_points": {"0": list(range(301))}},
            "'grid_points': expected at most 300 points of column 0, and here are 301",
        ),
        ({"features": [0, [0, 1, 2, 3]], "grid_resolution": 300}, "150 rows make PartialDependence keep"),
        ({"features": [[0, "1"]]}, "'features': expected a list of numbers of columns from 0 to 100000"),
        ({"features": [0, 1, 0]}, "'features': expected each feature once"),
        ({"features": [[0, 1], [0, 1]]}, "'features': expected each feature once"),
        ({"features": [[0, 1, 2], [1, 2, 3], [0, 2, 3]], "kind": "individual"}, "150 rows make PartialDependence keep"),
        ({"features": [[0, 1]], "grid_points": PAIR}, "PartialDependence ask the model 40000 times"),
        ({"features": [[0, 0, 0, 0, 0, 0, 0]]}, "150 rows make PartialDependence keep"),
    ],
)
def test_grids_that_cannot_be_or_cost_too_much_are_refused(world: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(MLServeError, match=re.escape(words)) as refused:
        explained(settings(world, "PartialDependence", init_parameters={}), request_of(X, **arguments))
    assert refused.value.status_code == 400


def test_points_in_the_settings_are_told_when_it_is_loaded(world: Any) -> None:
    told = {"grid_points": {"sepal": [1]}}
    with pytest.raises(
        ModelLoadError, match=r"parameters\.extra\.explain_parameters: 'grid_points': expected an object"
    ):
        explained(settings(world, "PartialDependence", init_parameters={}, explain_parameters=told))


def test_the_exact_importance_has_the_square_of_the_rows(world: Any) -> None:
    """It is answered for a few, refused for many, and allowed where the settings ask for it themselves."""
    extra = settings(world, "PermutationImportance", "predict", init_parameters={"score_fns": ["accuracy"]})
    few = {"method": "exact", "y": Y[::10].tolist(), "sample_weight": [1.0] * 15}
    (found,) = explained(extra, request_of(X[::10], **few))
    make = lambda: explainers.PermutationImportance(world.models["iris"].predict, score_fns=["accuracy"])  # noqa: E731
    assert texts(found) == [own(make, X[::10], **{**few, "y": Y[::10]})]
    many = np.tile(X, (30, 1))
    with pytest.raises(MLServeError, match="4500 rows make PermutationImportance keep 20250000 values") as refused:
        explained(extra, request_of(many, method="exact", y=np.tile(Y, 30).tolist()))
    assert refused.value.status_code == 400
    (estimate,) = explained(extra, request_of(many, n_repeats=2, y=np.tile(Y, 30).tolist()))
    assert texts(estimate)


@pytest.mark.parametrize("output", ["few", "none", "deep", "texts"])
def test_answers_of_a_model_that_no_explainer_can_use_are_the_models_fault(world: Any, output: str) -> None:
    extra = {"explainer_type": "kernel_shap", "infer_uri": world.uri("odd"), "infer_output": output}
    words = rf"the model at .*odd.* gave output '{output}' with the shape \[.*\] or \[20, classes\]"
    with pytest.raises(MLServeError, match=words) as failed:
        explained(extra, request_of(X[:1]), uri=world.folder / "kernel_shap")
    assert failed.value.status_code == 502


def test_what_alibi_does_not_do_is_refused(world: Any) -> None:
    """Losses of a model can only be explained with data to fit to."""
    extra = {"explainer_type": "tree_shap", "infer_uri": str(world.folder / "forest.joblib"), "init_parameters": {}}
    with pytest.raises(MLServeError, match="NotImplementedError: Loss values") as refused:
        explained(extra, request_of(X[:1], y=[0]))
    assert refused.value.status_code == 400


def test_an_argument_that_is_zero_where_alibi_divides_by_it_is_refused(world: Any) -> None:
    told = {"verbose": True, "verbose_every": 0}
    extra = settings(world, "anchor_tabular", "predict", explain_parameters=told)
    with pytest.raises(MLServeError, match="ZeroDivisionError") as refused:
        explained(extra, request_of(X[:1]), uri=world.folder / "anchor_tabular")
    assert refused.value.status_code == 400


@pytest.mark.parametrize(
    ("kind", "output", "init", "arguments"),
    [
        ("KernelShap", "predict_proba", {"seed": 0}, {"summarise_result": True, **CATEGORIES, "nsamples": 30}),
        ("ALE", "predict_proba", {}, {"features": [0], "min_bin_points": 30}),
        ("AnchorTabular", "predict", {"feature_names": list("abcd"), "seed": 0}, {"threshold": 0.5, "beam_size": 2}),
    ],
)
def test_arguments_of_a_request_are_not_there_for_the_next(
    world: Any, kind: str, output: str, init: dict[str, Any], arguments: dict[str, Any]
) -> None:
    extra = settings(world, kind, output, init_parameters=init)
    plain = request_of(X[:1] if kind != "ALE" else X)
    asked = request_of(X[:1] if kind != "ALE" else X, **arguments)
    before, between, after = explained(extra, plain, asked, plain, uri=world.folder / "flowers.npy")
    assert texts(before) != texts(between)
    assert texts(before) == texts(after)


def test_questions_to_the_model_are_bounded_unless_the_settings_ask_as_many(world: Any) -> None:
    rows = np.zeros((2, 100), "float32")
    init = {"score_fns": ["accuracy"]}
    extra = settings(world, "PermutationImportance", "predict", init_parameters=init)
    asked = request_of(rows, y=[0, 1], n_repeats=500)
    with pytest.raises(MLServeError, match="PermutationImportance ask the model 50000 times") as refused:
        explained(extra, asked)
    assert refused.value.status_code == 400
    with pytest.raises(MLServeError, match="could not be asked"):  # since the model has four columns
        explained({**extra, "explain_parameters": {"n_repeats": 500}}, asked)
    with pytest.raises(MLServeError, match="'features': expected each feature once, got \\[0, 0, 0"):
        explained(extra, request_of(X[:2], y=[0, 1], features=[0] * 1000))


def test_the_room_for_samples_of_an_anchor_is_bounded_unless_the_settings_have_as_much(world: Any) -> None:
    room = {"batch_size": 500, "binary_cache_size": 40_000}
    extra, uri = settings(world, "anchor_tabular", "predict"), world.folder / "anchor_tabular"
    with pytest.raises(MLServeError, match="'batch_size' times 'binary_cache_size' are 20000000 samples") as refused:
        explained(extra, request_of(X[:1], **room), uri=uri)
    assert refused.value.status_code == 400
    (found,) = explained({**extra, "explain_parameters": room}, request_of(X[:1], batch_size=400), uri=uri)
    assert texts(found)


def test_no_request_prints_on_the_server(world: Any, capfd: pytest.CaptureFixture[str]) -> None:
    loud = {"verbose": True, "verbose_every": 1, "silent": False}
    extra = settings(world, "anchor_tabular", "predict")
    plain, asked = explained(extra, request_of(X[:1]), request_of(X[:1], **loud), uri=world.folder / "anchor_tabular")
    assert texts(plain) == texts(asked)
    assert capfd.readouterr().out == ""


def text_settings(world: Any, **more: Any) -> dict[str, Any]:
    init = {"nlp": "en", "sampling_strategy": "unknown"}
    return {"explainer_type": "anchor_text", "infer_uri": world.uri("good"), "init_parameters": init, **more}


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("a good book " + "x" * 100_000, {}, "1000 samples of a text of 4 words, up to 100000 characters long"),
        ("a good " * 1000, {}, "1000 samples of a text of 2000 words, up to 4 characters long"),
        ("a good " * 50, {"coverage_samples": 20_000}, "20000 samples of a text of 100 words.* room for 12500"),
        ("a good " * 500, {"coverage_samples": 10, "batch_size": 1000}, "1000 samples of a text of 1000 words"),
    ],
)
def test_texts_that_would_take_gigabytes_are_refused(
    world: Any, text: str, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(MLServeError, match=words) as refused:
        explained(text_settings(world), request_of([text], **arguments))
    assert refused.value.status_code == 400


def test_a_long_text_has_as_many_samples_as_have_room(world: Any) -> None:
    long = "a good book " + "x" * 10_000
    (found,) = explained(text_settings(world), request_of([long]))
    assert json.loads(texts(found)[0])["data"]["anchor"] == ["good"]
    explainer = explainers.AnchorText(world.models["good"].predict, nlp=spacy.blank("en"))
    assert fitting(explainer, long, {}) == {"coverage_samples": 3125}
    assert fitting(explainer, "a good book", {}) == {"coverage_samples": 10_000}
    assert fitting(explainer, long, {"coverage_samples": 50}) == {"coverage_samples": 50}
