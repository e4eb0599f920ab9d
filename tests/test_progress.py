"""What a pool and its worker tell each other through the memory that they share."""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Awaitable, Iterator
from typing import Any

import anyio
import pytest

from mlserve.progress import SIZE_BYTES, Progress


@pytest.fixture
def ends():
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    return Progress(memory), Progress(memory)


def test_the_pool_sees_what_has_begun(ends):
    pool, worker = ends
    assert pool.begun == 0
    for call in (1, 2, 300, 2**40):
        assert worker.begin(call)
        assert pool.begun == call


def test_a_call_that_was_taken_back_must_not_run_and_those_after_it_may(ends):
    pool, worker = ends
    assert worker.begin(3)
    pool.take_back(5)
    assert [worker.begin(call) for call in (4, 5)] == [False, False]
    assert pool.runs == 3
    assert worker.begin(6)
    assert (pool.begun, pool.runs) == (6, 6)


def test_calls_of_a_batch_that_has_begun_run_again_alone_whatever_is_taken_back(ends):
    pool, worker = ends
    assert worker.begin(4)
    pool.take_back(9)
    assert worker.begin(2) and pool.runs == 2
    assert worker.begin(4) and pool.runs == 4
    assert pool.begun == 4


def test_what_was_said_last_stays_when_the_memory_is_gone():
    memory = bytearray(SIZE_BYTES)
    pool = Progress(memory)
    Progress(memory).begin(7)
    pool.close()
    memory.clear()  # nobody holds it any more
    assert (pool.begun, pool.runs) == (7, 7)


def watched(ends: tuple[Progress, Progress], work: Awaitable[Any]) -> Awaitable[Any]:
    """Work of call 5."""
    return ends[1].noting(5, work)


@pytest.mark.anyio
async def test_work_is_its_calls_whenever_it_goes_on_and_nobodys_while_it_awaits(ends):
    pool, _ = ends
    seen: list[tuple[str, int]] = []

    async def twice() -> int:
        for _ in range(2):
            seen.append(("before", pool.runs))
            await anyio.sleep(0)
        seen.append(("after", pool.runs))
        return 5

    async def neighbour() -> None:
        seen.append(("neighbour", pool.runs))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(neighbour)
        assert await watched(ends, twice()) == 5
    assert pool.runs == 5, "what follows its last step is still the call's"
    assert ("neighbour", 0) in seen
    assert [one for one in seen if one[0] != "neighbour"] == [("before", 5), ("before", 5), ("after", 5)]


@pytest.mark.anyio
@pytest.mark.parametrize("wait", [0, 1])
async def test_what_work_raises_is_raised(ends, wait):
    async def failing() -> None:
        for _ in range(wait):
            await anyio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await watched(ends, failing())


@pytest.mark.anyio
async def test_a_cancellation_reaches_the_work_as_its_calls(ends):
    seen = []

    async def stubborn() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            seen.append(ends[0].runs)

    with anyio.move_on_after(0.01):
        await watched(ends, stubborn())
    assert seen == [5]


async def _caught() -> str:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_exception, KeyError("x"))
    try:
        await future
    except KeyError:
        await asyncio.sleep(0)
        return "caught"
    return "missed"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_work_awaits_may_fail_and_be_caught_in_it(ends):
    assert await watched(ends, _caught()) == "caught"


class _Custom:
    """Something to await that is no coroutine."""

    def __await__(self) -> Iterator[None]:
        yield
        return "custom"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_whatever_can_be_awaited_is_noted(ends):
    pool, _ = ends
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(lambda: future.set_result(pool.runs))
    assert await watched(ends, future) == 0, "nobody's"
    assert await watched(ends, future) == 0, "which is done, and does not give way"
    assert await watched(ends, _Custom()) == "custom"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 0)
        assert await watched(ends, asyncio.gather(_caught(), _caught())) == ["caught", "caught"]


def test_closing_the_work_closes_what_it_awaits(ends):
    closed = []

    class Pause:
        def __await__(self) -> Iterator[None]:
            yield

    async def work() -> None:
        try:
            await Pause()
        finally:
            closed.append(True)

    async def outer() -> None:
        await watched(ends, work())

    running = outer()
    running.send(None)
    running.close()
    assert closed == [True]
