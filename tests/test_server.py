"""The whole program from outside: start, serve, reload, lose a worker, drain, stop, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.engine import MODELS
from tests.serving import Running, is_alive, serving, starting, write_model

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    for name in ("double", "blocker", "sleeper"):
        place = write_model(tmp_path, name, f"models.{name.capitalize()}")
        (place / "models.py").write_text(MODELS)
    return tmp_path


def _until(condition, seconds=60.0, what="it"):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {seconds} s"
        time.sleep(0.01)


def _in_dev_shm():
    return {one.name for one in Path("/dev/shm").iterdir() if one.name.startswith("psm_")}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_it_serves_rest_and_ends_cleanly_on_sigterm(folder, backend, workers):
    before = _in_dev_shm()
    with serving(folder, "--backend", backend, "--parallel-workers", workers) as server:
        assert httpx.get(f"{server.rest}/v2/health/ready").status_code == 200
        answer = server.infer("double", [1.0, 2.5] * 20_000).json()
        assert answer["outputs"][0]["data"] == [2.0, 5.0] * 20_000
        pids = server.workers
        assert len(pids) == int(workers)
        assert server.stop() == 0
        assert not any(is_alive(pid) for pid in pids)
    assert "Traceback" not in server.output
    _until(lambda: not _in_dev_shm() - before, what="a clean /dev/shm")


def test_a_call_has_all_but_the_last_second_of_the_bound(folder):
    with serving(folder, "--set", "shutdown_timeout_seconds=3") as server, ThreadPoolExecutor(1) as threads:

        def ask():
            return server.infer("blocker", [1.0], timeout=100, id="a").status_code, time.monotonic()

        (folder / "blocker" / "gate").touch()
        answer = threads.submit(ask)
        _until((folder / "blocker" / "begun-a").exists)
        asked = time.monotonic()
        assert server.stop(seconds=100) == 0
        status, answered = answer.result()
    assert status == 503
    assert answered - asked > 1.95


def test_a_worker_killed_in_mid_call_costs_that_call_only(folder):
    with serving(folder) as server, ThreadPoolExecutor(16) as threads:
        gate = folder / "blocker" / "gate"
        gate.touch()
        victim = threads.submit(server.infer, "blocker", [1.0], id="victim")
        _until((folder / "blocker" / "begun-victim").exists)
        waiting = [threads.submit(server.infer, "double", [float(n)]) for n in range(5)]
        os.kill(server.workers[0], signal.SIGKILL)
        answer = victim.result(60)
        gate.unlink()
        assert answer.status_code == 503
        assert "worker process died" in answer.json()["error"]
        assert [one.result(60).json()["outputs"][0]["data"] for one in waiting] == [[2.0 * n] for n in range(5)]
        assert server.infer("blocker", [3.0]).json()["outputs"][0]["data"] == [3.0]


def test_a_killed_server_leaves_no_worker_and_no_memory(folder):
    before = _in_dev_shm()
    with serving(folder, "--parallel-workers", "2") as server:
        assert server.infer("double", [1.0] * 100_000).status_code == 200
        pids = server.workers
        assert len(pids) == 2
        server.stop(signal.SIGKILL)
        _until(lambda: not any(is_alive(pid) for pid in pids), what="the workers' end")
    _until(lambda: not _in_dev_shm() - before, what="a clean /dev/shm")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_calls_that_wait_for_company_go_without_it_when_the_server_stops(folder, backend):
    batching = {"max_batch_size": 8, "max_batch_time": 1000.0, "batch_eager": False}
    write_model(folder, "double", "models.Double", **batching)
    with serving(folder, "--backend", backend) as server, ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(server.infer, "double", [1.0]) for _ in range(3)]
        _until(lambda: _in_progress(server) >= 3, what="three open calls")
        assert server.stop() == 0
        assert [call.result(60).status_code for call in calls] == [200] * 3


def test_calls_under_way_are_finished_before_the_end(folder):
    place = write_model(folder, "gated", "models.Occupied")
    (place / "models.py").write_text(MODELS.replace("busy_while_awaiting = True", ""))
    (place / "gate").touch()
    bound = ("--set", "shutdown_timeout_seconds=100")
    with serving(folder, *bound) as server, ThreadPoolExecutor(16) as threads:
        calls = [threads.submit(server.infer, "gated", [3.0], id=str(number)) for number in range(10)]
        _until(lambda: len(list(place.glob("begun-*"))) == 10, what="ten open calls")
        server.process.send_signal(signal.SIGTERM)
        server.wait_output("stopping: 10 calls under way")
        (place / "gate").unlink()
        assert server.process.wait(60) == 0
        assert [call.result(60).status_code for call in calls] == [200] * 10


def _in_progress(server: Running) -> int:
    text = httpx.get(f"http://{server.addresses['metrics']}/metrics").text
    found = [line for line in text.splitlines() if line.startswith("rest_server_requests_in_progress{")]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in found))


def test_a_second_signal_does_not_wait(folder):
    bound = ("--set", "shutdown_timeout_seconds=1000")
    with serving(folder, *bound) as server, ThreadPoolExecutor(16) as threads:
        call = threads.submit(server.infer, "sleeper", [1000.0], timeout=120)
        _until(lambda: _in_progress(server) >= 1)
        server.process.send_signal(signal.SIGTERM)
        server.wait_output("stopping: 1 calls under way")
        server.stop(signal.SIGTERM, seconds=60)
        with pytest.raises(httpx.HTTPError):
            call.result(60).raise_for_status()


def test_probes_answer_while_a_model_blocks_its_worker(folder):
    with serving(folder) as server, ThreadPoolExecutor(16) as threads:
        gate = folder / "blocker" / "gate"
        gate.touch()
        call = threads.submit(server.infer, "blocker", [1.0], id="a")
        _until((folder / "blocker" / "begun-a").exists)
        with httpx.Client() as client:
            for _ in range(20):
                assert client.get(f"{server.rest}/v2/health/live").status_code == 200
        assert not call.done()
        gate.unlink()
        assert call.result(60).status_code == 200


def test_a_reload_under_load_fails_no_call_and_picks_up_edited_code(folder):
    with serving(folder) as server:
        stop = threading.Event()
        statuses: list[int] = []
        factors: set[float] = set()

        def ask():
            with httpx.Client() as client:
                body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
                while not stop.is_set():
                    answer = client.post(f"{server.rest}/v2/models/double/infer", json=body)
                    statuses.append(answer.status_code)
                    factors.add(answer.json()["outputs"][0]["data"][0])

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for factor in (3, 4, 5):
            text = MODELS.replace("return answer(self, request, 2)", f"return answer(self, request, {factor})")
            (folder / "double" / "models.py").write_text(text)
            assert httpx.post(f"{server.rest}/v2/repository/models/double/load").status_code == 200
            assert server.infer("double", [1.0]).json()["outputs"][0]["data"] == [float(factor)]
        stop.set()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200}
        assert factors <= {2.0, 3.0, 4.0, 5.0}


def test_two_models_each_with_its_own_models_py_stay_apart(tmp_path):
    for name, factor in (("one", 2), ("two", 10)):
        place = write_model(tmp_path, name, "my-models.Double")
        text = MODELS.replace("return answer(self, request, 2)", f"return answer(self, request, {factor})")
        (place / "my-models.py").write_text(text)
    with serving(tmp_path) as server:
        assert server.infer("one", [1.0]).json()["outputs"][0]["data"] == [2.0]
        assert server.infer("two", [1.0]).json()["outputs"][0]["data"] == [10.0]


def _start_and_fail(folder, *args):
    running = Running(folder, *args)
    try:
        code = running.process.wait(60)
    finally:
        running.process.kill()
    running._reader.join(5)
    running.process.stderr.close()
    return code, running.output


def test_a_busy_port_is_one_readable_line(folder):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        code, output = _start_and_fail(folder, "--http-port", str(port))
    assert code != 0
    assert f"{port}" in output
    assert "Traceback" not in output


def test_settings_that_are_no_json_name_line_and_column(folder):
    (folder / "settings.json").write_text('{\n  "http_port": 1,,\n}')
    code, output = _start_and_fail(folder)
    assert code != 0
    assert "settings.json" in output and "line 2" in output and "column" in output
    assert "Traceback" not in output


def test_a_model_that_fails_is_named_and_the_others_are_served(folder):
    place = write_model(folder, "broken", "models.Broken")
    (place / "models.py").write_text(MODELS)
    with serving(folder) as server:
        assert "no such artifact" in server.output
        assert server.output.count("Traceback") == 1
        assert server.infer("double", [1.0]).status_code == 200
        assert httpx.get(f"{server.rest}/v2/health/ready").status_code != 200
        index = httpx.post(f"{server.rest}/v2/repository/index", json={}).json()
        broken = next(one for one in index if one["name"] == "broken")
        assert broken["state"] == "UNAVAILABLE" and "no such artifact" in broken["reason"]


@pytest.mark.parametrize("moment", ["its workers start", "a model loads"])
def test_a_server_that_still_starts_ends_as_quietly(tmp_path, moment):
    place = write_model(tmp_path, "slow", "models.Slow")
    (place / "models.py").write_text(
        "import asyncio, pathlib\nfrom mlserve import MLModel\n\n\nclass Slow(MLModel):\n"
        "    async def load(self):\n        pathlib.Path(__file__).with_name('loading').touch()\n"
        "        await asyncio.sleep(600)\n"
    )
    with starting(tmp_path, "--parallel-workers", "2") as server:
        _until(lambda: server.workers if moment == "its workers start" else (place / "loading").exists())
        assert server.stop() == 0
        assert "Traceback" not in server.output and "error" not in server.output


def test_without_any_model_that_loads_the_start_fails(tmp_path):
    place = write_model(tmp_path, "broken", "models.Broken")
    (place / "models.py").write_text(MODELS)
    code, output = _start_and_fail(tmp_path)
    assert code != 0
    assert "no such artifact" in output


def test_a_folder_with_only_broken_settings_fails_the_start(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model-settings.json").write_text('{"name": "x",,}')
    code, output = _start_and_fail(tmp_path)
    assert code != 0
    assert "line 1, column 14" in output
    assert "Traceback" not in output


def test_a_load_while_the_worker_is_restarted_does_not_hang_the_server(folder):
    with serving(folder) as server:
        os.kill(server.workers[0], signal.SIGKILL)
        answer = httpx.post(f"{server.rest}/v2/repository/models/double/load")
        assert answer.status_code in (200, 503)
        assert server.infer("double", [2.0]).json()["outputs"][0]["data"] == [4.0]


def test_a_model_without_any_file_comes_from_variables(tmp_path):
    (tmp_path / "models.py").write_text(MODELS)
    env = {"MLSERVER_MODEL_NAME": "mine", "MLSERVER_MODEL_IMPLEMENTATION": "models.Double"}
    with serving(tmp_path, env=env) as server:
        assert server.infer("mine", [4.0]).json()["outputs"][0]["data"] == [8.0]


def test_help_and_version_start_quickly_and_say_what_they_should():
    for argument, text in (("--version", "0."), ("--help", "start")):
        found = subprocess.run([sys.executable, "-m", "mlserve", argument], capture_output=True, text=True, check=True)
        assert text in found.stdout


def test_garbage_never_ends_the_server(folder):
    with serving(folder) as server:
        host, port = server.addresses["REST"].split(":")
        for data in (b"\x00" * 1000, b"GET / HTTP/9.9\r\n\r\n", os.urandom(4096), b"POST /v2/models/double/infer"):
            for address in ((host, int(port)), tuple(server.grpc.split(":"))):
                with socket.create_connection(address) as raw:
                    raw.sendall(data)
        bodies = [
            b"",
            b"{",
            b"[]",
            b"null",
            b'{"inputs": 3}',
            b"\xff\xfe",
            b"[" * 100_000,
            json.dumps({"inputs": [{}]}).encode(),
        ]
        for body in bodies:
            answer = httpx.post(
                f"{server.rest}/v2/models/double/infer", content=body, headers={"content-type": "application/json"}
            )
            assert 400 <= answer.status_code < 500, body[:20]
            assert answer.json()["error"]
        assert server.infer("double", [1.0]).status_code == 200
