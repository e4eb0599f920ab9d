"""What detectors remember: requests that are collected for one test, and the state of online ones."""

from __future__ import annotations

import gc
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import anyio
import numpy as np
import pandas as pd
import pytest

from mlserve import ModelSettings
from mlserve.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec
from mlserve.errors import InferenceError, ModelLoadError
from mlserve_alibi_detect import AlibiDetectRuntime
from mlserve_alibi_detect.collecting import Collector

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its libraries
    from alibi_detect.cd import CVMDriftOnline, MMDDrift, MMDDriftOnline
    from alibi_detect.od import IForest, Mahalanobis
    from alibi_detect.saving import save_detector

pytestmark = pytest.mark.filterwarnings("ignore")  # its libraries warn of each other

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(100, 3)).astype("float32")


def saved(kind: str, folder: Path) -> Path:
    if kind == "torch":
        made: Any = MMDDriftOnline(ROWS, ert=30, window_size=5, backend="pytorch", n_bootstraps=100, verbose=False)
    elif kind == "numpy":
        made = CVMDriftOnline(ROWS, ert=50, window_sizes=[10], n_bootstraps=500, batch_size=100, verbose=False)
    elif kind == "mmd":
        made = MMDDrift(ROWS, backend="pytorch", n_permutations=5)
    elif kind == "iforest":
        made = IForest(threshold=0.0)
        made.fit(ROWS)
    else:
        made = Mahalanobis(threshold=5.0)
    save_detector(made, str(folder))
    return folder


def load(folder: Path, **extra: Any) -> AlibiDetectRuntime:
    parameters = {"uri": str(folder), "version": "v1", "extra": extra}
    model = AlibiDetectRuntime(ModelSettings(name="d", implementation=AlibiDetectRuntime, parameters=parameters))
    assert anyio.run(model.load)
    return model


def ask(model: AlibiDetectRuntime, data: Any) -> dict[str, Any]:
    response = model.predict(NumpyRequestCodec.encode_request(data))
    return {one.name: NumpyCodec.decode_output(one) for one in response.outputs}


def times(model: AlibiDetectRuntime, rows: int) -> list[int]:
    return [int(one) for one in ask(model, ROWS[:rows])["time"].ravel()]


# -- requests that are collected ---------------------------------------------------------------------------------------


def test_a_request_that_does_not_fit_is_refused_and_the_others_are_tested(tmp_path: Path) -> None:
    model = load(saved("iforest", tmp_path / "d"), batch_size=2)
    with pytest.raises(InferenceError, match=r"takes an array of shape \[-1, 3\], got \[1, 2\]"):
        ask(model, ROWS[:1, :2])
    for _ in range(2):
        assert ask(model, ROWS[:1]) == {}
        with pytest.raises(InferenceError, match=r"takes an array of shape \[-1, 3\], got \[1, 2\]"):
            ask(model, ROWS[:1, :2])
        assert ask(model, ROWS[:2])["is_outlier"].shape == (1, 3)


@pytest.mark.parametrize("misfit", [ROWS[:1, :2], ROWS[0], np.array(["a"]), np.float32(1)])
def test_a_detector_that_does_not_tell_its_shape_is_known_by_what_it_has_answered(tmp_path: Path, misfit: Any) -> None:
    model = load(saved("mahalanobis", tmp_path / "d"), batch_size=2)
    assert ask(model, ROWS[:10]) == {}
    assert ask(model, ROWS[10:20])
    for _ in range(3):
        with pytest.raises(
            InferenceError, match=r"expected (numbers of shape \[-1, 3\] as in those before|the shape|one row)"
        ):
            ask(model, misfit)
        assert ask(model, ROWS[20:30]) == {}
        with pytest.raises(
            InferenceError, match=r"expected (numbers of shape \[-1, 3\] as in those before|the shape|one row)"
        ):
            ask(model, misfit)
        assert ask(model, ROWS[30:40])["is_outlier"].shape == (1, 20)


def test_one_that_came_before_the_shape_was_known_is_not_in_the_way_for_ever(tmp_path: Path) -> None:
    model = load(saved("mahalanobis", tmp_path / "d"), batch_size=2)
    assert ask(model, ROWS[:5, :2]) == {}
    with pytest.raises(
        InferenceError, match=r"expected numbers of shape \[-1, 2\].* the 1 collected so far are dropped"
    ):
        ask(model, ROWS[:5])
    assert ask(model, ROWS[:5]) == {}
    assert ask(model, ROWS[5:10])["is_outlier"].shape == (1, 10)


def test_frames_and_lists_stay_what_they_are() -> None:
    frames, form = Collector("d", 2), "columns a, b"
    one = pd.DataFrame({"a": [1], "b": ["x"]})
    assert not frames.add(one, form)
    assert frames.add(one, form)
    (batch,) = frames.batches()
    pd.testing.assert_frame_equal(batch, pd.DataFrame({"a": [1, 1], "b": ["x", "x"]}))
    frames.answered(batch)
    with pytest.raises(InferenceError, match="expected columns a, b as in those before, got columns a"):
        frames.add(one[["a"]], "columns a")
    lists = Collector("d", 2)
    assert not lists.add(["x"], "a list")
    assert lists.add(["y", "z"], "a list")
    assert [*lists.batches()] == [["x", "y", "z"]]


def test_a_frame_for_a_forest_is_refused_before_it_is_collected(tmp_path: Path) -> None:
    model = load(saved("iforest", tmp_path / "d"), batch_size=2)
    assert ask(model, ROWS[:1]) == {}
    with pytest.raises(InferenceError, match=r"takes an array of shape \[-1, 3\], got \[1, 1\]"):
        model.predict(PandasCodec.encode_request(pd.DataFrame({"a": [1.0]})))
    assert model.predict(PandasCodec.encode_request(pd.DataFrame(ROWS[:1]))).outputs


# -- online detectors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_new_version_goes_on_where_the_old_one_is(tmp_path: Path, kind: str) -> None:
    """A reload loads the new version first; the old one sees rows until calls go over, and is unloaded then."""
    folder = saved(kind, tmp_path / "d")
    old = load(folder)
    assert times(old, 2) == [1, 2]
    new = load(folder)
    assert times(old, 2) == [3, 4]
    assert times(new, 1) == [5]
    assert anyio.run(old.unload)
    assert times(new, 1) == [6]
    assert anyio.run(new.unload)
    assert times(load(folder), 1) == [7]


def test_a_model_that_is_unloaded_and_loaded_reads_its_folder(tmp_path: Path) -> None:
    folder = saved("torch", tmp_path / "d")
    model = load(folder)
    times(model, 3)
    assert anyio.run(model.unload)
    shutil.rmtree(folder / "state")
    assert times(load(folder), 1) == [1]


def test_another_detector_in_the_folder_gets_no_state_of_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved("torch", tmp_path / "d")
    old = load(folder)
    times(old, 3)
    shutil.rmtree(folder)
    saved("torch", folder)
    new = load(folder)
    assert times(new, 1) == [1]
    assert anyio.run(old.unload)
    assert "the detector's state is not saved: another one lies in" in caplog.text
    assert not (folder / "state").exists()


def test_a_save_that_fails_leaves_the_state_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved("torch", tmp_path / "d")
    model = load(folder, state_save_freq=2)
    assert times(model, 2) == [1, 2]

    def half(state: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("no space left")  # as PyTorch says it

    monkeypatch.setattr("alibi_detect.utils.state._pytorch.state.torch.save", half)
    assert times(model, 2) == [3, 4]
    assert "the detector's state cannot be saved, and ends with it: no space left" in caplog.text
    assert times(load(shutil.copytree(folder, tmp_path / "copy")), 1) == [3]


@pytest.mark.parametrize(("kind", "file"), [("torch", "state.pt"), ("numpy", "state.npz")])
def test_a_damaged_state_is_told_with_what_helps(tmp_path: Path, kind: str, file: str) -> None:
    folder = saved(kind, tmp_path / "d")
    model = load(folder)
    times(model, 3)
    assert anyio.run(model.unload)
    path = folder / "state" / file
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelLoadError, match=r"its state, in .*state, cannot be read: .*: remove that folder"):
        load(folder)
    gc.collect()  # alibi-detect leaves the file open: not a warning of a later test's
    shutil.rmtree(folder / "state")
    assert times(load(folder), 1) == [1]
