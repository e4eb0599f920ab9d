"""What notes when a coroutine gives way and goes on is otherwise the coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from mlserve.giving_way import noting

pytestmark = pytest.mark.anyio
NOTED: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_noted() -> None:
    NOTED.clear()


def watched(work: Awaitable[Any]) -> Awaitable[Any]:
    return noting(work, lambda awaits: NOTED.append("gave way" if awaits else "back"))


async def test_a_coroutine_that_never_gives_way_notes_its_end() -> None:
    async def at_once() -> int:
        return 5

    assert await watched(at_once()) == 5
    assert NOTED == ["gave way"], "at its end"


async def test_each_time_is_noted_before_anything_else_runs() -> None:
    async def twice() -> int:
        for _ in range(2):
            await anyio.sleep(0)
            NOTED.append("goes on")
        return 5

    async def neighbour() -> None:
        NOTED.append("neighbour")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(neighbour)
        assert await watched(twice()) == 5
    assert [one for one in NOTED if one != "neighbour"] == ["gave way", "back", "goes on"] * 2 + ["gave way"]
    assert NOTED[0] == "gave way" and "neighbour" in NOTED[1:]


@pytest.mark.parametrize("wait", [0, 1])
async def test_what_it_raises_is_raised(wait: int) -> None:
    async def failing() -> None:
        for _ in range(wait):
            await anyio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await watched(failing())


async def test_a_cancellation_reaches_it_and_may_be_answered() -> None:
    async def stubborn() -> str:
        try:
            await anyio.sleep_forever()
        except BaseException:
            NOTED.append("cancelled")
            raise
        return "never"

    with anyio.move_on_after(0.01):
        await watched(stubborn())
    assert NOTED == ["gave way", "back", "cancelled", "gave way"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_it_awaits_may_fail_and_be_caught_in_it() -> None:
    async def careful() -> str:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, KeyError("x"))
        try:
            await future
        except KeyError:
            await asyncio.sleep(0)
            return "caught"
        return "missed"

    assert await watched(careful()) == "caught"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_future_is_awaited_as_it_is() -> None:
    future = asyncio.get_running_loop().create_future()
    work = watched(future)
    assert NOTED == ["gave way"], "it does as soon as it is awaited"
    future.set_result(5)
    assert await work == 5
    assert await watched(future) == 5
    assert NOTED == ["gave way"], "what is done does not give way"


def test_closing_closes_it() -> None:
    class Pause:
        def __await__(self) -> Any:
            yield

    async def work() -> None:
        try:
            await Pause()
        finally:
            NOTED.append("closed")

    async def outer(make: Callable[[], Awaitable[None]]) -> None:
        await watched(make())

    running = outer(work)
    running.send(None)
    running.close()
    assert NOTED == ["gave way", "closed", "gave way"]
