"""LightGBM's files of other versions: old ones are served as they were, and what was lost or is unknown is refused."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.datasets import load_iris

from mlserve.errors import ModelLoadError
from mlserve_lightgbm import LightGBMModel
from tests.runtime_trial import Trial, ask, refusal

TRIAL = Trial(LightGBMModel)
OLD = Path(__file__).with_name("saved_before")  # make.py there has made the files
ROWS = np.arange(12)
TABLE = pd.DataFrame(
    {
        "size": ROWS * 0.25,
        "city": np.array(["Bern", "Lima", "Oslo"])[ROWS % 3],
        "month": np.array([10, 11, 12, 20])[ROWS % 4],
        "flag": ROWS // 7 % 2,
    }
)


def whole() -> str:
    """The text of a model with three classes, whose columns have no names."""
    options = {"objective": "multiclass", "num_class": 3, "verbosity": -1, "num_leaves": 4, "num_threads": 1}
    text: str = lightgbm.train(options, lightgbm.Dataset(*load_iris(return_X_y=True)), 2).model_to_string()
    return text


TEXT = whole()


@pytest.mark.parametrize("version", ["2.1.2", "2.3.1", "3.3.5"])
def test_text_of_an_old_version_answers_as_then_categories_of_a_frame_included(tmp_path: Path, version: str) -> None:
    shutil.copy(OLD / f"{version}.txt", tmp_path / "model.txt")
    model = TRIAL.load(tmp_path, content_type="pd")
    wanted = np.fromstring((OLD / f"{version}.answers").read_text(), sep=",")
    assert np.array_equal(ask(model, TABLE)["predict"].ravel(), wanted)
    assert "column 'month' holds categories that are numbers" in refusal(model, TABLE.astype({"month": str}))


def test_a_pickle_of_another_scikit_learn_is_served_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(OLD / "3.3.5.pkl", tmp_path / "model.pkl")
    with caplog.at_level(logging.WARNING, "mlserve.lightgbm"):
        model = TRIAL.load(tmp_path)
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"'m' was saved with scikit-learn 1.2.2 and is served with {sklearn.__version__}" in line
    assert "parameters.environment_path" in line
    assert set(ask(model, np.array([[0.0, 0.0], [50.0, 1.0]]))["predict"].ravel()) <= {"low", "high"}


# -- what lies behind the trees ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["installed", "2.3.1", "3.3.5"])
@pytest.mark.parametrize(
    "at", ["end of trees", "\nparameters:", "[objective", "end of parameters", "pandas_cat", "null]"]
)
def test_a_file_that_is_cut_behind_its_trees_is_refused(tmp_path: Path, source: str, at: str) -> None:
    text = TEXT if source == "installed" else (OLD / f"{source}.txt").read_text()
    at = text[-3:] if at == "null]" else at  # the categories themselves
    (tmp_path / "model.txt").write_text(text[: text.rindex(at)])
    with pytest.raises(ModelLoadError, match="the file is cut short: its end is missing"):
        TRIAL.load(tmp_path)


def test_files_that_lightgbm_itself_or_its_package_for_r_wrote_are_whole(tmp_path: Path) -> None:
    """Only the Python package writes categories behind the parameters."""
    end = TEXT.index("\npandas_categorical:")
    assert TEXT[:end].endswith("\nend of parameters\n")
    (tmp_path / "model.txt").write_text(TEXT[:end])
    iris = load_iris().data
    assert np.array_equal(ask(TRIAL.load(tmp_path), iris)["predict"], lightgbm.Booster(model_str=TEXT).predict(iris))


@pytest.mark.parametrize(
    ("now", "then", "words"),
    [
        ("version=v4", "version=v9", "the file is of format v9, but LightGBM .* knows them up to v4"),
        ("num_class=3", "num_class=0", "the file is damaged: num_class is 0"),
        ("num_class=3", "num_class=-3", "the file is damaged: num_class is -3"),
        ("num_tree_per_iteration=3", "num_tree_per_iteration=0", "the file is damaged: num_tree_per_iteration is 0"),
        ("num_tree_per_iteration=3", "num_tree_per_iteration=4", "it holds 6 trees, which is not a multiple of 4"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(tmp_path: Path, now: str, then: str, words: str) -> None:
    (tmp_path / "model.txt").write_text(TEXT.replace(f"\n{now}\n", f"\n{then}\n"))
    with pytest.raises(ModelLoadError, match=words):
        TRIAL.load(tmp_path)
