"""The LightGBM runtime: files, flavours, inputs, outputs, errors, metadata; its answers are LightGBM's own."""

from __future__ import annotations

import importlib.metadata
import json
import pickle
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import Ridge

from mlserve.codecs import StringRequestCodec
from mlserve.errors import InferenceError, InvalidModelURI, ModelLoadError
from mlserve.testing import check_runtime
from mlserve.types import InferenceRequest
from mlserve_lightgbm import LightGBMModel
from tests.runtime_trial import Trial, arrays, ask, refusal, request_of, served

TRIAL = Trial(LightGBMModel)

IRIS, SPECIES = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[SPECIES]
TABLE = pd.DataFrame(
    {"the age": [20.0, 30, 40, 50] * 20, "city": pd.Categorical(["Oslo", "Lima", "Bern", "Lima"] * 20)}
)
OPTIONS = {"num_leaves": 4, "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 1, "min_data_per_group": 1}


def booster(objective: str = "multiclass") -> lightgbm.Booster:
    options = {**OPTIONS, "objective": objective, **({"num_class": 3} if objective == "multiclass" else {})}
    target = SPECIES if objective == "multiclass" else SPECIES > 0
    return lightgbm.train(options, lightgbm.Dataset(IRIS, target), 3)


BOOSTER = booster()
TEXT = BOOSTER.model_to_string()
CLASSIFIER = lightgbm.LGBMClassifier(n_estimators=3, n_jobs=1, verbosity=-1).fit(IRIS, NAMES)


@pytest.mark.parametrize("objective", ["multiclass", "binary", "regression"])
def test_boosters_pass_the_conformance_suite_and_answer_bit_for_bit(tmp_path: Path, objective: str) -> None:
    trained = booster(objective)
    trained.save_model(tmp_path / "model.bst")
    (answer,) = check_runtime(TRIAL.settings(tmp_path), request_of(IRIS[::10]))
    wanted = trained.predict(IRIS[::10])
    found = arrays(answer)["predict"]
    assert found.dtype == wanted.dtype and np.array_equal(found.reshape(wanted.shape), wanted)


@pytest.mark.parametrize("name", ["model.joblib", "model.pkl", "model.pickle"])
def test_pickled_estimators_keep_classes_and_probabilities(tmp_path: Path, name: str) -> None:
    joblib.dump(CLASSIFIER, tmp_path / name, compress=3 if name == "model.joblib" else 0)
    (answer,) = check_runtime(TRIAL.settings(tmp_path), request_of(IRIS[::10], "predict_proba", "predict"))
    found = arrays(answer)
    assert list(found) == ["predict_proba", "predict"]
    assert np.array_equal(found["predict_proba"], CLASSIFIER.predict_proba(IRIS[::10]))
    assert np.array_equal(found["predict"].ravel(), CLASSIFIER.predict(IRIS[::10]))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_server_gives_the_same_over_every_transport(tmp_path: Path, workers: int) -> None:
    BOOSTER.save_model(tmp_path / "model.txt")
    found = served(tmp_path, {"implementation": "lightgbm"}, {"x": IRIS[:20]}, ["predict"], workers)
    for transport, answer in found.items():
        assert np.array_equal(answer["predict"], BOOSTER.predict(IRIS[:20])), transport


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.bst", "model.txt", "model.model"])
def test_well_known_names_are_found(tmp_path: Path, name: str) -> None:
    BOOSTER.save_model(tmp_path / name)
    assert np.array_equal(ask(TRIAL.load(tmp_path), IRIS)["predict"], BOOSTER.predict(IRIS))


def test_a_missing_file_is_told_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelURI, match=r"none of model\.bst, model\.txt, model\.model"):
        TRIAL.load(tmp_path)
    with pytest.raises(InvalidModelURI, match=r"gone\.txt does not exist"):
        TRIAL.load(tmp_path, uri="gone.txt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b'{"learner":{"attributes":{}}}', "an XGBoost model: its runtime is 'xgboost'"),
        (b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner", "an XGBoost model: its runtime is 'xgboost'"),
        (json.dumps(BOOSTER.dump_model()).encode(), "what LightGBM's dump_model() gives"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"just text", "begins with 'tree'"),
        (b"tree\n", "it holds no trees"),
        (TEXT[:300].encode(), "it holds no trees, perhaps it is cut short"),
        (TEXT[: TEXT.index("Tree=2")].encode(), "tree 2 is not where it should be"),
        (TEXT[: TEXT.index("end of trees") - 3].encode(), "cut short: trees are missing"),
        (TEXT.replace("leaf_value=", "leaf_value=1").encode(), "tree 1 is not where it should be"),
        (pickle.dumps(CLASSIFIER)[:100], "damaged or cut short"),
        (pickle.dumps(Ridge()), "an object of type Ridge, not a LightGBM model"),
        (pickle.dumps(lightgbm.LGBMRegressor()), "a LGBMRegressor that is not fitted"),
        (b"\x80\x04cno_such_module\nModel\n.", "needs the Python module 'no_such_module'"),
    ],
    ids=lambda one: str(one[:24]),
)
def test_a_file_that_cannot_be_served_is_told_with_the_reason(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "model.bst").write_bytes(content)
    with pytest.raises(ModelLoadError) as caught:
        TRIAL.load(tmp_path)
    assert words in str(caught.value)
    assert "model 'm'" in str(caught.value) and "model.bst" in str(caught.value)


def test_line_ends_of_another_system_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_bytes(TEXT.replace("\n", "\r\n").encode())
    model = TRIAL.load(tmp_path)
    assert np.array_equal(ask(model, IRIS)["predict"], BOOSTER.predict(IRIS))


# -- inputs and outputs -----------------------------------------------------------------------------------------------


def test_null_is_a_missing_value(tmp_path: Path) -> None:
    BOOSTER.save_model(tmp_path / "model.bst")
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [5.1, None, 1.4, None]}
    found = arrays(TRIAL.load(tmp_path).predict(InferenceRequest(inputs=[tensor])))["predict"]
    assert np.array_equal(found, BOOSTER.predict(np.array([[5.1, np.nan, 1.4, np.nan]])))


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
    BOOSTER.save_model(tmp_path / "model.bst")
    assert words in refusal(TRIAL.load(tmp_path), data)


def test_texts_are_no_input(tmp_path: Path) -> None:
    BOOSTER.save_model(tmp_path / "model.bst")
    with pytest.raises(InferenceError, match="takes a tensor of numbers or a data frame"):
        TRIAL.load(tmp_path).predict(StringRequestCodec.encode_request(["a"]))


def test_outputs_that_the_model_lacks_are_refused_by_name(tmp_path: Path) -> None:
    BOOSTER.save_model(tmp_path / "model.bst")
    for name in ("predict_proba", "save_model", "no such"):
        assert f"no output '{name}': Booster has predict" in refusal(TRIAL.load(tmp_path), IRIS, name)


def test_columns_go_by_name_and_text_is_categories(tmp_path: Path) -> None:
    data = lightgbm.Dataset(TABLE, np.array([1.0, 5, 9, 5] * 20))
    trained = lightgbm.train({**OPTIONS, "objective": "regression"}, data, 3)
    trained.save_model(tmp_path / "model.bst")
    model = TRIAL.load(tmp_path, content_type="pd")
    rows = TABLE[["city", "the age"]].astype({"city": object}).iloc[[0, 3]]  # without Bern: codes alone would be others
    assert np.array_equal(ask(model, rows.assign(more=1))["predict"].ravel(), trained.predict(TABLE.iloc[[0, 3]]))
    assert "columns are missing: 'the_age'" in refusal(model, rows[["city"]])


KINDS = {"text": ["x", "y", "z"], "numbers": [10, 20, 30], "decimals": [1.5, 2.5, 3.5], "truth": [False, True]}


def of_kind(categories: list[Any], **more: Any) -> tuple[Any, pd.DataFrame]:
    """A Booster to which each category and a missing one mean another value, and what it was trained on."""
    codes = np.arange(-1, len(categories)).repeat(30)
    kinds = pd.Categorical.from_codes(codes, categories)
    table = pd.DataFrame({"the age": np.arange(len(codes)) % 7.0, "kind": kinds, **more})
    options = {**OPTIONS, "num_leaves": 9, "cat_smooth": 0, "objective": "regression"}
    return lightgbm.train(options, lightgbm.Dataset(table, codes * 5.0 + table["the age"]), 5), table


@pytest.mark.parametrize("categories", list(KINDS.values()), ids=list(KINDS))
def test_categories_of_any_kind_are_those_of_training_also_where_all_are_missing(
    tmp_path: Path, categories: list[Any]
) -> None:
    trained, table = of_kind(categories)
    trained.save_model(tmp_path / "model.bst")
    model = TRIAL.load(tmp_path, content_type="pd", extra={"signature": True})
    kind = "BYTES" if isinstance(categories[0], str) else "FP64"
    assert [(one.name, one.datatype) for one in model.inputs] == [("the_age", "FP64"), ("kind", kind)]
    plain = table.assign(kind=table["kind"].astype(object))
    for rows in ([40, 0, 80], [70], [0, 5]):
        some = plain.iloc[rows]
        wanted = trained.predict(table.iloc[rows])
        assert np.array_equal(ask(model, some)["predict"].ravel(), wanted)
        if some["kind"].isna().all():
            assert np.array_equal(ask(model, some.assign(kind=np.nan))["predict"].ravel(), wanted)


def test_what_can_be_no_category_is_the_clients_fault(tmp_path: Path) -> None:
    trained, table = of_kind(KINDS["text"])
    trained.save_model(tmp_path / "model.bst")
    model = TRIAL.load(tmp_path, content_type="pd")
    some = table.astype({"kind": object}).iloc[[40, 70]]
    known = "column 'kind' holds categories that are text ('x', 'y', 'z')"
    for wrong, kind in (([["x"], "y"], "a list in row 0"), (["x", {}], "a dict in row 1"), (1.0, "numbers in row 0")):
        values = wrong if isinstance(wrong, list) else [wrong] * 2
        assert f"{known}, got {kind}" in refusal(model, some.assign(kind=values))
    swapped = some.rename(columns={"kind": "the age", "the age": "kind"})
    assert "holds categories that are text" in refusal(model, swapped)


def test_predict_fn_chooses_the_output(tmp_path: Path) -> None:
    joblib.dump(CLASSIFIER, tmp_path / "model.joblib")
    model = TRIAL.load(tmp_path, extra={"predict_fn": "predict_proba"})
    assert np.array_equal(ask(model, IRIS)["predict_proba"], CLASSIFIER.predict_proba(IRIS))
    with pytest.raises(ModelLoadError, match="predict_fn is 'fit', but LGBMClassifier has predict, predict_proba"):
        TRIAL.load(tmp_path, extra={"predict_fn": "fit"})


def test_an_array_for_a_model_fitted_on_a_frame_goes_by_position_without_warnings(tmp_path: Path) -> None:
    frame = pd.DataFrame(IRIS, columns=list("abcd"))
    fitted = lightgbm.LGBMRegressor(n_estimators=3, n_jobs=1, verbosity=-1).fit(frame, SPECIES)
    joblib.dump(fitted, tmp_path / "model.joblib")
    assert np.array_equal(ask(TRIAL.load(tmp_path), IRIS)["predict"].ravel(), fitted.predict(frame))


# -- metadata and threads ---------------------------------------------------------------------------------------------


def test_a_signature_describes_the_answers_that_come(tmp_path: Path) -> None:
    for fitted in (CLASSIFIER, BOOSTER, booster("binary"), booster("regression")):
        joblib.dump(fitted, tmp_path / "model.joblib")
        assert TRIAL.load(tmp_path).outputs == []
        model = TRIAL.load(tmp_path, extra={"signature": True})
        assert [(one.name, one.shape) for one in model.inputs] == [("x", [-1, 4])]
        declared = model.outputs
        response = model.predict(request_of(IRIS[:7], *(one.name for one in declared)))
        for one, answer in zip(declared, response.outputs, strict=True):
            assert (one.name, one.datatype) == (answer.name, answer.datatype)
            assert all(size in (-1, found) for size, found in zip(one.shape, answer.shape, strict=True))


@pytest.mark.parametrize("flavour", [BOOSTER, CLASSIFIER], ids=["booster", "estimator"])
def test_threads_are_given_to_each_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flavour: Any) -> None:
    joblib.dump(flavour, tmp_path / "model.joblib")
    model = TRIAL.load(tmp_path, extra={"threads": 2})
    seen: list[Any] = []
    predict = model._model.predict

    def watch(data: Any, **options: Any) -> Any:
        seen.append(options)
        return predict(data, **options)

    monkeypatch.setattr(model._model, "predict", watch)
    assert np.array_equal(ask(model, IRIS)["predict"].ravel(), np.ravel(flavour.predict(IRIS)))
    assert seen == [{"num_threads": 2}]
    for wrong in (0, "many", -1, True):
        with pytest.raises(ModelLoadError, match=r"extra\.threads: expected a whole number >= 1"):
            TRIAL.load(tmp_path, extra={"threads": wrong})


def test_the_short_name_leads_to_the_class() -> None:
    (entry,) = importlib.metadata.entry_points(group="mlserve.runtimes", name="lightgbm")
    assert entry.load() is LightGBMModel
