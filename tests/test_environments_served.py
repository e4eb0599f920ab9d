"""Models in other Pythons, served by the started program beside ordinary ones, over REST and gRPC."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from mlserve.environments import Environments
from mlserve.settings import ModelParameters, ModelSettings
from tests.packed import (
    HERE,
    OLD_SKLEARN,
    archive_of,
    bare_venv,
    clean,
    link,
    other_python,
    pack,
    pip_venv,
    run_in,
    version_of,
)
from tests.serving import serving, write_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TELL = """
import os
import sys

SEEN = os.environ.get("CUDA_VISIBLE_DEVICES", "")

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceResponse


def version_of(name):
    try:
        return __import__(name).__version__
    except ImportError:
        return ""


class Tell(MLModel):
    async def load(self):
        self.told = [
            "%d.%d" % sys.version_info[:2], version_of("sklearn"), version_of("numpy"), SEEN, str(os.getpid()), sys.prefix
        ]

    async def predict(self, request):
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("told", self.told)])

    async def predict_stream(self, requests):
        async for request in requests:
            for word in self.told[:2]:
                yield InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("told", [word])])
"""

TRAIN = """
import json, sys
import joblib
import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression

rows = np.random.default_rng(7).normal(size=(60, 4))
model = LogisticRegression().fit(rows, (rows.sum(axis=1) > 0).astype(int))
joblib.dump(model, sys.argv[1])
print(json.dumps([sklearn.__version__, rows[:8].tolist(), model.predict(rows[:8]).tolist()]))
"""


def _tell(folder, name, **parameters):
    place = write_model(folder, name, "models.Tell", parameters=parameters)
    (place / "models.py").write_text(TELL)
    return place


def _ask(server, model):
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
    answer = httpx.post(f"{server.rest}/v2/models/{model}/infer", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"][0]["data"]


def _index(server):
    return {one["name"]: one for one in httpx.post(f"{server.rest}/v2/repository/index", json={}).json()}


@pytest.fixture(scope="module")
def environments_dir(tmp_path_factory):
    """One for several tests, since unpacking takes its time."""
    return tmp_path_factory.mktemp("envs")


@pytest.fixture(scope="module")
def other(tmp_path_factory, environments_dir):
    """An environment of another Python and with another scikit-learn, packed by venv-pack: (archive, interpreter)."""
    folder = tmp_path_factory.mktemp("other")
    python = other_python()
    sklearn = f"scikit-learn=={OLD_SKLEARN[version_of(python)]}"
    try:
        inner = pip_venv(folder / "venv", python, sklearn, "joblib", "venv-pack2", "setuptools<81")
    except subprocess.CalledProcessError:
        pytest.skip("pip cannot install packages here")
    command = [folder / "venv/bin/venv-pack", "-q", "-p", folder / "venv", "-o", folder / "env.tar.gz"]
    subprocess.run([*command, "--compress-level", "1"], check=True, timeout=200, env=clean())
    settings = ModelSettings(name="m", implementation="x.Y")
    settings.parameters = ModelParameters(environment_tarball=str(folder / "env.tar.gz"))
    anyio.run(Environments(environments_dir).of_model, settings)  # for all servers below, which may be slow to start
    return folder / "env.tar.gz", inner


def test_a_model_in_another_python_with_another_sklearn_beside_an_ordinary_one(other, environments_dir, tmp_path):
    archive, python = other
    _tell(tmp_path, "here")
    there = _tell(tmp_path, "there", environment_tarball="./environment.tar.gz")
    (there / "environment.tar.gz").symlink_to(archive)
    old = write_model(
        tmp_path, "old-sklearn", "sklearn", parameters={"uri": "./model.joblib", "environment_tarball": str(archive)}
    )
    sklearn, rows, expected = run_in(python, TRAIN, str(old / "model.joblib"))
    with serving(
        tmp_path, env={"MLSERVER_PARALLEL_WORKERS": "2", "MLSERVER_ENVIRONMENTS_DIR": str(environments_dir)}
    ) as server:
        here, there = _ask(server, "here"), _ask(server, "there")
        assert here[0] == HERE and there[0] == version_of(python)
        assert there[1] == sklearn != here[1]
        assert here[5] == sys.prefix and f"{environments_dir}/environment-" in there[5]

        body = {"inputs": [{"name": "x", "shape": [8, 4], "datatype": "FP64", "data": rows}]}
        answer = httpx.post(f"{server.rest}/v2/models/old-sklearn/infer", json=body, timeout=60).json()
        assert answer["outputs"][0]["data"] == expected

        with triton.InferenceServerClient(server.grpc) as client:
            tensor = triton.InferInput("x", [8, 4], "FP64")
            tensor.set_data_from_numpy(np.array(rows))
            result = client.infer("old-sklearn", [tensor])
            assert result.as_numpy(result.get_response().outputs[0].name).ravel().tolist() == expected
            large = triton.InferInput("x", [200_000, 4], "FP64")  # through shared memory, both ways
            large.set_data_from_numpy(np.resize(np.array(rows), (200_000, 4)))
            result = client.infer("old-sklearn", [large])
            got = result.as_numpy(result.get_response().outputs[0].name).ravel()
            assert (got == np.resize(np.array(expected), 200_000)).all()

        with httpx.stream("POST", f"{server.rest}/v2/models/there/infer_stream", json=body, timeout=60) as stream:
            events = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
        assert [one["outputs"][0]["data"] for one in events] == [[there[0]], [sklearn]]
        assert server.output.count("2 in pool environment env.tar.gz") == 1
        assert "in pool environment environment.tar.gz" not in server.output, "one environment, one pool"
        assert server.stop() == 0


def test_an_environment_without_worker_processes_has_one_of_its_own(other, environments_dir, tmp_path):
    _tell(tmp_path, "here")
    _tell(tmp_path, "there", environment_tarball=str(other[0]))
    with serving(
        tmp_path, env={"MLSERVER_PARALLEL_WORKERS": "0", "MLSERVER_ENVIRONMENTS_DIR": str(environments_dir)}
    ) as server:
        assert _ask(server, "here")[4] == str(server.pid)
        assert _ask(server, "there")[4] != str(server.pid)
        assert "1 in pool environment env.tar.gz" in server.output
        assert server.stop() == 0


def test_a_variable_gives_all_models_an_environment(other, environments_dir, tmp_path):
    _tell(tmp_path, "any")
    with serving(
        tmp_path, env={"MLSERVER_ENV_TARBALL": str(other[0]), "MLSERVER_ENVIRONMENTS_DIR": str(environments_dir)}
    ) as server:
        assert _ask(server, "any")[0] == version_of(other[1])
        assert server.stop() == 0


def test_a_worker_in_an_environment_that_is_killed_comes_back_there(other, environments_dir, tmp_path):
    _tell(tmp_path, "there", environment_tarball=str(other[0]))
    with serving(tmp_path, env={"MLSERVER_ENVIRONMENTS_DIR": str(environments_dir)}) as server:
        before = _ask(server, "there")
        subprocess.run(["kill", "-9", before[4]], check=True)
        server.wait_output("is ready", 60)
        end = time.monotonic() + 60
        while (after := _try(server, "there")) is None:
            assert time.monotonic() < end, server.output
            time.sleep(0.1)
        assert after[:2] == before[:2] and after[4] != before[4]


def _try(server, model):
    try:
        return _ask(server, model)
    except AssertionError:
        return None


def test_an_environment_of_conda_pack(tmp_path_factory, tmp_path):
    """A conda environment with its own Python, as far as one can be made without conda."""
    python = other_python()
    base = Path(run_in(python, "import json, sys; print(json.dumps(sys.base_prefix))"))
    version = version_of(python)
    standard = base / "lib" / f"python{version}"
    if base == Path("/usr") or not standard.is_dir():
        pytest.skip("the Python at hand is the system's, which cannot be copied")
    place = tmp_path_factory.mktemp("conda")
    root = place / "env"
    (root / "bin").mkdir(parents=True)
    (root / "conda-meta").mkdir()
    (root / "conda-meta" / "history").touch()
    shutil.copy(base / "bin" / f"python{version}", root / "bin")
    for name in ("python", "python3"):
        (root / "bin" / name).symlink_to(f"python{version}")
    ignored = shutil.ignore_patterns("test", "config-*", "__pycache__", "idlelib", "tkinter", "turtledemo")
    shutil.copytree(standard, root / "lib" / standard.name, ignore=ignored)
    for library in (base / "lib").glob("libpython*.so*"):
        shutil.copy(library, root / "lib", follow_symlinks=False)
    tools = place / "tools"
    try:
        pip_venv(tools, sys.executable, "conda-pack", "setuptools<81")
    except subprocess.CalledProcessError:
        pytest.skip("pip cannot install packages here")
    command = [tools / "bin/conda-pack", "-q", "-p", root, "-o", place / "env.tar.gz", "--ignore-missing-files"]
    subprocess.run([*command, "--compress-level", "1"], check=True, timeout=200, env=clean())
    _tell(tmp_path, "conda", environment_tarball=str(place / "env.tar.gz"))
    shutil.rmtree(root)
    with serving(tmp_path) as server:
        told = _ask(server, "conda")
        assert told[0] == version and told[5].startswith(f"{tmp_path}/.envs/environment-")
        assert server.stop() == 0


def test_an_environment_by_path_beside_the_model_stays_as_it_was(tmp_path):
    place = _tell(tmp_path, "there", environment_path="./env")
    bare_venv(place / "env")
    before = sorted(str(path) for path in (place / "env").rglob("*") if "__pycache__" not in str(path))
    with serving(tmp_path) as server:
        told = _ask(server, "there")
        assert told[5] == str(place / "env")
        # The model's folder holds the environment, and yet only models.py is the model's own.
        assert httpx.post(f"{server.rest}/v2/repository/models/there/load", timeout=60).status_code == 200
        assert _ask(server, "there")[:4] == told[:4]
        assert server.stop() == 0
    assert sorted(str(path) for path in (place / "env").rglob("*") if "__pycache__" not in str(path)) == before


def test_broken_environments_fail_their_models_only_and_say_why(tmp_path):
    _tell(tmp_path, "good")
    bad = {
        "truncated": None,
        "evil": [("bin/python", b""), ("../evil", b"evil")],
        "escape": [link("lib/out", "/etc"), ("lib/out/passwd-evil", b"evil")],
        "foreign": [("bin/python", b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x16\x00" + bytes(44))],
        "empty": [("readme.txt", b"")],
        "old": [("bin/python", b"#!/bin/sh\necho '{\"version\": [3, 8, 18]}'\n")],
    }
    for name, members in bad.items():
        place = _tell(tmp_path, name, environment_tarball="env.tar.gz")
        if members is not None:
            archive_of(place / "env.tar.gz", *members)
        else:
            archive_of(place / "env.tar.gz", ("bin/python", bytes(range(256)) * 1000))
            data = (place / "env.tar.gz").read_bytes()
            (place / "env.tar.gz").write_bytes(data[: len(data) // 2])
    _tell(tmp_path, "missing", environment_tarball="no-such.tar.gz")
    with serving(tmp_path) as server:
        assert _ask(server, "good")[0] == HERE
        index = _index(server)
        for name, words in {
            "truncated": "is broken or incomplete",
            "evil": "'../evil' would be written outside of its folder",
            "escape": "'lib/out/passwd-evil' would be written through a link",
            "foreign": "is a program for Linux s390x, and this machine is Linux",
            "empty": "has no bin/python",
            "old": "has Python 3.8.18; mlserve's workers need 3.10 or newer",
            "missing": "no-such.tar.gz is not there",
        }.items():
            assert index[name]["state"] == "UNAVAILABLE" and words in index[name]["reason"], index[name]
            assert words in server.output
            answer = httpx.post(f"{server.rest}/v2/repository/models/{name}/load", timeout=60)
            assert answer.status_code >= 400 and words in answer.json()["error"]
        assert not (tmp_path / ".envs" / "evil").exists()
        assert all(
            folder.with_name(f"{folder.name}.complete").exists()
            for folder in (tmp_path / ".envs").glob("environment-*")
            if folder.is_dir()
        )
        assert _ask(server, "good")[0] == HERE
        assert server.stop() == 0


def test_a_reload_after_the_archive_changed_takes_the_new_one_without_a_failed_call(tmp_path):
    place = _tell(tmp_path, "there", environment_tarball="env.tar.gz")
    bare_venv(tmp_path / "work")
    pack(tmp_path / "work", place / "env.tar.gz")
    with serving(tmp_path) as server:
        before = _ask(server, "there")
        (tmp_path / "work" / "new.txt").write_text("new")
        pack(tmp_path / "work", place / "env.tar.gz")
        stop, prefixes, errors = threading.Event(), set(), []

        def load():
            while not stop.is_set():
                try:
                    prefixes.add(_ask(server, "there")[5])
                except Exception as error:
                    errors.append(error)

        thread = threading.Thread(target=load)
        thread.start()
        try:
            answer = httpx.post(f"{server.rest}/v2/repository/models/there/load", timeout=60)
            assert answer.status_code == 200, answer.text
            after = _ask(server, "there")
        finally:
            stop.set()
            thread.join()
        assert not errors
        assert after[5] != before[5] and Path(after[5], "new.txt").exists()
        end = time.monotonic() + 60
        while len(server.workers) != 2:
            assert time.monotonic() < end, "the old environment's pool does not end"
            time.sleep(0.05)
        (place / "env.tar.gz").write_bytes(b"broken")
        answer = httpx.post(f"{server.rest}/v2/repository/models/there/load", timeout=60)
        assert answer.status_code >= 400 and "broken or incomplete" in answer.json()["error"]
        assert _ask(server, "there") == after, "what was there serves on"
        assert server.stop() == 0


def test_two_servers_that_start_at_the_same_time_unpack_once(tmp_path):
    bare_venv(tmp_path / "work")
    archive = pack(tmp_path / "work", tmp_path / "env.tar.gz")
    (tmp_path / "models").mkdir()
    for name in ("one", "two"):
        _tell(tmp_path / "models", name, environment_tarball=str(archive))
    env = {"MLSERVER_ENVIRONMENTS_DIR": str(tmp_path / "envs")}
    with serving(tmp_path / "models", env=env) as first, serving(tmp_path / "models", env=env) as second:
        for server in (first, second):
            assert _ask(server, "one")[5] == _ask(server, "two")[5]
        assert (first.output + second.output).count("unpacking") == 1


def test_devices_are_seen_by_the_models_module_when_it_is_imported(tmp_path):
    place = _tell(tmp_path, "device")
    text = json.loads((place / "model-settings.json").read_text()) | {"devices": [3, "GPU-5f"]}
    (place / "model-settings.json").write_text(json.dumps(text))
    with serving(tmp_path) as server:
        seen = {tuple(_ask(server, "device")[3:5]) for _ in range(3)}
        assert {device for device, _ in seen} <= {"3", "GPU-5f"}
        assert "2 in pool model device - of 2 on 3 GPU-5f" in server.output


def test_a_thousand_calls_over_rest_while_workers_are_exchanged(tmp_path):
    place = _tell(tmp_path, "worn")
    text = json.loads((place / "model-settings.json").read_text()) | {"recycle_after_requests": 50}
    (place / "model-settings.json").write_text(json.dumps(text))
    with serving(tmp_path) as server:
        pids, errors, lock = [], [], threading.Lock()

        def load():
            with httpx.Client(timeout=60) as client:
                body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
                while len(pids) < 1000 or (len(set(pids)) < 3 and len(pids) < 20_000):
                    answer = client.post(f"{server.rest}/v2/models/worn/infer", json=body)
                    with lock:
                        if answer.status_code == 200:
                            pids.append(answer.json()["outputs"][0]["data"][4])
                        else:
                            errors.append(answer.text)

        threads = [threading.Thread(target=load) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert len(pids) >= 1000 and len(set(pids)) >= 3
        assert "a fresh one takes its seat" in server.output
        assert server.stop() == 0
