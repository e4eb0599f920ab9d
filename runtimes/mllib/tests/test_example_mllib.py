"""The Spark example does what its page says, in a worker process; its model, in the server and in two workers."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http

from mlserve.testing import running_server
from tests.examples import Outcome, run_example

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    yield run_example("mllib", "coats", tmp_path_factory.mktemp("example"))


def test_the_commands_of_its_page_work(outcome: Outcome) -> None:
    assert outcome.output("prediction") == [0.0, 1.0, 1.0]
    assert outcome.output("probability") == [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    assert outcome.printed.split() == ["[[0.]", "[1.]]"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_gives_the_same_over_every_transport(outcome: Outcome, tmp_path: Path, workers: int) -> None:
    shutil.copytree(outcome.folder, tmp_path / "coats")
    batching = {"max_batch_size": 8, "max_batch_time": 0.05}
    settings = {"name": "coats", "implementation": "mlserver_mllib.MLlibModel", **batching}
    settings["parameters"] = {"uri": "./model"}  # type: ignore[assignment]
    (tmp_path / "coats" / "model-settings.json").write_text(json.dumps(settings))
    request = json.loads((outcome.folder / "request.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with running_server(tmp_path / "coats", parallel_workers=workers) as server:
            found = httpx.post(f"{server.rest}/v2/models/coats/infer", json=request, timeout=60).json()
            assert found["outputs"] == outcome.answer["outputs"]
            assert _over_binary_rest(server.rest) == [0.0, 1.0, 1.0]

            def ask(at: int) -> Any:
                rows = [{**one, "shape": [1], "data": one["data"][at : at + 1]} for one in request["inputs"]]
                body = {"inputs": rows, "outputs": [{"name": "prediction"}]}
                answer = httpx.post(f"{server.rest}/v2/models/coats/infer", json=body, timeout=60).json()
                return answer["outputs"][0]["data"]

            with ThreadPoolExecutor(6) as pool:
                assert list(pool.map(ask, [0, 1, 2] * 4)) == [[0.0], [1.0], [1.0]] * 4


def _over_binary_rest(address: str) -> list[float]:
    sky = tritonclient.http.InferInput("sky", [3], "BYTES")
    sky.set_data_from_numpy(np.array(["sun", "sun", "rain"], object))
    degrees = tritonclient.http.InferInput("degrees", [3], "FP64")
    degrees.set_data_from_numpy(np.array([25.0, 3.0, 25.0]))
    with tritonclient.http.InferenceServerClient(address.removeprefix("http://")) as client:
        return list(client.infer("coats", [sky, degrees]).as_numpy("prediction").ravel())
