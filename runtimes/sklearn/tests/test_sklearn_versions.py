"""Files that the scikit-learn runtime cannot serve as they are: of another version, or archives of other frameworks."""

from __future__ import annotations

import io
import logging
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import sklearn

from mlserve.errors import InferenceError, ModelLoadError
from mlserve_sklearn import SKLearnModel
from tests.runtime_trial import Trial, ask

TRIAL = Trial(SKLearnModel)
OLD = Path(__file__).with_name("saved_by_1_2_2")  # make.py there has made the files
ROWS = np.array([[0.0, 1.0], [3.0, 5.0]])
ANSWERS = [4 / 27, 10 / 9]  # of each of the models that are linear, by scikit-learn 1.2.2


def put(folder: Path, name: str) -> None:
    shutil.copy(OLD / f"{name}.pkl", folder / "model.pkl")


# -- other versions ---------------------------------------------------------------------------------------------------


def test_what_another_version_saved_is_served_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "linear")
    with caplog.at_level(logging.WARNING, "mlserve.sklearn"):
        model = TRIAL.load(tmp_path)
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"saved with scikit-learn 1.2.2 and is served with {sklearn.__version__}" in line
    assert np.allclose(ask(model, ROWS)["predict"].ravel(), ANSWERS)


@pytest.mark.parametrize("name", ["boosting", "neighbors", "tree"])
def test_a_file_that_only_another_version_can_read_says_which_and_what_helps(tmp_path: Path, name: str) -> None:
    put(tmp_path, name)
    with pytest.raises(ModelLoadError) as caught:
        TRIAL.load(tmp_path)
    told = str(caught.value)
    assert f"the file names scikit-learn 1.2.2, and scikit-learn {sklearn.__version__} is installed" in told
    assert "parameters.environment_path" in told
    assert "\n" not in told and "not installed" not in told


@pytest.mark.parametrize("name", ["remainder", "imputer"])
def test_a_model_whose_parts_lack_what_this_version_needs_is_not_served(tmp_path: Path, name: str) -> None:
    """Else every request would fail, and some with 400, though nothing is wrong with them."""
    put(tmp_path, name)
    try:
        model = TRIAL.load(tmp_path)
    except ModelLoadError as error:
        told = str(error)
        assert f"saved with scikit-learn 1.2.2, and cannot answer with {sklearn.__version__}" in told
        assert "has no attribute" in told and "parameters.environment_path" in told
    else:  # this version still answers as the old one did
        assert np.allclose(ask(model, ROWS)["predict"].ravel(), ANSWERS)


def test_a_text_in_place_of_an_estimator_is_the_models_fault(tmp_path: Path) -> None:
    """As old ColumnTransformers have it, and whatever was fitted by code that has changed."""
    put(tmp_path, "linear")
    model = TRIAL.load(tmp_path)
    model._model.steps[0] = ("scaler", "passthrough, but not quite")
    with pytest.raises(AttributeError, match="'str' object has no attribute 'transform'"):
        ask(model, ROWS)
    model._model.steps[0] = ("scaler", "passthrough")
    with pytest.raises(InferenceError):
        ask(model, ROWS[:, :1])


# -- archives ---------------------------------------------------------------------------------------------------------


def archive(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name in names:
            file.writestr(name, "{}")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (archive("model/data.pkl", "model/version", "model/data/0"), "a PyTorch file: its runtime is 'torch'"),
        (archive("metadata.json", "config.json", "model.weights.h5"), "a Keras model"),
        (archive("a.npy", "b.npy"), "numpy arrays"),
        (archive("word/document.xml"), "a zip archive without the schema.json that skops writes"),
        (archive("a.npy")[:-30], "damaged or cut short"),
    ],
    ids=["torch", "keras", "npz", "other", "cut"],
)
@pytest.mark.parametrize("name", ["model.joblib", "model.pkl", "model.skops"])
def test_an_archive_of_something_else_is_not_taken_for_a_skops_file(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelLoadError) as caught:
        TRIAL.load(tmp_path)
    assert words in str(caught.value) and "pip install" not in str(caught.value)


def test_a_skops_file_needs_no_extension_of_its_own(tmp_path: Path) -> None:
    import skops.io as skops_io
    from sklearn.linear_model import LinearRegression

    fitted = LinearRegression().fit(ROWS, [0, 1])
    (tmp_path / "model.joblib").write_bytes(skops_io.dumps(fitted))
    assert np.array_equal(ask(TRIAL.load(tmp_path), ROWS)["predict"].ravel(), fitted.predict(ROWS))
