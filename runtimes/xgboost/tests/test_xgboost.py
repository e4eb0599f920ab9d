"""The XGBoost runtime: files, flavours, inputs, outputs, errors, metadata; its answers are XGBoost's own."""

from __future__ import annotations

import importlib.metadata
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.datasets import load_iris

from mlserve.codecs import StringRequestCodec
from mlserve.errors import InferenceError, InvalidModelURI, ModelLoadError
from mlserve.testing import check_runtime
from mlserve.types import InferenceRequest
from mlserve_xgboost import XGBoostModel
from tests.runtime_trial import Trial, arrays, ask, refusal, request_of, served

TRIAL = Trial(XGBoostModel)

IRIS, SPECIES = load_iris(return_X_y=True)
TABLE = pd.DataFrame({"age": [20.0, 30, 40, 50] * 5, "city": pd.Categorical(["Oslo", "Lima", "Bern", "Lima"] * 5)})
OPTIONS = {"n_estimators": 3, "max_depth": 2, "n_jobs": 1}
CLASSIFIER = xgboost.XGBClassifier(**OPTIONS).fit(IRIS, SPECIES)
REGRESSOR = xgboost.XGBRegressor(**OPTIONS).fit(IRIS, SPECIES)


def booster(objective: str, rounds: int = 3) -> xgboost.Booster:
    options = {"objective": objective, "max_depth": 2, "nthread": 1}
    target = SPECIES if objective.startswith("multi") else (SPECIES > 0).astype(int)
    if objective.startswith("multi"):
        options["num_class"] = 3
    return xgboost.train(options, xgboost.DMatrix(IRIS, target), rounds)


@pytest.mark.parametrize(
    ("estimator", "outputs"),
    [(CLASSIFIER, ["predict_proba", "predict", "apply"]), (REGRESSOR, ["predict"])],
    ids=["classifier", "regressor"],
)
def test_it_passes_the_conformance_suite_and_answers_bit_for_bit(
    tmp_path: Path, estimator: Any, outputs: list[str]
) -> None:
    estimator.save_model(tmp_path / "model.ubj")
    (answer,) = check_runtime(TRIAL.settings(tmp_path), request_of(IRIS[::10], *outputs))
    assert [one.name for one in answer.outputs] == outputs
    for name, found in arrays(answer).items():
        wanted = getattr(estimator, name)(IRIS[::10])
        assert found.dtype == wanted.dtype
        assert np.array_equal(found.reshape(wanted.shape), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_server_gives_the_same_over_every_transport(tmp_path: Path, workers: int) -> None:
    CLASSIFIER.save_model(tmp_path / "model.json")
    names = ["predict", "predict_proba"]
    found = served(tmp_path, {"implementation": "xgboost"}, {"x": IRIS[:20]}, names, workers)
    for transport, answer in found.items():
        for name in names:
            wanted = getattr(CLASSIFIER, name)(IRIS[:20])
            assert np.array_equal(answer[name].reshape(wanted.shape), wanted), (transport, name)


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.bst", "model.json", "model.ubj", "model.model"])
@pytest.mark.parametrize("form", ["json", "ubj"])
def test_the_content_tells_the_form_whatever_the_name(tmp_path: Path, name: str, form: str) -> None:
    trained = booster("multi:softprob")
    (tmp_path / name).write_bytes(bytes(trained.save_raw(form)))
    assert np.array_equal(ask(TRIAL.load(tmp_path), IRIS)["predict"], trained.predict(xgboost.DMatrix(IRIS)))


@pytest.mark.parametrize(
    ("objective", "columns"),
    [
        ("binary:logistic", 1),
        ("binary:logitraw", 1),
        ("binary:hinge", 1),
        ("multi:softprob", 3),
        ("multi:softmax", 1),
        ("reg:squarederror", 1),
        ("reg:logistic", 1),
        ("count:poisson", 1),
        ("survival:cox", 1),
        ("rank:pairwise", 1),
    ],
)
def test_a_booster_answers_what_its_own_predict_gives(tmp_path: Path, objective: str, columns: int) -> None:
    """Probabilities where those are what the objective gives, and never classes made of them, as on MLServer."""
    trained = booster(objective)
    trained.save_model(tmp_path / "model.ubj")
    model = TRIAL.load(tmp_path)
    (output,) = model.predict(request_of(IRIS)).outputs
    assert (output.name, output.datatype, output.shape) == ("predict", "FP32", [150, columns])
    wanted = trained.predict(xgboost.DMatrix(IRIS))
    assert np.array_equal(ask(model, IRIS)["predict"].reshape(wanted.shape), wanted)
    told = refusal(model, IRIS, "predict_proba")
    assert "XGBRegressor has apply, predict (a Booster is served as one: its predict gives" in told


def stopped_early() -> xgboost.Booster:
    """A Booster whose later rounds made it worse, for they learnt the opposite of what it is judged by."""
    sides = (SPECIES > 0).astype(int)
    judged = [(xgboost.DMatrix(IRIS, 1 - sides), "judged")]
    options = {"objective": "binary:logistic", "max_depth": 2, "nthread": 1}
    return xgboost.train(
        options, xgboost.DMatrix(IRIS, sides), 20, evals=judged, early_stopping_rounds=3, verbose_eval=False
    )


def test_a_booster_that_stopped_early_answers_with_its_best_round(tmp_path: Path) -> None:
    """As on MLServer, and as an estimator does; Booster.predict takes all rounds."""
    trained = stopped_early()
    rows, best = xgboost.DMatrix(IRIS), trained.best_iteration + 1
    assert best < trained.num_boosted_rounds()
    trained.save_model(tmp_path / "model.ubj")
    assert np.array_equal(
        ask(TRIAL.load(tmp_path), IRIS)["predict"].ravel(), trained.predict(rows, iteration_range=(0, best))
    )
    trained.set_attr(best_iteration=None, best_score=None)
    trained.save_model(tmp_path / "model.ubj")
    assert np.array_equal(ask(TRIAL.load(tmp_path), IRIS)["predict"].ravel(), trained.predict(rows))


def test_the_booster_of_an_estimator_is_served_as_a_booster(tmp_path: Path) -> None:
    CLASSIFIER.get_booster().save_model(tmp_path / "model.json")
    assert np.array_equal(ask(TRIAL.load(tmp_path), IRIS)["predict"], CLASSIFIER.predict_proba(IRIS))


def test_a_ranker_gives_its_ranks(tmp_path: Path) -> None:
    ranker = xgboost.XGBRanker(**OPTIONS).fit(IRIS, SPECIES, qid=np.zeros(150, int))
    ranker.save_model(tmp_path / "model.ubj")
    assert np.array_equal(ask(TRIAL.load(tmp_path), IRIS)["predict"].ravel(), ranker.predict(IRIS))


def test_an_estimator_says_what_it_is_whatever_its_objective(tmp_path: Path) -> None:
    odd = xgboost.XGBRegressor(objective="binary:logistic", **OPTIONS).fit(IRIS, SPECIES > 0)
    odd.save_model(tmp_path / "model.json")
    assert np.array_equal(ask(TRIAL.load(tmp_path), IRIS)["predict"].ravel(), odd.predict(IRIS))


def test_a_missing_file_is_told_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelURI, match=r"none of model\.bst, model\.json, model\.ubj, model\.model"):
        TRIAL.load(tmp_path)
    with pytest.raises(InvalidModelURI, match=r"gone\.ubj does not exist"):
        TRIAL.load(tmp_path, uri="gone.ubj")


UBJ = bytes(CLASSIFIER.get_booster().save_raw("ubj"))
JSON = bytes(CLASSIFIER.get_booster().save_raw("json"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"\n", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"tree\nversion=v4\n", "a LightGBM model: its runtime is 'lightgbm'"),
        (pickle.dumps(CLASSIFIER), "a pickle: save the model in its framework's own format"),
        (b"binf\x00\x00\x00\x3f" + bytes(200), "the old binary format"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"just text", "it is neither JSON nor UBJSON"),
        (b'{"some": "thing"}', "JSON, but of no XGBoost model"),
        (b'{"learner":{}}', "cannot be read, perhaps cut short or of a later version"),
        (JSON[:3000], "cannot be read, perhaps cut short"),
        (b'{"learner":' + b"[" * 10**6, "nested deeper than 100 levels"),
        (b"{L" + bytes(7) + b"\7learner" + b"[" * 10**5 + b"version}", "nested deeper than 100 levels"),
        (
            UBJ.replace(b"[#L", b"[#X", 1),
            "the file is damaged, or is UBJSON of something else ('X' in place of a length",
        ),
        (UBJ.replace(b"\7learner", b"\6learner", 1), "the file is damaged, or is UBJSON of something else"),
        (JSON.replace(b'"num_feature":"4"', b'"num_feature":"-3"'), "says that it has 4294967293 features"),
        (JSON.replace(b'"num_feature":"4"', b'"num_feature":"2000000000"'), "says that it has 2000000000 features"),
        *((UBJ[:length], "cut short") for length in (2, 300, len(UBJ) // 2, len(UBJ) - 1)),
    ],
    ids=lambda one: str(one[:24]),
)
def test_a_file_that_cannot_be_served_is_told_with_the_reason(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "model.bst").write_bytes(content)
    with pytest.raises(ModelLoadError) as caught:
        TRIAL.load(tmp_path)
    assert words in str(caught.value)
    assert "model 'm'" in str(caught.value) and "model.bst" in str(caught.value)
    assert "Stack trace" not in str(caught.value)


# -- inputs and outputs -----------------------------------------------------------------------------------------------


def test_null_is_a_missing_value(tmp_path: Path) -> None:
    CLASSIFIER.save_model(tmp_path / "model.ubj")
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [5.1, None, 1.4, None]}
    request = InferenceRequest(inputs=[tensor], outputs=[{"name": "predict_proba"}])
    found = arrays(TRIAL.load(tmp_path).predict(request))["predict_proba"]
    assert np.array_equal(found, CLASSIFIER.predict_proba(np.array([[5.1, np.nan, 1.4, np.nan]])))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.ones((2, 3)), "shape [rows, 4], got [2, 3]"),
        (np.ones((1, 4, 1)), "shape [rows, 4], got [1, 4, 1]"),
        (np.array([["a", "b", "c", "d"]]), "the model takes numbers, got text"),
        (pd.DataFrame({"a": [1.0], "b": [2.0]}), "the model takes 4 columns, got 2"),
        (pd.DataFrame([[10**400, 2.0, 3.0, 4.0]], dtype=object), "int too large to convert to float"),
    ],
    ids=["features", "dimensions", "text", "columns", "huge"],
)
def test_input_that_the_model_cannot_use_is_the_clients_fault(tmp_path: Path, data: Any, words: str) -> None:
    CLASSIFIER.save_model(tmp_path / "model.ubj")
    assert words in refusal(TRIAL.load(tmp_path), data)


def test_texts_are_no_input(tmp_path: Path) -> None:
    CLASSIFIER.save_model(tmp_path / "model.ubj")
    with pytest.raises(InferenceError, match="takes a tensor of numbers or a data frame"):
        TRIAL.load(tmp_path).predict(StringRequestCodec.encode_request(["a"]))


def test_outputs_that_the_model_lacks_are_refused_by_name(tmp_path: Path) -> None:
    CLASSIFIER.save_model(tmp_path / "model.ubj")
    for name in ("fit", "save_model", "_Booster", "no such"):
        told = f"no output '{name}': XGBClassifier has apply, predict, predict_proba"
        assert told in refusal(TRIAL.load(tmp_path), IRIS, name)


def test_a_small_request_cannot_ask_for_a_large_answer_again_and_again(tmp_path: Path) -> None:
    REGRESSOR.save_model(tmp_path / "model.ubj")
    model = TRIAL.load(tmp_path)
    told = refusal(model, IRIS, "apply", "predict", "apply", "apply")
    assert "output 'apply' is asked for 3 times, 2 times at most can be" in told
    answer = model.predict(request_of(IRIS, "apply", "predict", "apply"))
    assert [one.name for one in answer.outputs] == ["apply", "predict", "apply"]


def test_columns_go_by_name_and_text_is_categories(tmp_path: Path) -> None:
    fitted = xgboost.XGBRegressor(enable_categorical=True, max_cat_to_onehot=1, **OPTIONS)
    fitted.fit(TABLE, [1.0, 5, 9, 5] * 5)
    fitted.save_model(tmp_path / "model.ubj")
    model = TRIAL.load(tmp_path, content_type="pd")
    rows = TABLE[["city", "age"]].astype({"city": object}).iloc[[0, 3]]  # without Bern: codes alone would be others
    if tuple(map(int, xgboost.__version__.split(".")[:2])) < (3, 1):  # its files do not name the categories
        assert "columns 'city' are text" in refusal(model, rows)
        return
    assert np.array_equal(ask(model, rows.assign(more=1))["predict"].ravel(), fitted.predict(TABLE.iloc[[0, 3]]))
    assert "columns are missing: 'age'" in refusal(model, rows[["city"]])


def test_columns_that_are_called_f0_and_so_on_are_names_like_others(tmp_path: Path) -> None:
    names = ["f0", "f1", "f2", "f3"]
    fitted = xgboost.XGBRegressor(**OPTIONS).fit(pd.DataFrame(IRIS, columns=names), SPECIES)
    fitted.save_model(tmp_path / "model.json")
    model = TRIAL.load(tmp_path, content_type="pd")
    turned = pd.DataFrame(IRIS, columns=names)[["f3", "f0", "f2", "f1"]]
    assert np.array_equal(ask(model, turned)["predict"].ravel(), fitted.predict(IRIS))
    assert "columns are missing: 'f2', 'f3'" in refusal(model, turned.rename(columns={"f2": "a", "f3": "b"}))


def test_what_xgboost_says_of_a_request_tells_no_place_in_its_source(tmp_path: Path) -> None:
    linear = xgboost.XGBRegressor(booster="gblinear", n_estimators=2, n_jobs=1).fit(IRIS, SPECIES)
    linear.save_model(tmp_path / "model.json")
    told = refusal(TRIAL.load(tmp_path), IRIS, "apply")
    assert "model 'm' cannot use this input" in told and ".cc" not in told and "[" not in told


def test_text_is_refused_where_the_file_does_not_name_the_categories(tmp_path: Path) -> None:
    fitted = xgboost.XGBRegressor(enable_categorical=True, **OPTIONS).fit(TABLE, [1.0, 5, 9, 5] * 5)
    content = json.loads(bytes(fitted.get_booster().save_raw("json")))
    content["learner"]["gradient_booster"]["model"].pop("cats", None)  # which XGBoost before 3.1 did not save
    (tmp_path / "model.json").write_text(json.dumps(content, separators=(",", ":")))
    model = TRIAL.load(tmp_path, content_type="pd")
    assert "columns 'age' are no numbers" in refusal(model, TABLE.astype({"age": str, "city": object}))
    told = refusal(model, TABLE.astype({"city": object}))
    assert "columns 'city' are text" in told and "send one tensor with the categories' numbers" in told
    numbers = np.column_stack([TABLE["age"], TABLE["city"].cat.codes])
    assert np.array_equal(ask(TRIAL.load(tmp_path), numbers)["predict"].ravel(), fitted.predict(TABLE))


@pytest.mark.parametrize("kind", ["int64", "int8"])
def test_categories_that_are_whole_numbers_go_as_numbers(tmp_path: Path, kind: str) -> None:
    shop = pd.Categorical(np.array([40, 10, 30, 10] * 5, kind))
    table = TABLE.assign(shop=shop)
    fitted = xgboost.XGBRegressor(enable_categorical=True, **OPTIONS).fit(table, [1.0, 5, 9, 5] * 5)
    fitted.save_model(tmp_path / "model.json")
    model = TRIAL.load(tmp_path, content_type="pd", extra={"signature": True})
    if not model.input_check().numbered:  # files before 3.1 name no categories
        assert tuple(map(int, xgboost.__version__.split(".")[:2])) < (3, 1)
        return
    assert [(one.name, one.datatype) for one in model.inputs][-1] == ("shop", "FP32")
    some = table.iloc[[2, 0]].astype({"city": object})
    wanted = fitted.predict(table.iloc[[2, 0]])
    for sent in ("int64", "float32", "uint8"):
        assert np.array_equal(ask(model, some.astype({"shop": sent}))["predict"].ravel(), wanted)
    lacking = some.assign(shop=[np.nan, 40.0])
    assert np.array_equal(ask(model, lacking)["predict"].ravel()[1], wanted[1])
    for wrong, told in {(10.5, 40.0): "10.5 in row 0", ("ten", "40"): "ten in row 0", (10, 20): "20 in row 1"}.items():
        words = refusal(model, some.assign(shop=wrong))
        assert "'shop' holds categories that are whole numbers" in words and told in words


def test_predict_fn_chooses_the_output(tmp_path: Path) -> None:
    CLASSIFIER.save_model(tmp_path / "model.ubj")
    model = TRIAL.load(tmp_path, extra={"predict_fn": "predict_proba"})
    assert np.array_equal(ask(model, IRIS)["predict_proba"], CLASSIFIER.predict_proba(IRIS))
    with pytest.raises(ModelLoadError, match="predict_fn is 'fit', but XGBClassifier has"):
        TRIAL.load(tmp_path, extra={"predict_fn": "fit"})


# -- metadata and threads ---------------------------------------------------------------------------------------------


TWO_LABELS = np.column_stack([SPECIES > 0, SPECIES > 1]).astype(int)


@pytest.mark.parametrize(
    ("fitted", "predict"),
    [
        (CLASSIFIER, ("INT64", [-1, 1])),
        (REGRESSOR, ("FP32", [-1, 1])),
        (booster("multi:softmax"), ("FP32", [-1, 1])),
        (booster("multi:softprob"), ("FP32", [-1, 3])),
        (booster("binary:logistic"), ("FP32", [-1, 1])),
        (xgboost.XGBClassifier(**OPTIONS).fit(IRIS, TWO_LABELS), ("FP64", [-1, 2])),
        (xgboost.XGBRegressor(**OPTIONS).fit(IRIS, IRIS[:, :3]), ("FP32", [-1, 3])),
    ],
    ids=["classifier", "regressor", "softmax", "softprob", "logistic", "labels", "targets"],
)
def test_a_signature_describes_the_answers_that_come(tmp_path: Path, fitted: Any, predict: Any) -> None:
    fitted.save_model(tmp_path / "model.ubj")
    assert TRIAL.load(tmp_path).outputs == []
    model = TRIAL.load(tmp_path, extra={"signature": True})
    assert [(one.name, one.shape) for one in model.inputs] == [("x", [-1, 4])]
    declared = model.outputs
    assert (declared[0].name, declared[0].datatype, declared[0].shape) == ("predict", *predict)
    response = model.predict(request_of(IRIS[:7], *(one.name for one in declared)))
    for one, answer in zip(declared, response.outputs, strict=True):
        assert (one.name, one.datatype, one.shape) == (answer.name, answer.datatype, [-1, *answer.shape[1:]])


def test_a_signature_of_a_model_of_categories_is_had_by_its_frame_too(tmp_path: Path) -> None:
    fitted = xgboost.XGBClassifier(enable_categorical=True, **OPTIONS).fit(TABLE, [0, 1, 2, 1] * 5)
    fitted.save_model(tmp_path / "model.ubj")
    model = TRIAL.load(tmp_path, content_type="pd", extra={"signature": True})
    assert [(one.name, one.datatype) for one in model.inputs] == [("age", "FP32"), ("city", "BYTES")]
    told = {one.name: (one.datatype, one.shape) for one in model.outputs}
    assert told == {"predict": ("INT64", [-1, 1]), "predict_proba": ("FP32", [-1, 3])}
    numbers = request_of(
        np.column_stack([TABLE["age"], TABLE["city"].cat.codes]), *told
    )  # files before 3.1 know no texts
    answer = TRIAL.load(tmp_path).predict(numbers)
    assert {one.name: (one.datatype, [-1, *one.shape[1:]]) for one in answer.outputs} == told


def test_threads_bound_a_call(tmp_path: Path) -> None:
    CLASSIFIER.save_model(tmp_path / "model.ubj")
    model = TRIAL.load(tmp_path, extra={"threads": 1})
    config = json.loads(model._model.get_booster().save_config())
    assert config["learner"]["generic_param"]["nthread"] == "1"
    assert np.array_equal(ask(model, IRIS)["predict"].ravel(), CLASSIFIER.predict(IRIS))
    for wrong in (0, "many", -1, True):
        with pytest.raises(ModelLoadError, match=r"extra\.threads: expected a whole number >= 1"):
            TRIAL.load(tmp_path, extra={"threads": wrong})


def test_the_short_name_leads_to_the_class() -> None:
    (entry,) = importlib.metadata.entry_points(group="mlserve.runtimes", name="xgboost")
    assert entry.load() is XGBoostModel
