"""The Spark example does what its page says, in a worker process; its model, in the server and in two workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http

from mlserve.testing import running_server
from tests.examples import Outcome, run_example
from tests.serving import is_alive, serving

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


def test_killed_workers_and_servers_leave_no_java_process_and_their_files_not_for_long(
    outcome: Outcome, tmp_path: Path
) -> None:
    shutil.copytree(outcome.folder, tmp_path / "models")
    place = tmp_path / "temporary"
    place.mkdir()
    with serving(tmp_path / "models", "--parallel-workers", "1", env={"TMPDIR": str(place)}) as server:
        (first,), (left,) = _java_of(place), place.iterdir()
        os.kill(server.workers[0], signal.SIGKILL)
        _wait(lambda: not is_alive(first))
        ready = f"{server.rest}/v2/models/coats/ready"
        _wait(lambda: httpx.get(ready).status_code == 200)
        (second,), (folder,) = _java_of(place), place.iterdir()
        assert second != first and folder != left
        server.process.kill()
        _wait(lambda: not is_alive(second))
    with serving(tmp_path / "models", "--parallel-workers", "1", env={"TMPDIR": str(place)}) as server:
        assert folder not in place.iterdir()
        assert server.stop() == 0
    assert not list(place.iterdir())


def _java_of(place: Path) -> list[int]:
    """The Java processes that have their temporary files there."""
    option = f"-Djava.io.tmpdir={place}".encode()
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            if option in file.read_bytes():
                found.append(int(file.parent.name))
    return found


def _wait(until: Callable[[], bool], seconds: float = 60.0) -> None:
    end, pause = time.monotonic() + seconds, threading.Event()
    while not until():
        assert time.monotonic() < end
        pause.wait(0.1)


def _over_binary_rest(address: str) -> list[float]:
    sky = tritonclient.http.InferInput("sky", [3], "BYTES")
    sky.set_data_from_numpy(np.array(["sun", "sun", "rain"], object))
    degrees = tritonclient.http.InferInput("degrees", [3], "FP64")
    degrees.set_data_from_numpy(np.array([25.0, 3.0, 25.0]))
    with tritonclient.http.InferenceServerClient(address.removeprefix("http://")) as client:
        return list(client.infer("coats", [sky, degrees]).as_numpy("prediction").ravel())
