"""What a load warns of: versions are told, what libraries deprecate in each other is not."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import anyio
import numpy as np
import pytest
import sklearn.base

from mlserve import ModelSettings
from mlserve_alibi_detect import AlibiDetectRuntime

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its libraries
    from alibi_detect import saving
    from alibi_detect.cd import KSDrift, MMDDrift
    from alibi_detect.od import IForest

pytestmark = pytest.mark.filterwarnings("ignore")  # its libraries warn of each other

REFERENCE = np.random.default_rng(0).normal(size=(50, 3)).astype("float32")


def told(folder: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    parameters = {"uri": str(folder)}
    model = AlibiDetectRuntime(ModelSettings(name="d", implementation=AlibiDetectRuntime, parameters=parameters))
    assert anyio.run(model.load)
    return [one.getMessage() for one in caplog.records if one.name.startswith("mlserve")]


def test_a_detector_of_another_version_of_scikit_learn_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = IForest(threshold=0.0)
    detector.fit(REFERENCE)
    monkeypatch.setattr(sklearn.base, "__version__", "1.0.2")
    saving.save_detector(detector, str(tmp_path / "old"))
    monkeypatch.undo()
    saving.save_detector(detector, str(tmp_path / "new"))
    (line,) = told(tmp_path / "old", caplog)
    assert f"model 'd' was saved with scikit-learn 1.0.2 and is served with {sklearn.__version__}" in line
    assert told(tmp_path / "new", caplog) == []


@pytest.mark.parametrize("kind", ["ks", "torch", "tensorflow"])
def test_an_ordinary_load_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    backends = {"torch": {"backend": "pytorch"}, "tensorflow": {"backend": "tensorflow"}}
    detector = KSDrift(REFERENCE) if kind == "ks" else MMDDrift(REFERENCE, n_permutations=5, **backends[kind])
    saving.save_detector(detector, str(tmp_path / "detector"))
    assert told(tmp_path / "detector", caplog) == []


def test_only_deprecations_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(folder: str, **_: Any) -> Any:
        warnings.warn("use pkg.new", DeprecationWarning, stacklevel=1)
        warnings.warn("of another version", UserWarning, stacklevel=1)
        return KSDrift(REFERENCE)

    (tmp_path / "config.toml").touch()
    monkeypatch.setattr(saving, "load_detector", load)
    assert told(tmp_path, caplog) == ["model 'd': of another version"]
