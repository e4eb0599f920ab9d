"""Everything in a pool that takes time, on a virtual clock, with a scripted worker: pauses, limits, deadlines, batches."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from mlserve import frames
from mlserve.arena import Arena
from mlserve.batching import Rule
from mlserve.bounds import Bounds
from mlserve.errors import DeadlineExceeded, NoWorker, WorkerDied
from mlserve.eventloop import watch
from mlserve.frames import Channel, ToPool, ToWorker
from mlserve.launch import ProcessLauncher
from mlserve.pool import Pool
from tests.engine import Observed, request

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Scripted(ProcessLauncher):
    """Starts workers that are tasks of the test: `script(frame)` gives what to answer with, None to say nothing."""

    def __init__(self, tasks: anyio.abc.TaskGroup, script: Callable[[Any], Any]) -> None:
        self.tasks = tasks
        self.script = script
        self.started_at: list[float] = []
        self.dies_at_once = False
        self.workers: list[_Worker] = []

    def start(self, place: int = 0) -> Any:
        worker = _Worker(self)
        self.workers.append(worker)
        self.started_at.append(anyio.current_time())
        self.tasks.start_soon(worker.run)
        return worker


class _Worker:
    def __init__(self, launcher: Scripted) -> None:
        ours, theirs = socket.socketpair()
        self.pid = 1000 + len(launcher.workers)
        self.progress = bytearray(8)
        self.channel = Channel(ours, ToPool)
        self.killed_at: float | None = None
        self._there = Channel(theirs, ToWorker)
        self._launcher = launcher
        self._ended = anyio.Event()

    async def run(self) -> None:
        if self._launcher.dies_at_once:
            self._ended.set()
            return
        self._there.send(frames.Hello(self.pid, "3"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, self._there.sock, self._on_readable)
            await self._ended.wait()
            tasks.cancel_scope.cancel()

    def _on_readable(self) -> bool:
        for frame in self._there.receive():
            if isinstance(frame, frames.Stop):
                self._ended.set()
            answer = self._launcher.script(frame)
            if answer is not None:
                self._there.send(answer)
        return True

    async def wait(self) -> str:
        await self._ended.wait()
        return "ended"

    def kill(self) -> None:
        if not self._ended.is_set():
            self.killed_at = anyio.current_time()
            self._ended.set()

    def close(self) -> None:
        self.channel.close()
        self._there.close()


def _loads(frame: Any) -> Any:
    if isinstance(frame, frames.Load):
        return frames.Loaded(frame.model, True, b"{}", b"{}")
    return frames.Unloaded(frame.model) if isinstance(frame, frames.Unload) else None


@asynccontextmanager
async def _pool(script: Callable[[Any], Any] = _loads):
    async with anyio.create_task_group() as tasks:
        launcher = Scripted(tasks, script)
        pool = Pool("test", 1, launcher, Arena(1 << 24), Observed())
        await tasks.start(pool.run)
        yield pool, launcher
        await pool.stop(1.0)


async def _load(pool: Pool, rule: Rule | None = None, bounds: Bounds | None = None) -> None:
    await pool.load(frames.Load(1, b"{}", ""), rule, bounds)


async def test_the_pauses_between_starts_grow_until_a_worker_comes_up():
    async with _pool() as (_, launcher):
        launcher.dies_at_once = True
        launcher.workers[0].kill()
        await anyio.sleep(100.0)
        first = launcher.started_at[1]
        assert [at - first for at in launcher.started_at[1:8]] == pytest.approx([0, 0.5, 1.5, 3.5, 8.5, 18.5, 48.5])


async def test_calls_wait_through_short_restarts_and_fail_when_no_worker_comes_up():
    async with _pool() as (pool, launcher):
        await _load(pool)
        launcher.dies_at_once = True
        launcher.workers[0].kill()
        started = anyio.current_time()
        with pytest.raises(NoWorker, match="again and again"):
            await pool.infer(1, request([1.0]), "json")
        assert 0.5 < anyio.current_time() - started < 10.0


async def test_a_silent_worker_is_replaced_exactly_when_its_time_is_over():
    async with _pool() as (pool, launcher):
        await _load(pool, bounds=Bounds(hard_timeout_seconds=60.0))
        with anyio.move_on_after(5.0):
            await pool.infer(1, request([1.0]), "json")
        given_up = anyio.current_time()
        await anyio.sleep(59.0)
        assert launcher.workers[0].killed_at is None
        await anyio.sleep(2.0)
        assert launcher.workers[0].killed_at == pytest.approx(given_up + 60.0)
        assert len(launcher.workers) == 2 and not pool.why_not(1)


async def test_a_worker_that_says_something_after_a_call_was_given_up_is_not_stuck():
    async with _pool() as (pool, launcher):
        await _load(pool, bounds=Bounds(hard_timeout_seconds=60.0))
        with anyio.move_on_after(5.0):
            await pool.infer(1, request([1.0]), "json")
        await anyio.sleep(1.0)
        launcher.workers[0]._there.send(frames.Freed([]))
        await anyio.sleep(1000.0)
        assert launcher.workers[0].killed_at is None


async def test_a_worker_is_not_stuck_while_one_of_its_batch_is_waited_for():
    async with _pool() as (pool, launcher), anyio.create_task_group() as callers:
        await _load(pool, Rule(2, 1.0, eager=False), Bounds(hard_timeout_seconds=60.0))
        leaves, stays = anyio.CancelScope(), anyio.CancelScope()

        async def ask(scope: anyio.CancelScope) -> None:
            with scope:
                await pool.infer(1, request([1.0]), "json")

        callers.start_soon(ask, leaves)
        callers.start_soon(ask, stays)
        await anyio.sleep(5.0)
        (worker,) = launcher.workers
        worker.progress[0] = 2  # both have begun
        leaves.cancel()
        await anyio.sleep(1000.0)
        assert worker.killed_at is None
        given_up = anyio.current_time()
        stays.cancel()
        await anyio.sleep(100.0)
        assert worker.killed_at is not None
        assert worker.killed_at - given_up < 70.0


async def test_a_silent_worker_whose_loop_turns_is_not_stuck():
    """Its calls may wait for their clients, and have nothing to say."""
    asked = []

    def script(frame: Any) -> Any:
        if isinstance(frame, frames.Ping):
            asked.append(anyio.current_time())
            return frames.Pong()
        return _loads(frame)

    async with _pool(script) as (pool, launcher):
        await _load(pool, bounds=Bounds(hard_timeout_seconds=60.0))
        with anyio.move_on_after(5.0):
            await pool.infer(1, request([1.0]), "json")
        await anyio.sleep(1000.0)
        assert len(asked) == 1
        assert launcher.workers[0].killed_at is None


async def test_a_load_that_takes_too_long_ends_its_worker_when_its_time_is_over():
    async with _pool(lambda frame: None) as (pool, launcher):
        started = anyio.current_time()
        with pytest.raises(Exception, match="load_timeout_seconds"):
            await _load(pool, bounds=Bounds(load_timeout_seconds=1800.0))
        assert anyio.current_time() - started == pytest.approx(1800.0)
        assert launcher.workers[0].killed_at is not None


async def test_a_model_that_cannot_be_loaded_again_is_tried_after_pauses_that_double():
    answers = {"fail": False}

    def script(frame: Any) -> Any:
        if isinstance(frame, frames.Load) and answers["fail"]:
            return frames.LoadFailed(frame.model, "no such artifact", 500, "")
        return _loads(frame)

    async with _pool(script) as (pool, launcher):
        await _load(pool)
        answers["fail"] = True
        launcher.workers[0].kill()
        await anyio.sleep(1.0)
        assert "no such artifact" in pool.why_not(1)
        await anyio.sleep(100.0)
        tries = launcher.started_at[2:]
        assert [after - before for before, after in pairwise(tries)] == pytest.approx([20.0, 40.0])
        answers["fail"] = False
        await anyio.sleep(100.0)
        assert not pool.why_not(1)


async def test_a_call_whose_time_is_over_in_the_queue_does_not_reach_the_worker():
    seen = []

    def script(frame: Any) -> Any:
        if isinstance(frame, frames.Infer):
            seen.append(frame.request.id)
        return _loads(frame)

    async with _pool(script) as (pool, launcher):
        await _load(pool)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_fails, pool, request([1.0], id="first"), 100.0, WorkerDied)
            await anyio.sleep(1.0)
            tasks.start_soon(_fails, pool, request([1.0], id="late"), 3.0, DeadlineExceeded)
            await anyio.sleep(10.0)
            launcher.workers[0].progress[0] = 1
            launcher.workers[0].kill()
        await anyio.sleep(1.0)
        assert seen == ["first"]


async def _fails(pool: Pool, one: Any, seconds: float, error: type[Exception]) -> None:
    """As the data plane does it, but without the scope that would take the call away before the pool looks at it."""
    with pytest.raises(error):
        await pool.infer(1, one, "json", timeout=seconds)


async def test_a_patient_batch_goes_when_its_time_is_over_and_not_before():
    sent: list[tuple[float, int]] = []

    def script(frame: Any) -> Any:
        if isinstance(frame, frames.Batch):
            sent.append((anyio.current_time(), len(frame.calls)))
        return _loads(frame)

    async with _pool(script) as (pool, _):
        await _load(pool, Rule(calls=8, wait_seconds=3.0, eager=False))
        async with anyio.create_task_group() as tasks:
            started = anyio.current_time()
            for n in range(3):
                tasks.start_soon(pool.infer, 1, request([float(n)]), "json")
                await anyio.sleep(0.5)
            await anyio.sleep(5.0)
            assert sent == [(pytest.approx(started + 3.0), 3)]
            tasks.cancel_scope.cancel()
