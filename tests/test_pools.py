"""Which pool a model lives in, and which device its workers see."""

from __future__ import annotations

import os

import anyio
import pytest

from mlserve.environments import Environment
from mlserve.errors import ModelLoadError
from mlserve.launch import ProcessLauncher, visible_device
from mlserve.metrics import Metrics
from mlserve.pools import Pools, place_of
from mlserve.settings import ModelParameters, ModelSettings, Settings
from tests.engine import load, request, running_pool, values, write_models

ENVIRONMENT = Environment("env.tar.gz (1a2b3c4d)", "/env/bin/python", "/overlay", {})


def _place(workers=2, environment=None, parameters=None, **settings):
    made = ModelSettings(name="m", implementation="x.Y", parameters=ModelParameters(**(parameters or {})), **settings)
    return place_of(made, workers, environment)


@pytest.mark.parametrize(
    ("settings", "name", "workers"),
    [
        ({}, "default", 2),
        ({"workers": 0}, "default", 0),
        ({"parallel_workers": 3}, "model m - of 3", 3),
        ({"parallel_workers": 0}, "model m - of 0", 0),
        ({"parallel_workers": 3, "parameters": {"version": "7"}}, "model m 7 of 3", 3),
        ({"parameters": {"autogenerate_inference_pool_gid": True}}, "model m - of 2", 2),
        ({"parameters": {"inference_pool_gid": "g"}}, "group g of 2", 2),
        ({"parameters": {"inference_pool_gid": "g"}, "workers": 0}, "group g of 1", 1),
        ({"parameters": {"inference_pool_gid": "g"}, "parallel_workers": 4}, "group g of 4", 4),
        ({"environment": ENVIRONMENT}, "environment env.tar.gz (1a2b3c4d)", 2),
        ({"environment": ENVIRONMENT, "workers": 0}, "environment env.tar.gz (1a2b3c4d)", 1),
        (
            {"environment": ENVIRONMENT, "parameters": {"inference_pool_gid": "g"}},
            "group g of 2 in environment env.tar.gz (1a2b3c4d)",
            2,
        ),
        (
            {"environment": ENVIRONMENT, "parallel_workers": 0},
            "model m - of 1 in environment env.tar.gz (1a2b3c4d)",
            1,
        ),
        ({"devices": [0, 1, 2]}, "model m - of 3 on 0 1 2", 3),
        ({"devices": ["GPU-5f", 1], "parallel_workers": 4}, "model m - of 4 on GPU-5f 1", 4),
        ({"devices": [0], "workers": 0, "parallel_workers": 0}, "model m - of 1 on 0", 1),
        ({"recycle_after_requests": 50, "workers": 0}, "model m - of 1 recycled after 50 calls", 1),
        (
            {"recycle_after_requests": 50, "recycle_above_bytes": 10**9},
            "model m - of 2 recycled after 50 calls or 1000000000 bytes",
            2,
        ),
    ],
)
def test_a_models_settings_say_where_it_lives(settings, name, workers):
    place = _place(**settings)
    assert (place.name, place.workers) == (name, workers)


def test_a_device_that_no_driver_knows_is_explained():
    with pytest.raises(
        ModelLoadError, match=r"devices: 'cuda:1' is not what drivers know; give its number \('cuda:1' may be 1\)"
    ):
        _place(devices=["cuda:1"])


@pytest.mark.parametrize(
    ("device", "numbered"), [(0, True), ("1", True), ("2,3", True), ("GPU-5f", False), ("MIG-5f", False), ("-1", False)]
)
def test_a_device_is_made_visible_to_the_libraries_that_know_its_kind_of_name(device, numbered):
    variables = {"CUDA_VISIBLE_DEVICES": str(device), "HIP_VISIBLE_DEVICES": str(device)}
    assert visible_device(device) == variables | ({"ZE_AFFINITY_MASK": str(device)} if numbered else {})


DEVICES = """
import os

SEEN = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("ZE_AFFINITY_MASK")  # as it is at the import

import anyio
import numpy as np
from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput


class Tell(MLModel):
    async def predict(self, request):
        await anyio.sleep(0.05)  # so that the other worker gets the other call
        assert SEEN[0] == SEEN[1]
        return InferenceResponse(
            model_name=self.name,
            outputs=[ResponseOutput(name="device", shape=[1], datatype="FP32", data=[float(SEEN[0])])],
        )
"""


@pytest.mark.anyio
async def test_each_worker_sees_its_device_when_it_imports_the_model_and_a_restarted_one_the_same(tmp_path):
    folder = write_models(tmp_path, DEVICES)
    async with running_pool(3, devices=(4, 5)) as (pool, _):
        await load(pool, 1, "Tell", folder)
        seen = []

        async def ask():
            seen.append(values(await pool.infer(1, request([0.0]), "raw"))[0])

        async with anyio.create_task_group() as tasks:
            for _ in range(12):
                tasks.start_soon(ask)
        assert set(seen) == {4.0, 5.0}


@pytest.mark.anyio
async def test_models_of_a_group_share_a_pool_that_ends_with_the_last_of_them(tmp_path):
    pools = Pools(Settings(parallel_workers=0, environments_dir=str(tmp_path)), Metrics())
    first, second = (
        ModelSettings(name=name, implementation="x.Y", parameters=ModelParameters(inference_pool_gid="g"))
        for name in ("first", "second")
    )
    async with anyio.create_task_group() as tasks:
        await tasks.start(pools.run)
        pool = await pools.of(first)
        assert await pools.of(second) is pool
        assert [one.name for one in pools] == ["default", "group g of 1"]
        assert not pool.crew.in_process and len(pool.pids) == 1
        await pools.leave(pool)
        assert pool.pids
        await pools.leave(pool)
        assert not pool.pids
        assert [one.name for one in pools] == ["default"]
        await pools.stop(3.0)


@pytest.mark.anyio
async def test_a_python_that_is_gone_by_now_fails_the_load_and_leaks_nothing(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        ProcessLauncher(b"{}", Environment("gone", "/no/such/python", str(tmp_path), {})).start()
    assert len(os.listdir("/proc/self/fd")) <= before  # fewer where something of another test was collected


@pytest.mark.anyio
@pytest.mark.parametrize("workers", [1, 3])
async def test_a_pool_whose_workers_do_not_start_fails_the_load_and_nothing_else(tmp_path, workers):
    pools = Pools(Settings(parallel_workers=0), Metrics())
    broken = Environment("broken", "/bin/false", str(tmp_path), {})

    async def of_model(settings):
        return broken

    pools._environments.of_model = of_model
    async with anyio.create_task_group() as tasks:
        await tasks.start(pools.run)
        with pytest.raises(
            ModelLoadError, match=r"a worker of pool model m - of \d in environment broken .* ended with exit code 1"
        ):
            await pools.of(ModelSettings(name="m", implementation="x.Y", parallel_workers=workers))
        assert len(pools.arena.on_discard) == 1
        assert [one.name for one in pools] == ["default"]
        await pools.stop(3.0)
