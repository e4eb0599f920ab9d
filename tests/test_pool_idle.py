"""A pool whose calls wait for what it cannot change does nothing meanwhile, on a virtual clock, with a scripted worker."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from mlserve import frames
from mlserve.batching import Rule
from mlserve.pool import Pool
from tests.engine import request
from tests.scripted import loads, scripted_pool

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def test_a_batch_that_waits_for_memory_past_its_time_does_not_keep_the_pool_looking():
    """While another model's call waits for company, for which the pool does look again."""
    sent: list[int] = []

    def script(frame: Any) -> Any:
        if isinstance(frame, frames.Infer):
            sent.append(frame.model)
            return frames.Waiting(frame.call)
        return loads(frame)

    async with scripted_pool(script) as (pool, _), anyio.create_task_group() as tasks:
        for model, seconds in ((1, 3.0), (2, 60.0)):
            await pool.load(frames.Load(model, b"{}", ""), Rule(calls=8, wait_seconds=seconds, eager=False))
        tasks.start_soon(pool.infer, 1, request([1.0]), "json")
        await anyio.wait_all_tasks_blocked()
        pool.crew.large_answers.add(1)
        pool._unsent.on_room = pool.go_on
        pool._unsent.limit_bytes = 10
        pool._unsent.hold(11)
        looks = _count_looks(pool)
        tasks.start_soon(pool.infer, 2, request([1.0]), "json")
        await anyio.sleep(59.0)
        assert sent == [] and len(looks) < 10
        await anyio.sleep(2.0)
        assert sent == [2]
        pool._unsent.give(11)
        await anyio.sleep(1.0)
        assert sent == [2, 1]
        tasks.cancel_scope.cancel()


def _count_looks(pool: Pool) -> list[float]:
    looks: list[float] = []
    dispatch = pool._dispatch

    def noted() -> None:
        looks.append(anyio.current_time())
        assert len(looks) < 100, "it looks for calls all the time"
        dispatch()

    pool._dispatch = noted
    return looks
