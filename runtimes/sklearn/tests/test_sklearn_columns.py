"""Which columns a frame must have is scikit-learn's own judgement, and a frame that lacks one is told which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from runtimes.sklearn.tests.test_sklearn import TRIAL, ask, only, refusal, save

FRAME = pd.DataFrame({"id": [f"n{at}" for at in range(12)], "a": np.arange(12.0), "b": np.arange(12.0)[::-1] % 5})
SIDES = np.arange(12) % 2


def picking(**more: Any) -> Any:
    return make_pipeline(ColumnTransformer([("scaled", StandardScaler(), ["a", "b"])], **more), LogisticRegression())


class ByPlace(ClassifierMixin, BaseEstimator):
    """Looks at no names, as estimators of other libraries do."""

    def fit(self, frame: pd.DataFrame, sides: Any) -> ByPlace:
        if hasattr(frame, "columns"):
            self.feature_names_in_, self.n_features_in_ = np.array(frame.columns, dtype=object), frame.shape[1]
        self.classes_ = np.unique(sides)
        return self

    def predict(self, frame: Any) -> Any:
        return (np.asarray(frame)[:, 0] > 5).astype(int)


class OwnTransformer(ColumnTransformer):  # type: ignore[misc]
    """Picks by name as its base does."""


def a_and_b(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[["a", "b"]]


@pytest.mark.parametrize(
    "estimator",
    [
        picking(),
        GridSearchCV(picking(), {"logisticregression__C": [0.5, 1.0]}, cv=2),
        make_pipeline(FunctionTransformer(a_and_b), LogisticRegression()),
        make_pipeline(OwnTransformer([("scaled", StandardScaler(), ["a", "b"])]), LogisticRegression()),
    ],
    ids=["pipeline", "search", "function", "own"],
)
def test_columns_that_the_first_step_drops_need_not_be_sent(tmp_path: Path, estimator: Any) -> None:
    fitted = save(tmp_path, estimator.fit(FRAME, SIDES))
    model = TRIAL.load(tmp_path, content_type="pd")
    for columns in (["a", "b"], ["b", "a"], ["id", "a", "b"]):
        assert np.array_equal(only(ask(model, FRAME[columns])).ravel(), fitted.predict(FRAME[columns]))
    error = refusal(model, FRAME[["a"]])
    assert error.http_status == 400 and "columns are missing: " in str(error) and "'b'" in str(error)


def test_only_those_that_a_column_transformer_uses_are_missed(tmp_path: Path) -> None:
    save(tmp_path, picking().fit(FRAME, SIDES))
    error = refusal(TRIAL.load(tmp_path, content_type="pd"), FRAME[["id", "a"]].assign(c=1.0))
    assert "columns are missing: 'b'; the model was trained on id, a, b" in str(error)
    save(tmp_path, picking(remainder="passthrough").fit(FRAME.assign(id=1.0), SIDES))
    error = refusal(TRIAL.load(tmp_path, content_type="pd"), FRAME[["a"]])
    assert "columns are missing: 'id', 'b'; the model was trained on id, a, b" in str(error)


def test_an_estimator_that_minds_their_order_gets_the_columns_in_it(tmp_path: Path) -> None:
    numbers = FRAME[["a", "b"]]
    fitted = save(tmp_path, LogisticRegression().fit(numbers, SIDES))
    model = TRIAL.load(tmp_path, content_type="pd")
    assert np.array_equal(only(ask(model, FRAME[["b", "id", "a"]])).ravel(), fitted.predict(numbers))
    assert "columns are missing: 'a'; the model was trained on a, b" in str(refusal(model, FRAME[["b"]]))


@pytest.mark.parametrize(
    "estimator",
    [
        ByPlace(),
        LogisticRegression(),
        make_pipeline(FunctionTransformer(np.asarray), LogisticRegression()),
        make_pipeline(FunctionTransformer(np.asarray), ByPlace()),
        make_pipeline(ColumnTransformer([("a", StandardScaler(), [0]), ("b", "passthrough", [1])]), ByPlace()),
        GridSearchCV(ByPlace(), {}, cv=2),
    ],
    ids=["own", "linear", "array", "array, own", "by place", "search"],
)
def test_a_misspelt_column_is_never_taken_for_another(tmp_path: Path, estimator: Any) -> None:
    numbers = FRAME[["a", "b"]]
    fitted = save(tmp_path, estimator.fit(numbers, SIDES))
    model = TRIAL.load(tmp_path, content_type="pd")
    for columns in (["a", "b"], ["b", "a"], ["b", "id", "a"]):
        assert np.array_equal(only(ask(model, FRAME[columns])).ravel(), fitted.predict(numbers))
    for misspelt, missing in ((["aa", "b"], "'a'"), (["b", "aa"], "'a'"), (["x", "y"], "'a', 'b'")):
        error = refusal(model, numbers.set_axis(misspelt, axis=1))
        assert error.http_status == 400
        assert f"columns are missing: {missing}; the model was trained on a, b" in str(error)
