"""What a load warns of: versions are told once, what libraries deprecate in each other is not."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import anyio
import joblib
import pytest
import sklearn.base
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier

from mlserve import ModelSettings
from mlserve_alibi_explain import AlibiExplainRuntime
from mlserve_alibi_explain.artifact import Maker
from mlserve_alibi_explain.kinds import kind_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its libraries
    from alibi import explainers

pytestmark = pytest.mark.filterwarnings("ignore")  # its libraries warn of each other


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [one.getMessage() for one in caplog.records if one.name.startswith("mlserve")]
    caplog.clear()
    return lines


def test_a_model_of_another_version_of_scikit_learn_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    forest = RandomForestClassifier(2, random_state=0).fit(*load_iris(return_X_y=True))
    monkeypatch.setattr(sklearn.base, "__version__", "1.0.2")
    joblib.dump(forest, tmp_path / "old.joblib")
    monkeypatch.undo()
    joblib.dump(forest, tmp_path / "new.joblib")
    for name, lines in (("old", 1), ("new", 0)):
        extra = {"explainer_type": "tree_shap", "infer_uri": str(tmp_path / f"{name}.joblib"), "init_parameters": {}}
        settings = ModelSettings(name="e", implementation=AlibiExplainRuntime, parameters={"extra": extra})
        assert anyio.run(AlibiExplainRuntime(settings).load)
        found = told(caplog)
        assert len(found) == lines, found
    assert all("saved with scikit-learn 1.0.2" in line for line in found)


def test_an_explainer_tells_once_what_is_no_deprecation(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Warning_:
        def __init__(self, predictor: Any, **_: Any) -> None:
            warnings.warn("use pkg.new", FutureWarning, stacklevel=1)
            warnings.warn("of another version", UserWarning, stacklevel=1)
            made.append(predictor)

    monkeypatch.setattr(explainers, "ALE", Warning_)
    maker = Maker("e", kind_of("e", "ale"), None, {})
    with caplog.at_level(logging.WARNING):
        maker.check()
        assert told(caplog) == ["model 'e': of another version"]
        maker.make(len)
        assert told(caplog) == [] and len(made) == 2
