"""With `signature`, text columns are declared as text wherever an estimator's encoders are; requests follow that."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

from mlserve.types import InferenceRequest, Parameters, RequestInput, RequestOutput
from mlserve_sklearn import SKLearnModel
from tests.runtime_trial import Trial

TRIAL = Trial(SKLearnModel)
METHODS = ("predict", "predict_proba", "decision_function", "transform")

_random = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "age": _random.integers(18, 80, 60),
        "income": _random.normal(size=60),
        "city": _random.choice(["Oslo", "Lima", "Rome"], 60),
        "sex": _random.choice(["f", "m"], 60),
        "ok": _random.choice([True, False], 60),
    }
)
TEXTS = pd.DataFrame({"text": _random.choice(["good film", "bad film", "nice"], 60), "n": _random.normal(size=60)})
Y = np.arange(60) % 2
NUMBERS, WORDS = ["age", "income"], ["city", "sex"]


def columns(*, numbers: Any = NUMBERS, words: Any = WORDS, encoder: Any = None) -> ColumnTransformer:
    encoder = OneHotEncoder() if encoder is None else encoder  # it refuses what it does not know
    return ColumnTransformer([("n", StandardScaler(), numbers), ("c", encoder, words)])


def pipeline(first: Any = None) -> Any:
    return make_pipeline(columns() if first is None else first, LogisticRegression())


class Wrapper(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # without types
    """Somebody's own, with a pipeline inside."""

    def fit(self, x: Any, y: Any) -> Wrapper:
        self.inner_ = pipeline().fit(x, y)
        self.feature_names_in_, self.classes_ = np.array(x.columns), np.unique(y)
        return self

    def predict(self, x: Any) -> Any:
        return self.inner_.predict(x)


IMPUTED = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder())
IMPUTED_WITH = make_pipeline(SimpleImputer(strategy="constant", fill_value="none"), OneHotEncoder())
REDUCED = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(), TruncatedSVD(2))
IGNORING = OneHotEncoder(handle_unknown="ignore")  # it answers whatever it is sent, without sense

TABLE_MODELS = {
    "pipeline": pipeline(),
    "grid search": GridSearchCV(pipeline(), {"logisticregression__C": [0.1, 1]}, cv=2),
    "random search": RandomizedSearchCV(pipeline(), {"logisticregression__C": [0.1, 1]}, cv=2, n_iter=1),
    "calibrated": CalibratedClassifierCV(pipeline(), cv=2),
    "voting": VotingClassifier([("a", pipeline()), ("b", pipeline())], voting="soft"),
    "stacking": StackingClassifier([("a", pipeline())], cv=2),
    "transformed target": TransformedTargetRegressor(
        make_pipeline(columns(), LinearRegression()), func=np.log1p, inverse_func=np.expm1
    ),
    "union": pipeline(FeatureUnion([("a", columns()), ("b", columns())])),
    "search in search": GridSearchCV(CalibratedClassifierCV(pipeline(), cv=2), {"cv": [2]}, cv=2),
    "wrapper": Wrapper(),
    "mask": pipeline(columns(numbers=[True, True, False, False, False], words=np.array([0, 0, 1, 1, 0], bool))),
    "slice of names": pipeline(columns(numbers=slice("age", "income"), words=slice("city", "sex"))),
    "slice of places": pipeline(columns(numbers=slice(0, 2), words=slice(2, 4))),
    "places": pipeline(columns(numbers=[0, 1], words=[2, -2])),
    "selector": pipeline(columns(numbers=make_column_selector("age|income"), words=make_column_selector("city|sex"))),
    "imputed in a branch": pipeline(columns(encoder=IMPUTED)),
    "imputed with a constant": pipeline(columns(encoder=IMPUTED_WITH)),
    "imputed, encoded and reduced": pipeline(columns(encoder=REDUCED)),
    "behind a function": make_pipeline(FunctionTransformer(), columns(encoder=IGNORING), LogisticRegression()),
    "ordinal": pipeline(columns(encoder=OrdinalEncoder())),
}


def request(model: Any, frame: pd.DataFrame, method: str) -> InferenceRequest:
    """What a client sends that reads nothing but the metadata."""
    inputs = [_tensor(one, frame) for one in model.inputs]
    content_type = None if inputs[0].name == "x" else "pd"
    return InferenceRequest(
        inputs=inputs, outputs=[RequestOutput(name=method)], parameters=Parameters(content_type=content_type)
    )


def _tensor(declared: Any, frame: pd.DataFrame) -> RequestInput:
    values = frame.to_numpy() if declared.name == "x" else frame[[declared.name]].to_numpy()
    numbers = declared.datatype == "FP64"
    data = [float(one) if numbers else str(one) for one in values.ravel().tolist()]
    return RequestInput(
        name=declared.name,
        datatype=declared.datatype,
        shape=list(values.shape),
        data=data,
        parameters=declared.parameters,
    )


def check(folder: Path, fitted: Any, frame: pd.DataFrame, text: list[str]) -> None:
    """What is declared is text just where it is, and a client that follows it gets what the estimator answers."""
    joblib.dump(fitted, folder / "model.joblib")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = TRIAL.load(folder, extra={"signature": True})
        assert [one.name for one in model.inputs if one.datatype == "BYTES"] == text
        methods = [one for one in METHODS if hasattr(fitted, one)]
        assert {one.name for one in model.outputs} == set(methods)
        for told in model.outputs:
            (sent,) = model.predict(request(model, frame, told.name)).outputs
            assert (sent.datatype, [-1, *sent.shape[1:]]) == (told.datatype, told.shape)
            answer = getattr(fitted, told.name)(frame)
            expected = answer.toarray() if hasattr(answer, "toarray") else np.asarray(answer)
            assert np.asarray(sent.data).ravel().tolist() == pytest.approx(expected.ravel().tolist())


@pytest.mark.parametrize("name", TABLE_MODELS)
def test_text_columns_are_found_wherever_the_encoder_is(tmp_path: Path, name: str) -> None:
    model = TABLE_MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(tmp_path, model.fit(TABLE, Y), TABLE, WORDS)


@pytest.mark.parametrize("vectorizer", [TfidfVectorizer(), HashingVectorizer(n_features=8)], ids=["tfidf", "hashing"])
def test_a_column_of_texts_by_its_name_alone(tmp_path: Path, vectorizer: Any) -> None:
    first = ColumnTransformer([("t", vectorizer, "text"), ("n", StandardScaler(), ["n"])])
    check(tmp_path, pipeline(first).fit(TEXTS, Y), TEXTS, ["text"])


def test_categories_of_boosted_trees(tmp_path: Path) -> None:
    as_categories = TABLE.astype(dict.fromkeys(WORDS, "category"))
    fitted = HistGradientBoostingClassifier(max_iter=5, categorical_features="from_dtype").fit(as_categories, Y)
    check(tmp_path, fitted, TABLE, WORDS)


def test_all_columns_of_a_pipeline_are_imputed_and_encoded(tmp_path: Path) -> None:
    ignoring = make_pipeline(SimpleImputer(strategy="most_frequent"), IGNORING, LogisticRegression())
    check(tmp_path, ignoring.fit(TABLE[WORDS], Y), TABLE[WORDS], WORDS)
    strict = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(), LogisticRegression())
    check(tmp_path, strict.fit(TABLE[WORDS], Y), TABLE[WORDS], WORDS)


def test_an_imputer_of_text_alone(tmp_path: Path) -> None:
    texts = TABLE[["city"]].to_numpy(dtype=object)
    joblib.dump(SimpleImputer(strategy="most_frequent").fit(texts), tmp_path / "model.joblib")
    model = TRIAL.load(tmp_path, extra={"signature": True})
    assert [(one.name, one.datatype, one.shape) for one in model.inputs] == [("x", "BYTES", [-1, 1])]
    (sent,) = model.predict(request(model, TABLE[["city"]], "transform")).outputs
    assert sent.datatype == "BYTES" and sent.data == texts.ravel().tolist()
    assert [(one.name, one.datatype, one.shape) for one in model.outputs] == [("transform", "BYTES", [-1, 1])]


def test_where_no_part_tells_texts_are_tried_after_numbers(tmp_path: Path) -> None:
    fitted = make_pipeline(FunctionTransformer(_lengths), LogisticRegression()).fit(TABLE[WORDS], Y)
    check(tmp_path, fitted, TABLE[WORDS], WORDS)


def _lengths(frame: pd.DataFrame) -> Any:
    return np.column_stack([frame[name].str.len() for name in frame.columns])
