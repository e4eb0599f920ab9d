"""The alibi-detect runtime: kinds of detectors, outputs, batches, states, errors; answers are the detector's own."""

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
from mlserve.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec, StringRequestCodec
from mlserve.errors import InferenceError, InvalidModelURI, ModelLoadError
from mlserve.types import InferenceResponse, RequestOutput
from mlserve_alibi_detect import AlibiDetectRuntime
from tests.old_runtimes import check_old_names

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its libraries
    from alibi_detect.cd import ChiSquareDrift, ContextMMDDrift, KSDrift, MMDDrift, MMDDriftOnline, TabularDrift
    from alibi_detect.od import IForest, Mahalanobis, SpectralResidual
    from alibi_detect.saving import load_detector, save_detector

pytestmark = pytest.mark.filterwarnings("ignore")  # its libraries warn of each other

RANDOM = np.random.default_rng(0)
REFERENCE = RANDOM.normal(size=(200, 3)).astype("float32")
NEAR = RANDOM.normal(size=(20, 3)).astype("float32")
FAR = NEAR + 3
SERIES = RANDOM.normal(size=100).astype("float32")
CATEGORIES = np.column_stack([RANDOM.integers(0, 4, 200), RANDOM.normal(size=200)]).astype("float32")


def fitted(kind: Any, **options: Any) -> Any:
    detector = kind(**options)
    detector.fit(REFERENCE)
    return detector


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved detector of each kind."""
    folder = tmp_path_factory.mktemp("detectors")
    made = {
        "ks": KSDrift(REFERENCE, p_val=0.05),
        "chi": ChiSquareDrift(CATEGORIES[:, :1]),
        "tabular": TabularDrift(CATEGORIES, categories_per_feature={0: None}),
        "context": ContextMMDDrift(REFERENCE, REFERENCE[:, :1], backend="pytorch", n_permutations=20),
        "mmd": MMDDrift(REFERENCE, backend="pytorch", n_permutations=20),
        "mmd-tf": MMDDrift(REFERENCE, backend="tensorflow", n_permutations=20),
        "online": MMDDriftOnline(REFERENCE, ert=30, window_size=5, backend="pytorch", n_bootstraps=100, verbose=False),
        "iforest": fitted(IForest, threshold=0.0),
        "mahalanobis": Mahalanobis(threshold=5.0),
        "spectral": SpectralResidual(threshold=1.0, window_amp=20, window_local=20, n_est_points=10),
    }
    for name, detector in made.items():
        save_detector(detector, str(folder / name))
    return {name: folder / name for name in made}


def load(folder: Path, *, max_batch_size: int = 0, **extra: Any) -> AlibiDetectRuntime:
    settings = ModelSettings(
        name="d",
        implementation=AlibiDetectRuntime,
        parameters={"uri": str(folder), "version": "v1", "extra": extra},
        max_batch_size=max_batch_size,
        max_batch_time=0.1 if max_batch_size else 0.0,
    )
    model = AlibiDetectRuntime(settings)
    assert anyio.run(model.load)
    return model


def ask(model: AlibiDetectRuntime, data: Any, *outputs: str) -> InferenceResponse:
    request = NumpyRequestCodec.encode_request(data)
    request.outputs = [RequestOutput(name=name) for name in outputs] or None
    return model.predict(request)


def values(response: InferenceResponse) -> dict[str, Any]:
    return {one.name: NumpyCodec.decode_output(one) for one in response.outputs}


def times(model: AlibiDetectRuntime, data: Any) -> list[float]:
    found: list[float] = values(ask(model, data))["time"].ravel().tolist()
    return found


def own(folder: Path, data: Any, **parameters: Any) -> dict[str, Any]:
    """What the detector itself says."""
    return dict(load_detector(str(folder)).predict(data, **parameters)["data"])


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The same outputs in the same order, bit for bit; each in a list of one, None as NaN."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name].ravel(), np.ravel([np.nan if value is None else value]))
        assert found[name].shape[0] == 1


# -- detectors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "parameters"),
    [
        ("ks", NEAR, {}),
        ("ks", FAR, {"drift_type": "feature"}),
        ("chi", CATEGORIES[:50, :1], {}),
        ("tabular", CATEGORIES[:50], {"drift_type": "feature", "return_p_val": False}),
        ("iforest", NEAR, {}),
        ("iforest", FAR, {"return_instance_score": False}),
        ("spectral", SERIES, {}),
    ],
)
def test_the_outputs_are_what_the_detector_says(
    detectors: dict[str, Path], name: str, rows: Any, parameters: dict[str, Any]
) -> None:
    response = ask(load(detectors[name], predict_parameters=parameters), rows)
    same(values(response), own(detectors[name], rows, **parameters))
    assert response.parameters is not None
    assert response.parameters["online"] is (name == "spectral")


@pytest.mark.parametrize("name", ["mmd", "mmd-tf"])
def test_a_permutation_test_finds_drift_where_it_is(detectors: dict[str, Path], name: str) -> None:
    """Its p-value varies from run to run, its verdict on these does not."""
    model = load(detectors[name])
    assert values(ask(model, FAR))["is_drift"].tolist() == [[1]]
    assert list(values(ask(model, NEAR)))[:3] == ["is_drift", "distance", "p_val"]


def test_outputs_can_be_picked(detectors: dict[str, Path]) -> None:
    model = load(detectors["ks"])
    assert list(values(ask(model, NEAR, "p_val", "is_drift"))) == ["p_val", "is_drift"]
    with pytest.raises(InferenceError, match="no output 'nope': it has is_drift, distance, p_val, threshold"):
        ask(model, NEAR, "nope")


def test_so_many_requests_are_collected_for_one_test(detectors: dict[str, Path]) -> None:
    model = load(detectors["ks"], batch_size=3, threads=1)
    for _ in range(2):
        assert ask(model, NEAR[:5]).outputs == []
        assert ask(model, NEAR[5:6]).outputs == []
        same(values(ask(model, NEAR[6:])), own(detectors["ks"], np.concatenate([NEAR[:5], NEAR[5:6], NEAR[6:]])))


def test_an_online_detector_sees_row_after_row_and_keeps_its_state(detectors: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(detectors["online"], tmp_path / "online")
    model = load(folder, state_save_freq=2)
    found = values(ask(model, NEAR[:3]))
    assert found["time"].ravel().tolist() == [1, 2, 3]
    assert np.isnan(found["p_val"]).all()
    assert times(model, NEAR[:1]) == [4]  # too few for a save
    assert times(load(shutil.copytree(folder, tmp_path / "after a crash")), NEAR[:1]) == [4]
    assert anyio.run(model.unload)
    assert times(load(folder), NEAR[:1]) == [5]


def test_an_outlier_detector_that_learns_answers_by_all_that_it_has_seen(detectors: dict[str, Path]) -> None:
    """Mahalanobis moves its mean with each request: the same rows get other scores later, as with itself."""
    model, itself = load(detectors["mahalanobis"]), load_detector(str(detectors["mahalanobis"]))
    scores = []
    for rows in (REFERENCE, NEAR, NEAR, NEAR[:1]):
        found = values(ask(model, rows))
        same(found, dict(itself.predict(rows)["data"]))
        scores.append(found["instance_score"])
    assert scores[1].shape == (1, 20)
    assert not np.array_equal(scores[1], scores[2])


# -- errors and metadata ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [NEAR[:, :2], NEAR[0], np.zeros((2, 3, 1), "float32")])
def test_rows_of_another_shape_are_refused(detectors: dict[str, Path], data: Any) -> None:
    with pytest.raises(InferenceError, match=r"takes an array of shape \[-1, 3\], got \[") as caught:
        ask(load(detectors["ks"]), data)
    assert caught.value.http_status == 400


def test_rows_of_another_shape_are_refused_by_an_online_detector(detectors: dict[str, Path], tmp_path: Path) -> None:
    """Its reference data are a tensor of PyTorch, whose own words for this are a trace of its interpreter."""
    model = load(shutil.copytree(detectors["online"], tmp_path / "online"), signature=True)
    with pytest.raises(InferenceError, match=r"takes an array of shape \[-1, 3\], got \[20, 2\]"):
        ask(model, NEAR[:, :2])
    assert [(one.datatype, one.shape) for one in model.inputs] == [("FP32", [-1, 3])]
    assert len(values(ask(model, NEAR[:2]))["is_drift"]) == 2


def test_one_row_that_a_permutation_test_cannot_divide_is_refused(detectors: dict[str, Path]) -> None:
    with pytest.raises(InferenceError, match="cannot use this input"):
        ask(load(detectors["mmd"]), NEAR[:1])


def test_a_detector_of_arrays_takes_a_frame_as_one_and_no_list(detectors: dict[str, Path]) -> None:
    model = load(detectors["ks"])
    same(values(model.predict(PandasCodec.encode_request(pd.DataFrame(NEAR)))), own(detectors["ks"], NEAR))
    with pytest.raises(InferenceError, match="takes numbers, got BYTES"):
        model.predict(PandasCodec.encode_request(pd.DataFrame({"a": [1.0], "b": [2.0], "c": ["x"]})))
    with pytest.raises(InferenceError, match="takes an array and has no preprocessing step, got list"):
        model.predict(StringRequestCodec.encode_request(["a", "b"]))


def test_a_detector_that_needs_more_than_the_data_is_refused(detectors: dict[str, Path]) -> None:
    with pytest.raises(ModelLoadError, match="predict of ContextMMDDrift needs 'c' beside the data"):
        load(detectors["context"])


def test_a_state_that_cannot_be_saved_is_in_the_log_and_no_failure(
    detectors: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "online"
    shutil.copytree(detectors["online"], folder)
    (folder / "state").write_text("a file is in the way")
    model = load(folder, state_save_freq=10)
    for rows in (NEAR, NEAR[:1]):
        assert len(values(ask(model, rows))["is_drift"]) == len(rows)
    assert anyio.run(model.unload)
    assert caplog.text.count("the detector's state cannot be saved") == 2


def test_a_refused_request_does_not_count_for_a_batch(detectors: dict[str, Path]) -> None:
    model = load(detectors["ks"], batch_size=2)
    ask(model, NEAR)
    with pytest.raises(InferenceError):
        ask(model, NEAR[:, :2])
    assert ask(model, NEAR).outputs


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"predict_parameters": {"drift": "feature"}}, "has no argument 'drift'; it has .*drift_type"),
        ({"predict_parameters": []}, "expected an object"),
        ({"batch_size": 0}, "expected a whole number >= 1"),
    ],
)
def test_settings_that_cannot_be_used_are_told(detectors: dict[str, Path], extra: Any, words: str) -> None:
    with pytest.raises(ModelLoadError, match=words):
        load(detectors["ks"], **extra)


def test_requests_cannot_be_merged(detectors: dict[str, Path]) -> None:
    with pytest.raises(
        ModelLoadError,
        match=r"one entry for all rows.*: leave max_batch_size and max_batch_time out; parameters\.extra\.",
    ):
        load(detectors["ks"], max_batch_size=4)
    automatic = {"max_batch_time": "auto", "target_latency_seconds": 1.0}
    settings = ModelSettings(name="d", implementation=AlibiDetectRuntime, **automatic)
    with pytest.raises(ModelLoadError, match="requests cannot be merged"):
        anyio.run(AlibiDetectRuntime(settings).load)


def test_a_folder_without_a_detector_is_told(detectors: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidModelURI, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelLoadError, match=r"neither config\.toml nor meta\.dill"):
        load(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ModelLoadError, match="is a file; a detector is the folder"):
        load(tmp_path / "model.bin")
    broken = shutil.copytree(detectors["ks"], tmp_path / "broken")
    (broken / "x_ref.npy").unlink()
    with pytest.raises(ModelLoadError, match=r"cannot be loaded: config\.toml names x_ref\.npy, which is not there"):
        load(broken)
    legacy = shutil.copytree(detectors["iforest"], tmp_path / "legacy")
    (legacy / "IForest.dill").write_bytes(b"")
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        load(legacy)
    gc.collect()  # alibi-detect leaves the file open: not a warning of a later test's


def test_the_input_is_described_where_the_detector_knows_it(detectors: dict[str, Path]) -> None:
    (tensor,) = load(detectors["ks"], signature=True).inputs
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", "FP32", [-1, 3])
    assert load(detectors["iforest"], signature=True).inputs == []


def test_its_modules_have_mlservers_names() -> None:
    check_old_names("mlserver_alibi_detect")
