"""How many cores there are for this process, and that the workers of a pool do not take more threads than that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from mlserve.cores import thread_variables, usable_cores
from mlserve.environments import Environment
from mlserve.launch import ProcessLauncher
from mlserve.thread_limits import threads_of_process
from tests.engine import load, request, running_pool, values, write_models

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _system(place: Path, membership: str, files: dict[str, str]) -> int:
    """The usable cores on a system whose /proc/self/cgroup and /sys/fs/cgroup look so."""
    (place / "proc/self").mkdir(parents=True)
    (place / "proc/self/cgroup").write_text(membership)
    for name, text in files.items():
        (place / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "groups" / name).write_text(text)
    return usable_cores(place / "proc", place / "groups")


V1 = "3:memory:/a/b\n2:cpu,cpuacct:/a/b\n1:name=systemd:/a/b\n"


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),  # a container with a cgroup namespace
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "101000 100000\n"}, 2),  # a part of a core counts as one
        ("0::/\n", {"cpu.max": "max 100000\n"}, CORES),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "100000 100000\n"}, 1),
        ("0::/a/b\n", {"cpu.max": "100000 100000\n"}, 1),  # the host's path, of which a container sees the last part
        ("0::/a\n1:cpu:/\n", {"unified/a/cpu.max": "10000 10000\n"}, 1),  # hybrid
        (V1, {"cpu,cpuacct/a/b/cpu.cfs_quota_us": "90000\n", "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n"}, 1),
        (V1, {"cpu/cpu.cfs_quota_us": "90000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "-1\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"}, CORES),
        ("0::/\n", {"cpu.max": "not what the kernel writes\n"}, CORES),
        ("nonsense\n", {}, CORES),
    ],
)
def test_a_quota_of_a_cgroup_counts(tmp_path, membership, files, cores):
    assert _system(tmp_path, membership, files) == min(cores, CORES)


def test_without_cgroups_the_cores_are_those_of_the_affinity(tmp_path):
    assert usable_cores(tmp_path, tmp_path) == CORES
    if hasattr(os, "sched_setaffinity"):
        script = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); " + (
            "from mlserve.cores import usable_cores; print(usable_cores())"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("workers", "cores", "machine", "share"),
    [(2, 8, 8, "4"), (3, 8, 8, "2"), (16, 8, 8, "1"), (1, 2, 64, "2"), (4, 2, 64, "1"), (1, 8, 8, None)],
)
def test_workers_share_the_cores_and_one_that_has_the_whole_machine_is_left_alone(workers, cores, machine, share):
    found = thread_variables({}, workers, cores, machine)
    assert set(found.values()) == ({share} if share else set())
    assert found.get("OMP_NUM_THREADS") == found.get("LOKY_MAX_CPU_COUNT") == share


def test_a_variable_that_is_set_stays():
    found = thread_variables({"OMP_NUM_THREADS": "6", "RAYON_NUM_THREADS": ""}, 2, 8, 8)
    assert "OMP_NUM_THREADS" not in found and found["RAYON_NUM_THREADS"] == "4"


@pytest.mark.parametrize(
    ("text", "threads"), [("3", 3), ("4,2", 4), (" 2 ", 2), ("", None), ("0", None), ("all", None), (None, None)]
)
def test_frameworks_with_a_parameter_of_their_own_get_the_number_of_the_process(monkeypatch, text, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if text is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert threads_of_process() == threads


LIBRARIES = """
import joblib
import numpy as np
import sklearn.ensemble  # brings OpenMP
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads
from threadpoolctl import threadpool_info

from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput


class Tell(MLModel):
    async def predict(self, request):
        pools = max(one["num_threads"] for one in threadpool_info())
        data = [pools, _openmp_effective_n_threads(), joblib.effective_n_jobs(-1)]
        output = ResponseOutput(name="threads", shape=[3], datatype="FP32", data=data)
        return InferenceResponse(model_name=self.name, outputs=[output])
"""
ENVIRONMENT = """
import os

from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput


class Tell(MLModel):
    async def predict(self, request):
        output = ResponseOutput(name="set", shape=[1], datatype="BOOL", data=["OMP_NUM_THREADS" in os.environ])
        return InferenceResponse(model_name=self.name, outputs=[output])
"""


async def _threads(folder: Path, workers: int) -> list[float]:
    async with running_pool(workers) as (pool, _):
        await load(pool, 1, "Tell", folder)
        return values(await pool.infer(1, request([0.0]), "raw"))


@pytest.mark.anyio
@pytest.mark.slow
async def test_libraries_of_two_workers_start_as_many_threads_as_there_are_cores(tmp_path, monkeypatch):
    folder = write_models(tmp_path, LIBRARIES)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert await _threads(folder, 2) == [max(1, usable_cores() // 2)] * 3


@pytest.mark.anyio
async def test_a_worker_in_a_thread_leaves_the_process_as_it_is(tmp_path, monkeypatch):
    folder = write_models(tmp_path, ENVIRONMENT)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert await _threads(folder, 0) == [False]


@pytest.mark.anyio
async def test_workers_in_an_environment_of_their_own_share_too(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$OMP_NUM_THREADS" > {tmp_path}/seen\n')
    python.chmod(0o755)
    environment = Environment("env", str(python), str(tmp_path), {"OMP_NUM_THREADS": "", "PATH": os.environ["PATH"]})
    workers = 2 * (os.cpu_count() or 1)
    worker = ProcessLauncher(b"{}", environment, (), workers).start()
    with anyio.fail_after(60):
        await worker.wait()
    worker.close()
    assert (tmp_path / "seen").read_text() == ("1\n" if (os.cpu_count() or 1) > 1 else "\n")
