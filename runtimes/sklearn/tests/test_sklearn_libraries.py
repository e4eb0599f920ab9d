"""Estimators of other libraries in the scikit-learn runtime: what they refuse is the client's fault, as on its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlserve_sklearn import SKLearnModel
from tests.runtime_trial import Trial, ask, refusal

TRIAL = Trial(SKLearnModel)

IRIS, SPECIES = load_iris(return_X_y=True)
FRAME = pd.DataFrame(IRIS, columns=list("abcd"))
ESTIMATORS = {
    "lightgbm": lightgbm.LGBMClassifier(n_estimators=2, n_jobs=1, verbosity=-1),
    "xgboost": xgboost.XGBClassifier(n_estimators=2, n_jobs=1),
}


class Refusing(BaseEstimator, TransformerMixin):
    """A transformer of one's own, which comes upon an error of LightGBM."""

    def fit(self, x: Any, y: Any = None) -> Refusing:
        self.fitted_ = True
        return self

    def transform(self, x: Any) -> Any:
        raise lightgbm.basic.LightGBMError("a mistake")


@pytest.mark.parametrize("library", sorted(ESTIMATORS))
@pytest.mark.parametrize(
    "data",
    [
        np.array([["a", "b", "c", "d"]]),
        np.empty((0, 4)),
        np.ones((2, 3)),
        pd.DataFrame([["q"] * 4], columns=list("abcd")),
    ],
    ids=["text", "no rows", "too few columns", "a frame of text"],
)
def test_what_another_librarys_estimator_refuses_is_the_clients_fault(tmp_path: Path, library: str, data: Any) -> None:
    fitted = ESTIMATORS[library].fit(FRAME if isinstance(data, pd.DataFrame) else IRIS, SPECIES)
    joblib.dump(fitted, tmp_path / "model.joblib")
    model = TRIAL.load(tmp_path)
    if library == "xgboost" and not len(data):  # which answers them, with nothing
        assert ask(model, data)["predict"].shape == (0, 1)
    else:
        assert refusal(model, data)


def test_an_error_that_a_library_has_a_class_of_its_own_for_is_the_clients_fault(tmp_path: Path) -> None:
    """A Booster knows nothing of scikit-learn's attributes: only LightGBM itself can tell that a column lacks."""
    joblib.dump(ESTIMATORS["lightgbm"].fit(IRIS, SPECIES).booster_, tmp_path / "model.joblib")
    model = TRIAL.load(tmp_path)
    assert "The number of features in data (3) is not the same" in refusal(model, np.ones((2, 3)))


def test_the_same_error_out_of_code_of_ones_own_is_the_models_fault(tmp_path: Path) -> None:
    pipeline = make_pipeline(StandardScaler(), ESTIMATORS["lightgbm"]).fit(IRIS, SPECIES)
    joblib.dump(pipeline, tmp_path / "model.joblib")
    model = TRIAL.load(tmp_path)
    model._model.steps[0] = ("mine", Refusing().fit(IRIS))
    with pytest.raises(lightgbm.basic.LightGBMError, match="a mistake"):
        ask(model, IRIS)
