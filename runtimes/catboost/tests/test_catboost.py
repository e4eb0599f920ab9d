"""The CatBoost runtime: files, flavours, inputs, outputs, errors, metadata; its answers are CatBoost's own."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import anyio
import catboost
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

from mlserve.codecs import StringRequestCodec
from mlserve.errors import InferenceError, InvalidModelURI, ModelLoadError
from mlserve.testing import check_runtime
from mlserve.types import InferenceRequest
from mlserve_catboost import CatboostModel
from tests.old_runtimes import check_old_names
from tests.runtime_trial import Trial, arrays, ask, refusal, request_of, response_of, served

TRIAL = Trial(CatboostModel)

IRIS, SPECIES = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[SPECIES]
TABLE = pd.DataFrame(
    {
        "age": [20.0, 30, 40, 50] * 5,
        "city": ["Oslo", "Lima", "Bern", "Lima"] * 5,
        "rooms": [1, 2, 3, 1] * 5,
        "note": ["good day", "bad day", "good night", "bad"] * 5,
    }
)
OPTIONS: dict[str, Any] = {
    "iterations": 3,
    "bootstrap_type": "No",
    "verbose": False,
    "allow_writing_files": False,
    "thread_count": 1,
}


def classifier(target: Any = SPECIES, **more: Any) -> Any:
    return catboost.CatBoostClassifier(**OPTIONS, **more).fit(IRIS, target)


def regressor(**more: Any) -> Any:
    return catboost.CatBoostRegressor(**OPTIONS, **more).fit(IRIS, SPECIES)


def ranker() -> Any:
    options = {**OPTIONS, "loss_function": "YetiRank"}
    return catboost.CatBoostRanker(**options).fit(IRIS, SPECIES, group_id=np.arange(150) // 10)


def tabular() -> Any:
    options = {**OPTIONS, "cat_features": ["city", "rooms"], "text_features": ["note"]}
    return catboost.CatBoostClassifier(**options).fit(TABLE, [0, 1, 0, 1] * 5)


CLASSIFIER = classifier()


def save(folder: Path, fitted: Any, name: str = "model.cbm", **options: Any) -> Any:
    fitted.save_model(str(folder / name), **options)
    return fitted


@pytest.mark.parametrize(
    ("fitted", "outputs"),
    [
        (CLASSIFIER, ["predict_proba", "predict", "predict_log_proba", "calc_leaf_indexes"]),
        (classifier(SPECIES > 0), ["predict", "predict_proba"]),
        (classifier(NAMES), ["predict", "predict_proba"]),
        (classifier(np.c_[SPECIES > 0, SPECIES > 1].astype(int), loss_function="MultiLogloss"), ["predict"]),
        (regressor(), ["predict", "calc_leaf_indexes"]),
        (regressor(loss_function="Poisson"), ["predict"]),
        (regressor(loss_function="RMSEWithUncertainty"), ["predict"]),
        (ranker(), ["predict"]),
    ],
    ids=["classes", "binary", "text", "labels", "regressor", "poisson", "uncertainty", "ranker"],
)
def test_it_passes_the_conformance_suite_and_answers_bit_for_bit(
    tmp_path: Path, fitted: Any, outputs: list[str]
) -> None:
    save(tmp_path, fitted)
    (answer,) = check_runtime(TRIAL.settings(tmp_path), request_of(IRIS[::10], *outputs), batches=True)
    assert [one.name for one in answer.outputs] == outputs
    for name, found in arrays(answer).items():
        wanted = getattr(fitted, name)(IRIS[::10])
        assert found.dtype.kind == wanted.dtype.kind.replace("O", "U")
        assert np.array_equal(found.reshape(wanted.shape), wanted)


def test_categories_and_text_on_frames_pass_the_conformance_suite(tmp_path: Path) -> None:
    fitted = save(tmp_path, tabular())
    request = request_of(TABLE, "predict_proba", "predict")
    (answer,) = check_runtime(TRIAL.settings(tmp_path, content_type="pd"), request, batches=True)
    assert np.array_equal(arrays(answer)["predict_proba"], fitted.predict_proba(TABLE))
    assert np.array_equal(arrays(answer)["predict"].ravel(), fitted.predict(TABLE))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_server_gives_the_same_over_every_transport(tmp_path: Path, workers: int) -> None:
    save(tmp_path, CLASSIFIER)
    names = ["predict", "predict_proba"]
    found = served(tmp_path, {"implementation": "mlserver_catboost.CatboostModel"}, {"x": IRIS[:20]}, names, workers)
    for transport, answer in found.items():
        for name in names:
            wanted = getattr(CLASSIFIER, name)(IRIS[:20])
            assert np.array_equal(answer[name].reshape(wanted.shape), wanted), (transport, name)


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.cbm", "model.json", "model.bin"])
@pytest.mark.parametrize("form", ["cbm", "json"])
def test_the_content_tells_the_form_whatever_the_name(tmp_path: Path, name: str, form: str) -> None:
    save(tmp_path, CLASSIFIER, name, format=form)
    assert np.array_equal(ask(TRIAL.load(tmp_path), IRIS)["predict"], CLASSIFIER.predict(IRIS))


def test_the_file_says_what_the_model_is_whatever_class_trained_it(tmp_path: Path) -> None:
    save(tmp_path, catboost.CatBoost({**OPTIONS, "loss_function": "MultiClass"}).fit(IRIS, SPECIES))
    assert np.array_equal(ask(TRIAL.load(tmp_path), IRIS)["predict"], CLASSIFIER.predict(IRIS))
    for fitted, kind in ((regressor(loss_function="Quantile"), "CatBoostRegressor"), (ranker(), "CatBoostRanker")):
        save(tmp_path, fitted)
        assert f"{kind} has calc_leaf_indexes, predict" in refusal(TRIAL.load(tmp_path), IRIS, "predict_proba")


def test_a_missing_file_is_told_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelURI, match=r"none of model\.cbm, model\.json, model\.bin"):
        TRIAL.load(tmp_path)
    with pytest.raises(InvalidModelURI, match=r"gone\.cbm does not exist"):
        TRIAL.load(tmp_path, uri="gone.cbm")


def saved(form: str) -> bytes:
    path = Path(f"{anyio.run(anyio.mkdtemp)}/model")
    CLASSIFIER.save_model(str(path), format=form)
    return path.read_bytes()


CBM, JSON = saved("cbm"), saved("json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"tree\nversion=v4\n", "a LightGBM model: its runtime is 'lightgbm'"),
        (b'{"learner":{}}', "an XGBoost model: its runtime is 'xgboost'"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"just text", "neither CatBoost's binary format nor its JSON"),
        (b'{"a": 1}', "JSON, but of no CatBoost model"),
        (b'{"features_info": {}, "trees": [1]}', "JSON, but of no CatBoost model"),
        (b'{"features_info":1,"model_info":1,"trees":1}', "JSON, but of no CatBoost model"),
        (b'{"features_info":null,"model_info":null,"oblivious_trees":null}', "JSON, but of no CatBoost model"),
        (b'{"features_info":{},"model_info":{},"oblivious_trees":[]}', "it has no features"),
        (b'{"features_info":' + b"[" * 10**6, "broken JSON, perhaps cut short"),
        (b" \n", "nothing but blanks"),
        *((CBM[:length], "a CatBoost model (binary format) that cannot be read") for length in (4, 500, len(CBM) - 9)),
        *((JSON[:length], "broken JSON, perhaps cut short") for length in (300, len(JSON) // 2)),
    ],
    ids=lambda one: str(one[:24]),
)
def test_a_file_that_cannot_be_served_is_told_with_the_reason(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "model.cbm").write_bytes(content)
    with pytest.raises(ModelLoadError) as caught:
        TRIAL.load(tmp_path)
    assert words in str(caught.value)
    assert "model 'm'" in str(caught.value) and "model.cbm" in str(caught.value)
    assert ".cpp" not in str(caught.value)


# -- inputs and outputs -----------------------------------------------------------------------------------------------


def test_null_is_a_missing_value(tmp_path: Path) -> None:
    save(tmp_path, CLASSIFIER)
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
        (pd.DataFrame({"a": ["x"], "b": [2.0], "c": [2.0], "d": [2.0]}), '="x": Cannot convert'),
        (pd.DataFrame({"a": [1.0], "b": [2.0]}), "the model takes 4 columns, got 2"),
    ],
    ids=["features", "dimensions", "text", "mixed", "columns"],
)
def test_input_that_the_model_cannot_use_is_the_clients_fault(tmp_path: Path, data: Any, words: str) -> None:
    save(tmp_path, CLASSIFIER)
    assert words in refusal(TRIAL.load(tmp_path), data)


def test_texts_are_no_input(tmp_path: Path) -> None:
    save(tmp_path, CLASSIFIER)
    with pytest.raises(InferenceError, match="takes a tensor of numbers or a data frame"):
        TRIAL.load(tmp_path).predict(StringRequestCodec.encode_request(["a"]))


def test_columns_go_by_name_and_more_do_not_matter(tmp_path: Path) -> None:
    fitted = save(tmp_path, tabular())
    model = TRIAL.load(tmp_path, content_type="pd")
    shuffled = TABLE[["note", "rooms", "city", "age"]].assign(more=1)
    assert np.array_equal(ask(model, shuffled, "predict_proba")["predict_proba"], fitted.predict_proba(TABLE))
    assert "columns are missing: 'age', 'note'" in refusal(model, TABLE[["rooms", "city"]])


def test_columns_named_by_numbers_go_by_them_and_others_by_position(tmp_path: Path) -> None:
    """A model that was trained on an array has them too."""
    frame = pd.DataFrame(IRIS[::10])
    wanted = CLASSIFIER.predict_proba(frame)
    save(tmp_path, CLASSIFIER)
    model = TRIAL.load(tmp_path)
    turned = frame[[3, 1, 0, 2]].rename(columns=str)
    for sent in (
        turned,
        turned.assign(more=1.0),
        frame.set_axis(list("dbac"), axis=1),
        turned.set_axis(list("012x"), axis=1),
    ):
        by_position = "3" not in sent
        rows = CLASSIFIER.predict_proba(sent.to_numpy()) if by_position else wanted
        assert np.array_equal(ask(model, sent, "predict_proba")["predict_proba"], rows)


def test_a_file_of_json_answers_as_catboost_reads_it(tmp_path: Path) -> None:
    """Its numbers are decimal: the last digits may be others than before saving."""
    save(tmp_path, CLASSIFIER, "model.json", format="json")
    read = catboost.CatBoostClassifier().load_model(str(tmp_path / "model.json"), format="json")
    found = ask(TRIAL.load(tmp_path), IRIS, "predict_proba")["predict_proba"]
    assert np.array_equal(found, read.predict_proba(IRIS))
    assert np.allclose(found, CLASSIFIER.predict_proba(IRIS), rtol=1e-12, atol=0)


def test_what_is_missing_in_a_category_is_told_by_its_row(tmp_path: Path) -> None:
    save(tmp_path, tabular())
    told = refusal(TRIAL.load(tmp_path, content_type="pd"), TABLE.assign(city=["Oslo", None, *["Lima"] * 18]))
    assert "column 'city' holds categories or text, and is missing in row 1" in str(told)
    told = refusal(TRIAL.load(tmp_path, content_type="pd"), TABLE.assign(rooms=TABLE["rooms"].astype(float)))
    assert "cat_features must be integer or string" in str(told)


def test_a_frame_for_columns_without_names_keeps_whole_numbers_as_categories(tmp_path: Path) -> None:
    rows = [[1, 0.5], [2, 1.5], [3, 2.5]] * 10
    fitted = save(tmp_path, catboost.CatBoostClassifier(**OPTIONS).fit(rows, [0, 1, 0] * 10, cat_features=[0]))
    frame = pd.DataFrame(rows[:3], columns=["any", "other"])
    found = ask(TRIAL.load(tmp_path), frame, "predict_proba")["predict_proba"]
    assert np.array_equal(found, fitted.predict_proba(rows[:3]))


def test_numbers_that_are_too_large_for_a_category_are_the_clients_fault(tmp_path: Path) -> None:
    save(tmp_path, tabular())
    told = refusal(TRIAL.load(tmp_path, content_type="pd"), TABLE.assign(rooms=[10**30] * 20))
    assert "too large" in told


def test_a_long_value_is_not_told_in_full(tmp_path: Path) -> None:
    save(tmp_path, CLASSIFIER)
    frame = pd.DataFrame({"a": ["x" * 10**5], "b": [2.0], "c": [2.0], "d": [2.0]})
    assert len(refusal(TRIAL.load(tmp_path), frame)) < 600


def test_outputs_that_the_model_lacks_are_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, CLASSIFIER)
    model = TRIAL.load(tmp_path)
    for name in ("fit", "save_model", "_object", "no such"):
        told = (
            f"no output '{name}': CatBoostClassifier has calc_leaf_indexes, predict, predict_log_proba, predict_proba"
        )
        assert told in refusal(model, IRIS, name)


def test_predict_fn_chooses_the_output(tmp_path: Path) -> None:
    save(tmp_path, CLASSIFIER)
    model = TRIAL.load(tmp_path, extra={"predict_fn": "predict_proba"})
    assert np.array_equal(ask(model, IRIS)["predict_proba"], CLASSIFIER.predict_proba(IRIS))
    with pytest.raises(ModelLoadError, match="predict_fn is 'fit', but CatBoostClassifier has"):
        TRIAL.load(tmp_path, extra={"predict_fn": "fit"})


# -- metadata and threads ---------------------------------------------------------------------------------------------


def test_a_signature_describes_the_answers_that_come(tmp_path: Path) -> None:
    several = classifier(np.c_[SPECIES > 0, SPECIES > 1].astype(int), loss_function="MultiLogloss")
    for fitted in (CLASSIFIER, classifier(NAMES), classifier(SPECIES > 0), several, regressor(), ranker()):
        save(tmp_path, fitted)
        assert TRIAL.load(tmp_path).outputs == []
        model = TRIAL.load(tmp_path, extra={"signature": True})
        assert [(one.name, one.shape) for one in model.inputs] == [("x", [-1, 4])]
        declared = model.outputs
        response = model.predict(request_of(IRIS[:7], *(one.name for one in declared)))
        for one, answer in zip(declared, response.outputs, strict=True):
            assert (one.name, one.datatype) == (answer.name, answer.datatype)
            assert all(size in (-1, found) for size, found in zip(one.shape, answer.shape, strict=True))


def test_the_signature_of_a_table_names_its_columns(tmp_path: Path) -> None:
    save(tmp_path, tabular())
    described = TRIAL.load(tmp_path, extra={"signature": True}).inputs
    assert [(one.name, str(one.datatype)) for one in described] == [
        ("age", "FP64"),
        ("city", "BYTES"),
        ("rooms", "BYTES"),
        ("note", "BYTES"),
    ]


def test_a_signature_changes_no_answer(tmp_path: Path) -> None:
    """Categories may come as whole numbers, and as text, with the model's metadata and without."""
    fitted = save(tmp_path, tabular())
    for table in (TABLE, TABLE.assign(rooms=TABLE["rooms"].astype(str))):
        request = request_of(table, "predict_proba")
        for one in request.inputs:
            one.parameters = None  # what a client leaves out is what the metadata say
        for signature in (False, True):
            model = TRIAL.load(tmp_path, content_type="pd", extra={"signature": signature})
            found = arrays(response_of(model, request))["predict_proba"]
            assert np.array_equal(found, fitted.predict_proba(TABLE))


def test_threads_are_given_to_each_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, CLASSIFIER)
    model = TRIAL.load(tmp_path, extra={"threads": 2})
    seen: list[Any] = []
    predict = model._model.predict

    def watch(data: Any, **options: Any) -> Any:
        seen.append(options)
        return predict(data, **options)

    monkeypatch.setattr(model._model, "predict", watch)
    assert np.array_equal(ask(model, IRIS)["predict"], CLASSIFIER.predict(IRIS))
    assert seen == [{"thread_count": 2}]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert TRIAL.load(tmp_path)._options == {"thread_count": 1}
    for wrong in (0, "many", -1, True):
        with pytest.raises(ModelLoadError, match=r"extra\.threads: expected a whole number >= 1"):
            TRIAL.load(tmp_path, extra={"threads": wrong})
    with pytest.raises(ModelLoadError, match=r"extra\.threads: expected a whole number from 1 to 1024"):
        TRIAL.load(tmp_path, extra={"threads": 1025})


def test_serving_writes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, CLASSIFIER)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ask(TRIAL.load(tmp_path), IRIS, "predict", "predict_proba")
    assert not list((tmp_path / "here").iterdir())


def test_the_short_name_leads_to_the_class() -> None:
    (entry,) = importlib.metadata.entry_points(group="mlserve.runtimes", name="catboost")
    assert entry.load() is CatboostModel


def test_its_modules_have_mlservers_names() -> None:
    check_old_names("mlserver_catboost")
