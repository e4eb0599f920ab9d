"""Loads, unloads, calls, streams and cancellations in random orders: right answers or a documented error, no leak."""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import aclosing, asynccontextmanager

import anyio
import pytest

from mlserve.dataplane import DataPlane
from mlserve.errors import MLServeError, ModelNotFound
from mlserve.eventloop import on_asyncio
from mlserve.metrics import Metrics
from mlserve.models import Models
from mlserve.pools import Pools
from mlserve.repository import ModelRepository
from mlserve.settings import Settings
from tests.engine import MODELS, request, until, values
from tests.serving import write_model

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
NAMES = ("double", "batched", "asyncdouble", "sleeper")


@asynccontextmanager
async def _plane(folder, workers=0):
    """All of a server but its transports."""
    settings = Settings(parallel_workers=workers)
    metrics = Metrics()
    pools = Pools(settings, metrics)
    models = Models(ModelRepository(folder), pools, settings)
    async with anyio.create_task_group() as tasks:
        await tasks.start(pools.run)
        await tasks.start(models.run)
        await models.load_all(await models.expect_all())
        yield DataPlane(settings, models, metrics), models, pools
        models.stop()
        await pools.stop(3.0)


def _write(folder):
    kinds = {"double": "Double", "batched": "Double", "asyncdouble": "AsyncDouble", "sleeper": "Sleeper"}
    for name, kind in kinds.items():
        batching = {"max_batch_size": 8, "max_batch_time": 0.01} if name == "batched" else {}
        (write_model(folder, name, f"models.{kind}", **batching) / "models.py").write_text(MODELS)


def _task_count() -> int:
    if on_asyncio():
        import asyncio

        return len(asyncio.all_tasks())
    import trio

    return trio.lowlevel.current_statistics().tasks_living


async def test_calls_race_with_loads_and_unloads_in_random_orders(tmp_path):
    seed = time.time_ns() % 1_000_000
    print(f"seed {seed}")
    _write(tmp_path)
    chance = random.Random(seed)
    outcomes: Counter[str] = Counter()
    async with _plane(tmp_path) as (plane, models, pools):
        await plane.infer(request([1.0]), "double", form="raw")
        await anyio.sleep(0.05)
        tasks_before = _task_count()

        async def one(number: int) -> None:
            name, value = chance.choice(NAMES), float(number % 50) / 1000
            size = chance.choice((1, 3, 20_000))
            expected = [value] * size if name == "sleeper" else [value * 2] * size
            try:
                action = chance.random()
                if action < 0.08:
                    await models.load(name)
                elif action < 0.12:
                    await models.unload(name)
                elif action < 0.3:
                    with anyio.move_on_after(chance.random() * 0.02):
                        await plane.infer(request([value] * size), name, form="raw")
                elif action < 0.4:
                    await stream(value)
                else:
                    answer = await plane.infer(request([value] * size, id=str(number)), name, form="raw")
                    assert answer.id == str(number)
                    assert values(answer) == pytest.approx(expected), f"{name} {number}: a wrong row"
                outcomes["fine"] += 1
            except ModelNotFound:
                outcomes["unloaded"] += 1
            except MLServeError as error:
                outcomes[f"{type(error).__name__}: {error.message[:60]}"] += 1

        async def stream(value: float) -> None:
            async def requests():
                yield request([value], parameters={"chunks": 5})

            async with aclosing(plane.infer_stream(requests(), "double", form="raw")) as answers:
                async for chunks in answers:
                    if chance.random() < 0.2:
                        return
                    assert all(len(values(chunk)) == 1 for chunk in chunks)

        with anyio.fail_after(60):
            for number in range(0, 450, 30):
                for name in NAMES:  # else how many calls find their model is up to chance
                    await models.load(name)
                async with anyio.create_task_group() as tasks:
                    for n in range(number, number + 30):
                        tasks.start_soon(one, n)
            for name in NAMES:
                await models.load(name)
                assert values(await plane.infer(request([2.0] if name != "sleeper" else [0.0]), name)) in ([4.0], [0.0])
        await until(lambda: all(not pool.waiting_count and not pool.running_count for pool in pools))
        assert plane.in_flight == 0
        await until(lambda: _task_count() <= tasks_before)
        for name in NAMES:
            await models.unload(name)
        assert all(not pool._lines and not pool.crew._models and not pool.crew._bounds for pool in pools)
        assert all(not link.running and not link.awaiting for pool in pools for link in pool.crew.links)
    print(outcomes)
    assert set(outcomes) <= {"fine", "unloaded"}, outcomes
    assert outcomes["fine"] > 100
    assert pools.arena.total_bytes == 0
