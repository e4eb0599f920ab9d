"""The scikit-learn runtime: files, inputs, outputs, errors, metadata; its answers are the estimator's own."""

from __future__ import annotations

import importlib.metadata
import logging
import pickle
from pathlib import Path
from typing import Any

import anyio
import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from mlserve.codecs import NumpyRequestCodec, PandasCodec, StringRequestCodec
from mlserve.errors import InferenceError, InvalidModelURI, MLServeError, ModelLoadError
from mlserve.testing import check_runtime
from mlserve.types import InferenceRequest, InferenceResponse, RequestOutput
from mlserve_sklearn import SKLearnModel
from tests.runtime_trial import Trial, arrays, request_of, served

TRIAL = Trial(SKLearnModel)

IRIS, SPECIES = load_iris(return_X_y=True)
DIGITS, NUMBERS = load_digits(return_X_y=True)
TABLE = pd.DataFrame(
    {
        "age": [20.0, 30.0, 40.0, 50.0, 60.0, 25.0],
        "fare": [7.5, 80.0, 15.0, 60.0, 9.0, 70.0],
        "city": ["Oslo", "Lima", "Oslo", "Lima", "Bern", "Bern"],
    }
)


def save(folder: Path, model: Any, name: str = "model.joblib") -> Any:
    joblib.dump(model, folder / name)
    return model


def ask(model: SKLearnModel, data: Any, *outputs: str) -> InferenceResponse:
    return model.predict(request_of(data, *outputs))


def only(response: InferenceResponse) -> Any:
    (found,) = arrays(response).values()
    return found


def refusal(model: SKLearnModel, data: Any, *outputs: str) -> MLServeError:
    with pytest.raises(MLServeError) as caught:
        ask(model, data, *outputs)
    return caught.value


@pytest.fixture
def classifier(tmp_path: Path) -> tuple[SKLearnModel, LogisticRegression]:
    fitted = save(tmp_path, LogisticRegression(max_iter=1000).fit(IRIS, SPECIES))
    return TRIAL.load(tmp_path), fitted


def tabular() -> Any:
    columns = [
        ("number", StandardScaler(), ["age", "fare"]),
        ("text", OneHotEncoder(handle_unknown="ignore"), ["city"]),
    ]
    return make_pipeline(ColumnTransformer(columns), LogisticRegression()).fit(TABLE, [0, 1, 0, 1, 0, 1])


class Clumsy(BaseEstimator, TransformerMixin):
    """A transformer with a mistake of its own."""

    def fit(self, x: Any, y: Any = None) -> Clumsy:
        self.fitted_ = True
        return self

    def transform(self, x: Any) -> Any:
        raise ValueError("a mistake")


# -- conformance ------------------------------------------------------------------------------------------------------


def check(folder: Path, request: InferenceRequest, expected: dict[str, Any], **parameters: Any) -> None:
    """The conformance suite, and the estimator's own answer bit for bit."""
    request.outputs = [RequestOutput(name=name) for name in expected]
    (answer,) = check_runtime(TRIAL.settings(folder, **parameters), request)
    assert [one.name for one in answer.outputs] == list(expected)
    for one, wanted in zip(arrays(answer).values(), expected.values(), strict=True):
        assert one.dtype.kind == wanted.dtype.kind
        assert np.array_equal(one.reshape(wanted.shape), wanted)


@pytest.mark.parametrize(
    ("estimator", "outputs"),
    [
        (LogisticRegression(max_iter=1000).fit(IRIS, SPECIES), ["predict_proba", "predict", "decision_function"]),
        (Ridge().fit(IRIS, SPECIES), ["predict"]),
        (StandardScaler().fit(IRIS), ["transform"]),
        (RandomForestClassifier(10, random_state=0).fit(IRIS, SPECIES), ["predict_proba"]),
        (LogisticRegression(max_iter=1000).fit(IRIS, np.array(["a", "bb", "ccc"])[SPECIES]), ["predict"]),
    ],
    ids=lambda one: type(one).__name__,
)
def test_it_passes_the_conformance_suite_and_answers_bit_for_bit(
    tmp_path: Path, estimator: Any, outputs: list[str]
) -> None:
    save(tmp_path, estimator)
    expected = {name: getattr(estimator, name)(IRIS[::10]) for name in outputs}
    check(tmp_path, NumpyRequestCodec.encode_request(IRIS[::10]), expected)


def test_a_pipeline_on_frames_passes_the_conformance_suite(tmp_path: Path) -> None:
    pipeline = save(tmp_path, tabular())
    expected = {name: getattr(pipeline, name)(TABLE) for name in ("predict_proba", "predict")}
    check(tmp_path, PandasCodec.encode_request(TABLE), expected, content_type="pd")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_server_gives_the_same_over_every_transport(tmp_path: Path, workers: int) -> None:
    fitted = save(tmp_path, SVC(gamma=0.001).fit(DIGITS[:500], NUMBERS[:500]))
    names = ["predict", "decision_function"]
    found = served(tmp_path, {"implementation": "sklearn"}, {"x": DIGITS[500:520]}, names, workers)
    for transport, answer in found.items():
        for name in names:
            wanted = getattr(fitted, name)(DIGITS[500:520])
            assert np.array_equal(answer[name].reshape(wanted.shape), wanted), (transport, name)


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.joblib", "model.pickle", "model.pkl"])
def test_well_known_names_are_found(tmp_path: Path, name: str) -> None:
    fitted = Ridge().fit(IRIS, SPECIES)
    if name == "model.joblib":
        save(tmp_path, fitted)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(fitted))
    assert np.array_equal(only(ask(TRIAL.load(tmp_path), IRIS)).ravel(), fitted.predict(IRIS))


@pytest.mark.parametrize("uri", ["other.bin", "./sub", "sub/model.joblib"])
def test_a_file_or_folder_can_be_named(tmp_path: Path, uri: str) -> None:
    (tmp_path / "sub").mkdir()
    for path in (tmp_path / "other.bin", tmp_path / "sub" / "model.joblib"):
        joblib.dump(Ridge().fit(IRIS, SPECIES), path, compress=3)
    assert TRIAL.load(tmp_path, uri=uri).ready is None  # the worker sets it


def test_a_missing_file_is_told_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelURI, match=r"none of model\.joblib, model\.pickle, model\.pkl, model\.skops"):
        TRIAL.load(tmp_path)
    with pytest.raises(InvalidModelURI, match=r"gone\.joblib does not exist"):
        TRIAL.load(tmp_path, uri="gone.joblib")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"tree\nversion=v4\n", "a LightGBM model: its runtime is 'lightgbm'"),
        (b'{"learner":{"attributes":{}}}', "an XGBoost model: its runtime is 'xgboost'"),
        (b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner", "an XGBoost model: its runtime is 'xgboost'"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"just text", "neither joblib nor pickle can read it"),
        (pickle.dumps(Ridge().fit(IRIS, SPECIES))[:100], "damaged or cut short"),
        (pickle.dumps({"coef": [1]}), "an object of type dict, which has neither predict nor transform"),
        (pickle.dumps(Ridge), "the class Ridge, not a fitted object"),
        (pickle.dumps(Ridge()), "a Ridge that is not fitted"),
        (b"cno_such_module\nModel\n.", "needs the Python module 'no_such_module'"),
        (b"c__main__\nMyModel\n.", "It refers to code of the script that saved it"),
        (b"csklearn.linear_model\nGoneModel\n.", "probably saved with another version"),
    ],
    ids=lambda one: one[:24] if isinstance(one, str) else "",
)
def test_a_file_that_cannot_be_served_is_told_with_the_reason(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "model.joblib").write_bytes(content)
    with pytest.raises(ModelLoadError) as caught:
        TRIAL.load(tmp_path)
    assert words in str(caught.value)
    assert "model 'm'" in str(caught.value) and "model.joblib" in str(caught.value)


def test_a_file_of_another_version_is_served_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = pickle.dumps(make_pipeline(StandardScaler(), Ridge()).fit(IRIS, SPECIES))
    old = f"0{sklearn.__version__[1:]}"
    (tmp_path / "model.pkl").write_bytes(state.replace(sklearn.__version__.encode(), old.encode()))
    with caplog.at_level(logging.WARNING, "mlserve.sklearn"):
        model = TRIAL.load(tmp_path)
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"saved with scikit-learn {old} and is served with {sklearn.__version__}" in line
    assert only(ask(model, IRIS[:2])).shape == (2, 1)


def test_skops_files_are_read_without_running_code(tmp_path: Path) -> None:
    import skops.io as skops_io

    fitted = LogisticRegression(max_iter=1000).fit(IRIS, SPECIES)
    skops_io.dump(fitted, tmp_path / "model.skops")
    assert np.array_equal(only(ask(TRIAL.load(tmp_path), IRIS)).ravel(), fitted.predict(IRIS))
    skops_io.dump(make_pipeline(Clumsy(), Ridge()), tmp_path / "model.skops")
    with pytest.raises(ModelLoadError, match=r"not know as safe: .*Clumsy.*extra\.trusted"):
        TRIAL.load(tmp_path)


# -- inputs and outputs -----------------------------------------------------------------------------------------------


def test_outputs_come_in_the_order_asked_also_twice(classifier: Any) -> None:
    model, fitted = classifier
    response = ask(model, IRIS[:3], "predict_proba", "predict", "predict_proba")
    assert [one.name for one in response.outputs] == ["predict_proba", "predict", "predict_proba"]
    assert np.array_equal(arrays(response)["predict_proba"], fitted.predict_proba(IRIS[:3]))
    assert response.outputs[1].shape == [3, 1] and response.outputs[1].datatype == "INT64"


def test_a_method_that_the_estimator_lacks_is_refused_by_name(tmp_path: Path, classifier: Any) -> None:
    model, _ = classifier
    for name in ("transform", "fit", "_validate", "n_features_in_", "no such"):
        error = refusal(model, IRIS, name)
        assert isinstance(error, InferenceError) and error.http_status == 400
        assert f"no output '{name}': LogisticRegression has decision_function, predict" in str(error)
    save(tmp_path, SVC().fit(IRIS, SPECIES))  # it has predict_proba only when it was asked for it
    assert "no output 'predict_proba'" in str(refusal(TRIAL.load(tmp_path), IRIS, "predict_proba"))


def test_predict_fn_chooses_the_method(tmp_path: Path) -> None:
    fitted = save(tmp_path, LogisticRegression(max_iter=1000).fit(IRIS, SPECIES))
    model = TRIAL.load(tmp_path, extra={"predict_fn": "predict_proba"})
    assert np.array_equal(arrays(ask(model, IRIS))["predict_proba"], fitted.predict_proba(IRIS))
    with pytest.raises(ModelLoadError, match="predict_fn is 'transform', but LogisticRegression has"):
        TRIAL.load(tmp_path, extra={"predict_fn": "transform"})
    with pytest.raises(ModelLoadError, match="predict_fn is '__class__'"):
        TRIAL.load(tmp_path, extra={"predict_fn": "__class__"})


def test_predict_fn_may_give_several_arrays(tmp_path: Path) -> None:
    fitted = save(tmp_path, NearestNeighbors(n_neighbors=2).fit(IRIS))
    with pytest.raises(ModelLoadError, match="neither predict nor transform"):
        TRIAL.load(tmp_path)
    model = TRIAL.load(tmp_path, extra={"predict_fn": "kneighbors"})
    found = arrays(ask(model, IRIS[:5]))
    distances, places = fitted.kneighbors(IRIS[:5])
    assert np.array_equal(found["kneighbors_0"], distances) and np.array_equal(found["kneighbors_1"], places)


def test_an_estimator_without_predict_transforms(tmp_path: Path) -> None:
    fitted = save(tmp_path, StandardScaler().fit(IRIS))
    model = TRIAL.load(tmp_path)
    assert np.array_equal(arrays(ask(model, IRIS))["transform"], fitted.transform(IRIS))
    assert "no output 'predict'" in str(refusal(model, IRIS, "predict"))


def test_several_targets_give_several_probabilities(tmp_path: Path) -> None:
    targets = np.column_stack([SPECIES, SPECIES > 0])
    fitted = save(tmp_path, RandomForestClassifier(5, random_state=0).fit(IRIS, targets))
    found = arrays(ask(TRIAL.load(tmp_path), IRIS, "predict_proba", "predict"))
    for at, part in enumerate(fitted.predict_proba(IRIS)):
        assert np.array_equal(found[f"predict_proba_{at}"], part)
    assert np.array_equal(found["predict"], fitted.predict(IRIS))


def test_sparse_answers_become_dense_and_frames_columns(tmp_path: Path) -> None:
    encoder = save(tmp_path, OneHotEncoder().fit(TABLE[["city"]].to_numpy(dtype=object)))
    found = only(ask(TRIAL.load(tmp_path), TABLE[["city"]].to_numpy(dtype=object)))
    assert np.array_equal(found, encoder.transform(TABLE[["city"]].to_numpy(dtype=object)).toarray())
    scaler = save(tmp_path, StandardScaler().set_output(transform="pandas").fit(TABLE[["age", "fare"]]))
    found = arrays(ask(TRIAL.load(tmp_path, content_type="pd"), TABLE[["age", "fare"]]))
    assert found["fare"].ravel().tolist() == scaler.transform(TABLE[["age", "fare"]])["fare"].tolist()


def test_columns_go_by_name_and_more_do_not_matter(tmp_path: Path) -> None:
    pipeline = save(tmp_path, tabular())
    model = TRIAL.load(tmp_path, content_type="pd")
    assert np.array_equal(only(ask(model, TABLE)).ravel(), pipeline.predict(TABLE))
    shuffled = TABLE[["city", "fare", "age"]].assign(more=1)
    assert np.array_equal(only(ask(model, shuffled, "predict_proba")), pipeline.predict_proba(TABLE))


def test_texts_reach_a_text_pipeline(tmp_path: Path) -> None:
    texts = ["good", "bad", "very good", "very bad"]
    pipeline = save(tmp_path, make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [1, 0, 1, 0]))
    response = TRIAL.load(tmp_path).predict(StringRequestCodec.encode_request(texts))
    assert only(response).ravel().tolist() == pipeline.predict(texts).tolist()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.ones((2, 3)), r"shape [rows, 4], got [2, 3]"),
        (np.ones(4).reshape(1, 4, 1), r"shape [rows, 4], got [1, 4, 1]"),
        (np.full((2, 4), np.nan), "contains NaN"),
        (np.array([["a", "b", "c", "d"]]), "not compatible with arrays of bytes/strings"),
        (pd.DataFrame({"a": [1.0], "b": [2.0]}), "the model takes 4 columns, got 2"),
    ],
    ids=["features", "dimensions", "nan", "text", "columns"],
)
def test_input_that_the_estimator_cannot_use_is_the_clients_fault(classifier: Any, data: Any, words: str) -> None:
    error = refusal(classifier[0], data)
    assert error.http_status == 400 and words in str(error)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    save(tmp_path, tabular())
    error = refusal(TRIAL.load(tmp_path, content_type="pd"), TABLE[["age"]])
    assert error.http_status == 400
    assert "columns are missing: 'fare', 'city'; the model was trained on age, fare, city" in str(error)


def test_a_mistake_in_code_of_ones_own_is_not_the_clients_fault(tmp_path: Path) -> None:
    pipeline = make_pipeline(Clumsy(), Ridge())
    pipeline.steps[1][1].fit(IRIS, SPECIES)
    model = SKLearnModel(TRIAL.settings(tmp_path))
    save(tmp_path, Ridge().fit(IRIS, SPECIES))
    assert anyio.run(model.load)
    model._model = pipeline
    with pytest.raises(ValueError, match="a mistake"):
        ask(model, IRIS)


def test_an_array_for_a_model_fitted_on_a_frame_goes_by_position_without_warnings(tmp_path: Path) -> None:
    frame = pd.DataFrame(IRIS, columns=list("abcd"))
    fitted = save(tmp_path, LinearRegression().fit(frame, SPECIES))
    assert np.array_equal(only(ask(TRIAL.load(tmp_path), IRIS)).ravel(), fitted.predict(IRIS))


# -- metadata ---------------------------------------------------------------------------------------------------------


def metadata(model: SKLearnModel) -> tuple[list[Any], list[Any]]:
    found = anyio.run(model.metadata).model_dump()
    return found["inputs"], found["outputs"]


def test_metadata_is_that_of_the_settings_unless_the_signature_is_asked_for(tmp_path: Path) -> None:
    save(tmp_path, LogisticRegression(max_iter=1000).fit(IRIS, SPECIES))
    assert metadata(TRIAL.load(tmp_path)) == ([], [])
    inputs, outputs = metadata(TRIAL.load(tmp_path, extra={"signature": True}))
    assert inputs == [{"name": "x", "datatype": "FP64", "shape": [-1, 4]}]
    assert outputs == [
        {"name": "predict", "datatype": "INT64", "shape": [-1, 1]},
        {"name": "predict_proba", "datatype": "FP64", "shape": [-1, 3]},
        {"name": "decision_function", "datatype": "FP64", "shape": [-1, 3]},
    ]


def test_the_signature_of_a_pipeline_knows_its_columns(tmp_path: Path) -> None:
    save(tmp_path, tabular())
    inputs, outputs = metadata(TRIAL.load(tmp_path, extra={"signature": True}, content_type="pd"))
    assert inputs[:2] == [{"name": name, "datatype": "FP64", "shape": [-1, 1]} for name in ("age", "fare")]
    text = {"name": "city", "datatype": "BYTES", "shape": [-1, 1], "parameters": {"content_type": "str"}}
    assert inputs[2] == text
    assert [one["name"] for one in outputs] == ["predict", "predict_proba", "decision_function"]


def test_a_signature_describes_the_answers_that_come(tmp_path: Path) -> None:
    for fitted in (
        Ridge().fit(IRIS, np.column_stack([SPECIES, SPECIES])),
        LogisticRegression(max_iter=1000).fit(IRIS, SPECIES > 0),
        StandardScaler().fit(IRIS),
    ):
        save(tmp_path, fitted)
        model = TRIAL.load(tmp_path, extra={"signature": True})
        declared = model.outputs
        response = ask(model, IRIS[:7], *(one.name for one in declared))
        for one, answer in zip(declared, response.outputs, strict=True):
            assert (one.name, one.datatype) == (answer.name, answer.datatype)
            sizes = zip(one.shape, answer.shape, strict=True)
            assert all(size in (-1, found) for size, found in sizes), (type(fitted), one)


def test_the_short_name_leads_to_the_class() -> None:
    (entry,) = importlib.metadata.entry_points(group="mlserve.runtimes", name="sklearn")
    assert entry.load().__qualname__ == SKLearnModel.__qualname__
