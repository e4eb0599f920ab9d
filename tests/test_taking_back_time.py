"""When calls come back that wait in a worker behind a long one, and what if one begins at that very moment."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from trio.testing import MockClock

from mlserve import frames
from mlserve.layout import pack_response
from mlserve.types import InferenceResponse
from tests.engine import request
from tests.scripted import loads, scripted_pool

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class _Script:
    """Two workers; the one that gets the call "long" begins it, and then reads on without a word."""

    def __init__(self) -> None:
        self.launcher: Any = None
        self.held: Any = None
        self.seen: dict[str, frames.Infer] = {}  # by id: what the worker has that is held up
        self.answered: list[str] = []  # by the other worker

    def __call__(self, frame: Any) -> Any:
        if not isinstance(frame, frames.Infer):
            return loads(frame)
        worker = self.launcher.asked
        if frame.request.id == "long":
            self.held = worker
            worker.progress[0] = frame.call
        if worker is self.held:
            self.seen[frame.request.id] = frame
            return None
        self.answered.append(frame.request.id)
        worker.progress[0] = frame.call
        return reply(frame)


def reply(frame: frames.Infer) -> frames.Reply:
    response = pack_response(InferenceResponse(model_name="m", outputs=[]), [], lambda size: None)
    return frames.Reply(frame.call, response, 0.0001)


async def _settled() -> None:
    """Lets what was sent arrive, while virtual time stands still."""
    for _ in range(100):
        await anyio.lowlevel.checkpoint()


async def _held_up(pool: Any, script: _Script, tasks: anyio.abc.TaskGroup) -> None:
    """Both workers are fast; then one gets a long call and some behind it."""
    await pool.load(frames.Load(1, b"{}", ""))
    for n in range(10):
        async with anyio.create_task_group() as warm:
            for k in range(2):
                warm.start_soon(pool.infer, 1, request([1.0], id=f"warm-{n}-{k}"), "json")
    tasks.start_soon(pool.infer, 1, request([1.0], id="long"), "json")
    await _settled()
    for n in range(9):
        tasks.start_soon(pool.infer, 1, request([1.0], id=f"short-{n}"), "json")
    await _settled()


async def test_they_come_back_after_two_looks_and_no_new_ones_are_sent_behind_the_long_one():
    script = _Script()
    async with scripted_pool(script, 2) as (pool, launcher), anyio.create_task_group() as tasks:
        script.launcher = launcher
        await _held_up(pool, script, tasks)
        behind = [name for name in script.seen if name != "long"]
        assert len(behind) >= 3 and not set(behind) & set(script.answered)
        await anyio.sleep(0.06)
        await _settled()
        assert set(behind) <= set(script.answered)
        assert pool.running_count == 1
        for n in range(20):
            tasks.start_soon(pool.infer, 1, request([1.0], id=f"later-{n}"), "json")
        await _settled()
        await anyio.sleep(1.0)
        assert pool.running_count == 1 and len(script.seen) == len(behind) + 1, "the held-up worker got none of them"
        script.held.there.send(reply(script.seen["long"]))
        await _settled()
        held = next(link for link in pool.crew.links if link.pid == script.held.pid)
        assert held.window >= 1 and not pool.running_count


@pytest.mark.parametrize("ran", [True, False])
async def test_a_call_that_begins_while_it_is_taken_back_is_answered_once(ran):
    script = _Script()
    async with scripted_pool(script, 2) as (pool, launcher), anyio.create_task_group() as tasks:
        script.launcher = launcher
        await _held_up(pool, script, tasks)
        while not script.held.progress[8]:  # the number up to which calls are taken back
            await anyio.sleep(0.001)
        first = next(frame for name, frame in script.seen.items() if name != "long")
        script.held.progress[0] = first.call  # the worker comes to it at this very moment
        await anyio.sleep(0.01)
        await _settled()
        assert first.request.id not in script.answered, "it may have begun: nobody else gets it"
        assert pool.running_count == 2
        held, script.held = script.held, None  # it answers again
        for frame in (script.seen["long"], first):
            skipped = frame is first and not ran
            held.there.send(frames.Skipped(frame.call) if skipped else reply(frame))
        await _settled()
        assert not pool.running_count
        assert script.answered.count(first.request.id) == (0 if ran else 1)
