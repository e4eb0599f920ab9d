"""With `signature`, what is declared is what is sent: of every estimator of scikit-learn, for all kinds of targets."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.utils import all_estimators

from mlserve.codecs import StringRequestCodec
from mlserve.errors import MLServeError
from mlserve_sklearn import SKLearnModel
from tests.runtime_trial import Trial, named_request, request_of

TRIAL = Trial(SKLearnModel)
METHODS = ("predict", "predict_proba", "decision_function", "transform")

_random = np.random.default_rng(0)
X = _random.integers(0, 4, (40, 4)) + np.eye(40, 4)  # positive, for those that take no other numbers
ONE = np.arange(40) % 3
TARGETS = {
    "whole": ONE,
    "text": np.array(["a", "bb", "ccc"])[ONE],
    "real": X[:, 0] * 2 + 0.5,
    "two": ONE % 2,
    "several": np.column_stack([X[:, 0] * 2.5, X[:, 1] - 1]),
    "labels": np.column_stack([ONE % 2, ONE // 2, (ONE + 1) % 2]),
}


def _arguments(name: str, kind: Any) -> dict[str, Any]:
    """What a constructor has to have."""
    inner = LogisticRegression() if "Classifier" in name or issubclass(kind, ClassifierMixin) else Ridge()
    more = {
        "GridSearchCV": {"param_grid": {"max_iter": [50]}},
        "HalvingGridSearchCV": {"param_grid": {"max_iter": [50]}},
        "RandomizedSearchCV": {"param_distributions": {"max_iter": [50]}, "n_iter": 1},
        "HalvingRandomSearchCV": {"param_distributions": {"max_iter": [50]}},
        "ColumnTransformer": {"transformers": [("a", StandardScaler(), [0, 1])]},
        "FeatureUnion": {"transformer_list": [("a", StandardScaler())]},
        "Pipeline": {"steps": [("a", StandardScaler()), ("b", inner)]},
        "SparseCoder": {"dictionary": np.eye(4)},
    }
    if name in more:
        return {**more[name], **({"estimator": Ridge()} if "Search" in name else {})}
    if name.startswith(("Stacking", "Voting")):
        return {"estimators": [("a", inner), ("b", inner)]}
    parameters = inspect.signature(kind).parameters.values()
    return {one.name: inner for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD}


def _fitted() -> Iterator[Any]:
    """Each estimator, fitted on each kind of target that it takes."""
    for name, kind in all_estimators():
        estimator = kind(**_arguments(name, kind))
        for param, value in {"n_estimators": 3, "max_iter": 20, "n_components": 2, "random_state": 0}.items():
            if param in estimator.get_params() and name not in ("BernoulliRBM",):
                estimator.set_params(**{param: value})
        for target, y in TARGETS.items():
            try:
                yield f"{name} on {target}", kind(**estimator.get_params(deep=False)).fit(X, y)
            except Exception:  # another kind of target, or other data
                continue


def compare(name: str, model: Any, request: Any, has: list[str]) -> list[str]:
    """Where what is declared differs from what is sent, or is missing."""
    wrong = []
    declared = {one.name: one for one in model.outputs}
    for method in has:
        try:
            answer = model.predict(request(method))
        except (MLServeError, ValueError, AttributeError):
            continue
        if [one.name for one in answer.outputs] != [method]:
            if method in declared:
                wrong.append(f"{name}: {method} is declared and gives {[one.name for one in answer.outputs]}")
            continue
        sent, told = answer.outputs[0], declared.get(method)
        if told is None:
            wrong.append(f"{name}: {method} sends {sent.datatype} {sent.shape} and is not declared")
        elif told.datatype != sent.datatype or [-1, *sent.shape[1:]] != told.shape:
            wrong.append(f"{name}: {method} declared {told.datatype} {told.shape}, sent {sent.datatype} {sent.shape}")
    return wrong


def trial(folder: Path, fitted: Any) -> Any:
    joblib.dump(fitted, folder / "model.joblib")
    return TRIAL.load(folder, extra={"signature": True})


@pytest.mark.filterwarnings("ignore")
def test_every_estimator_sends_what_it_declares(tmp_path: Path) -> None:
    wrong: list[str] = []
    seen: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, fitted in _fitted():
            has = [one for one in METHODS if hasattr(fitted, one)]
            if has:
                seen.add(name.split()[0])
                model = trial(tmp_path, fitted)
                wrong += compare(name, model, lambda method: request_of(X[:7], method), has)
    assert wrong == []
    assert len(seen) > 150


SEVERAL = TARGETS["several"]


@pytest.mark.parametrize(
    ("fitted", "declared"),
    [
        (make_pipeline(StandardScaler(), LinearRegression()).fit(X, SEVERAL), {"predict": ("FP64", [-1, 2])}),
        (KNeighborsRegressor().fit(X, SEVERAL), {"predict": ("FP64", [-1, 2])}),
        (GridSearchCV(Ridge(), {"alpha": [1, 2]}).fit(X, SEVERAL), {"predict": ("FP64", [-1, 2])}),
        (
            OneVsRestClassifier(LogisticRegression()).fit(X, TARGETS["labels"]),
            {"predict": ("INT64", [-1, 3]), "predict_proba": ("FP64", [-1, 3]), "decision_function": ("FP64", [-1, 3])},
        ),
        (
            SVC(decision_function_shape="ovo").fit(X, np.arange(40) % 4),
            {"predict": ("INT64", [-1, 1]), "decision_function": ("FP64", [-1, 6])},
        ),
        (StandardScaler().set_output(transform="pandas").fit(X), {}),  # an output for each column
    ],
    ids=["pipeline", "neighbors", "search", "labels", "ovo", "frames"],
)
def test_what_attributes_do_not_tell_is_declared(tmp_path: Path, fitted: Any, declared: dict[str, Any]) -> None:
    model = trial(tmp_path, fitted)
    assert {one.name: (one.datatype, one.shape) for one in model.outputs} == declared
    assert compare("", model, lambda method: request_of(X[:7], method), list(declared)) == []


def test_encoders_are_asked_with_categories_that_they_know(tmp_path: Path) -> None:
    texts = np.array([["a", "x"], ["b", "y"]], dtype=object)
    for kind in (OneHotEncoder, OrdinalEncoder):
        model = trial(tmp_path, kind().fit(texts))
        assert [(one.name, one.datatype, one.shape) for one in model.inputs] == [("x", "BYTES", [-1, 2])]
        assert compare(kind.__name__, model, lambda method: named_request([method], x=texts), ["transform"]) == []
        mixed = trial(tmp_path, kind().fit(np.array([["a", 1], ["b", 2]], dtype=object)))
        assert mixed.inputs == [] and [one.name for one in mixed.outputs] == ["transform"]
    frame = pd.DataFrame({"city": ["Oslo", "Lima"], "n": [1, 2]})
    model = trial(tmp_path, make_pipeline(OrdinalEncoder(), RandomForestRegressor(2)).fit(frame, [1.0, 2.0]))
    assert [(one.name, one.datatype) for one in model.inputs] == [("city", "BYTES"), ("n", "FP64")]
    assert [(one.name, one.datatype, one.shape) for one in model.outputs] == [("predict", "FP64", [-1, 1])]


def test_a_pipeline_of_texts_is_asked_with_texts(tmp_path: Path) -> None:
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["good day", "bad day"], ["p", "n"])
    model = trial(tmp_path, fitted)
    assert {one.name: (one.datatype, one.shape) for one in model.outputs} == {
        "predict": ("BYTES", [-1, 1]),
        "predict_proba": ("FP64", [-1, 2]),
        "decision_function": ("FP64", [-1, 1]),
    }

    def request(method: str) -> Any:
        made = StringRequestCodec.encode_request(["good", "bad", "day"])
        made.outputs = request_of(X, method).outputs
        return made

    assert compare("texts", model, request, list(METHODS[:3])) == []


class Particular(BaseEstimator):
    """Takes no zeros and no ones."""

    n_features_in_ = 4

    def fit(self, x: Any, y: Any = None) -> Particular:
        return self

    def predict(self, x: Any) -> Any:
        if x.max() < 2:
            raise RuntimeError("too small")
        return x[:, 0]


def test_an_estimator_that_cannot_be_asked_declares_nothing_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = trial(tmp_path, Particular())
    assert model.outputs == [] and model.inputs == []
    (told,) = [one.getMessage() for one in caplog.records if one.name == "mlserve.sklearn"]
    assert "'m': no signature" in told and "RuntimeError: too small" in told
    assert model.predict(request_of(X + 5)).outputs[0].shape == [40, 1]
