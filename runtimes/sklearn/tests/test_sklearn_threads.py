"""`parameters.extra.threads` of the scikit-learn runtime: it bounds libraries, and the jobs of all that was fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlserve.errors import ModelLoadError
from mlserve.estimators import all_parts
from mlserve_sklearn import SKLearnModel
from tests.runtime_trial import Trial, ask

TRIAL = Trial(SKLearnModel)

IRIS, SPECIES = load_iris(return_X_y=True)
FOREST = RandomForestClassifier(3, n_jobs=8, random_state=0)


def save(folder: Path, model: Any) -> Any:
    joblib.dump(model, folder / "model.joblib")
    return model


def test_threads_bound_jobs_and_libraries(tmp_path: Path) -> None:
    fitted = save(tmp_path, RandomForestClassifier(10, n_jobs=-1, random_state=0).fit(IRIS, SPECIES))
    assert TRIAL.load(tmp_path)._model.n_jobs == -1
    model = TRIAL.load(tmp_path, extra={"threads": 1})
    assert model._model.n_jobs == 1
    assert np.array_equal(ask(model, IRIS, "predict_proba")["predict_proba"], fitted.predict_proba(IRIS))
    for wrong in (0, "many", -1):
        with pytest.raises(ModelLoadError, match=r"extra\.threads: expected a whole number >= 1"):
            TRIAL.load(tmp_path, extra={"threads": wrong})


def test_during_a_call_libraries_use_no_more_threads_than_they_may(tmp_path: Path) -> None:
    from threadpoolctl import threadpool_info

    save(tmp_path, Ridge().fit(IRIS, SPECIES))
    model = TRIAL.load(tmp_path, extra={"threads": 1})
    before = [one["num_threads"] for one in threadpool_info()]
    seen: list[int] = []

    class Looking:
        def predict(self, x: Any) -> Any:
            seen.extend(one["num_threads"] for one in threadpool_info())
            return x

    model._model = Looking()
    ask(model, IRIS)
    assert seen and set(seen) == {1}
    assert [one["num_threads"] for one in threadpool_info()] == before


@pytest.mark.parametrize(
    "estimator",
    [
        GridSearchCV(FOREST, {"max_depth": [2]}, cv=2),
        VotingClassifier([("forest", FOREST)]),
        StackingClassifier([("forest", FOREST)], KNeighborsClassifier(n_jobs=8), cv=2),
        CalibratedClassifierCV(FOREST, cv=2),
        MultiOutputClassifier(FOREST),
        make_pipeline(StandardScaler(), GridSearchCV(make_pipeline(FOREST), {}, cv=2)),
        lightgbm.LGBMClassifier(n_estimators=2, n_jobs=8, verbosity=-1),
    ],
    ids=lambda one: type(one).__name__,
)
def test_threads_bound_the_jobs_of_whatever_was_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimator: Any
) -> None:
    targets = np.column_stack([SPECIES, SPECIES]) if isinstance(estimator, MultiOutputClassifier) else SPECIES
    fitted = save(tmp_path, estimator.fit(IRIS, targets))
    assert any(getattr(part, "n_jobs", None) == 8 for part in all_parts(fitted))
    model = TRIAL.load(tmp_path, extra={"threads": 1})
    wanted = fitted.predict(IRIS)
    asked: list[Any] = []
    started = joblib.Parallel.__init__

    def start(self: Any, n_jobs: Any = None, *rest: Any, **options: Any) -> None:
        asked.append(n_jobs)
        started(self, n_jobs, *rest, **options)

    monkeypatch.setattr(joblib.Parallel, "__init__", start)
    assert np.array_equal(ask(model, IRIS)["predict"].reshape(targets.shape), wanted)
    assert set(asked) <= {None, 1}
    assert all(getattr(part, "n_jobs", None) in (None, 1) for part in all_parts(model._model))


def test_what_an_estimator_holds_may_hold_itself(tmp_path: Path) -> None:
    fitted = LogisticRegression(max_iter=1000).fit(IRIS, SPECIES)
    fitted.notes_ = {"estimator": fitted}
    fitted.notes_["notes"] = fitted.notes_
    save(tmp_path, fitted)
    assert np.array_equal(
        ask(TRIAL.load(tmp_path, extra={"threads": 1}), IRIS)["predict"].ravel(), fitted.predict(IRIS)
    )


def test_a_part_whose_jobs_cannot_be_bounded_is_told_and_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As scikit-learn refuses it for one that an older version saved, without what it has learnt to ask since."""
    fitted = make_pipeline(StandardScaler(), clone(FOREST)).fit(IRIS, SPECIES)
    wanted = fitted.predict(IRIS)
    del fitted.steps[1][1].ccp_alpha
    save(tmp_path, fitted)
    model = TRIAL.load(tmp_path, extra={"threads": 1})
    assert any("n_jobs=8 of a RandomForestClassifier stays" in told and "ccp_alpha" in told for told in caplog.messages)
    assert np.array_equal(ask(model, IRIS)["predict"].ravel(), wanted)
