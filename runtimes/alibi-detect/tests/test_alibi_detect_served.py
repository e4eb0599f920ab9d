"""Detectors in a running server: with and without workers, over REST and gRPC, and from another environment."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc

from mlserve.codecs import NumpyCodec, NumpyRequestCodec
from mlserve.types import InferenceResponse
from tests.environments_beside import environment, serving_beside
from tests.examples import run_example
from tests.runtime_trial import arrays
from tests.serving import Running, serving, write_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its libraries
    from alibi_detect.cd import KSDrift
    from alibi_detect.saving import save_detector

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore")]

START_SECONDS = 200.0  # it takes 12 to 25 s of one core to import alibi-detect, in each worker
RANDOM = np.random.default_rng(0)
REFERENCE = RANDOM.normal(size=(200, 3)).astype("float32")
NEAR = RANDOM.normal(size=(20, 3)).astype("float32")


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A saved detector, and what it says of NEAR."""
    folder = tmp_path_factory.mktemp("saved") / "ks"
    made = KSDrift(REFERENCE, p_val=0.05)
    save_detector(made, str(folder))
    return folder, made.predict(NEAR)["data"]


def check(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name].ravel(), np.ravel(value))


def over_grpc(server: Running) -> dict[str, Any]:
    tensor = tritonclient.grpc.InferInput("x", list(NEAR.shape), "FP32")
    tensor.set_data_from_numpy(NEAR)
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        answer = client.infer("drift", [tensor])
    return {one.name: answer.as_numpy(one.name) for one in answer.get_response().outputs}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_it_is_served_with_and_without_workers(
    detector: tuple[Path, dict[str, Any]], tmp_path: Path, workers: str
) -> None:
    folder, expected = detector
    parameters = {"uri": str(folder), "version": "v1"}
    write_model(tmp_path, "drift", "mlserver_alibi_detect.AlibiDetectRuntime", parameters=parameters)
    body = NumpyRequestCodec.encode_request(NEAR)
    with serving(tmp_path, "--parallel-workers", workers, start_seconds=START_SECONDS) as server:
        for _ in range(3):
            answer = httpx.post(f"{server.rest}/v2/models/drift/infer", content=body.json(), timeout=60)
            assert answer.status_code == 200, answer.text
            check(arrays(InferenceResponse.parse_raw(answer.content)), expected)
            check(over_grpc(server), expected)
        assert server.stop() == 0
    chatter = [line for line in server.lines if " alibi_detect" in line or "it/s]" in line or " WARNING " in line]
    assert chatter == []


def test_it_is_served_from_its_own_environment_beside_an_ordinary_model(
    detector: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, expected = detector
    write_model(tmp_path, "drift", "alibi-detect", parameters={"uri": str(folder), **environment()})
    with serving_beside(tmp_path) as beside:
        tensor = {"name": "x", "shape": [20, 3], "datatype": "FP32", "data": NEAR.ravel().tolist()}
        check(arrays(beside.infer("drift", {"inputs": [tensor]})), expected)
        beside.check_neighbours()
        assert beside.server.stop() == 0


def test_the_commands_of_the_example_work(tmp_path: Path) -> None:
    outcome = run_example("alibi-detect", "rooms", tmp_path, START_SECONDS)
    assert outcome.output("is_drift") == [1]
    assert "is_drift [[0]]" in outcome.printed
    p_values = NumpyCodec.encode_output("p_val", np.array([outcome.output("p_val")]))
    assert p_values.shape == [1, 2]
