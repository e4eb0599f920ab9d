"""Everything in a pool that takes time, on a virtual clock, with a scripted worker: pauses, limits, deadlines, batches."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from mlserve import frames
from mlserve.batching import Rule
from mlserve.bounds import Bounds
from mlserve.channel import ChannelClosed
from mlserve.errors import DeadlineExceeded, MLServeError, ModelLoadError, NoWorker, WorkerDied
from mlserve.pool import Pool
from mlserve.progress import LOADING, Progress
from tests.engine import request
from tests.scripted import loads, scripted_pool

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def _load(pool: Pool, rule: Rule | None = None, bounds: Bounds | None = None) -> None:
    await pool.load(frames.Load(1, b"{}", ""), rule, bounds)


async def test_the_pauses_between_starts_grow_until_a_worker_comes_up():
    async with scripted_pool() as (_, launcher):
        launcher.dies_at_once = True
        launcher.workers[0].kill()
        await anyio.sleep(100.0)
        first = launcher.started_at[1]
        assert [at - first for at in launcher.started_at[1:8]] == pytest.approx([0, 0.5, 1.5, 3.5, 8.5, 18.5, 48.5])


async def test_calls_wait_through_short_restarts_and_fail_when_no_worker_comes_up():
    async with scripted_pool() as (pool, launcher):
        await _load(pool)
        launcher.dies_at_once = True
        launcher.workers[0].kill()
        started = anyio.current_time()
        with pytest.raises(NoWorker, match="again and again"):
            await pool.infer(1, request([1.0]), "json")
        assert 0.5 < anyio.current_time() - started < 10.0


async def test_a_silent_worker_is_replaced_exactly_when_its_time_is_over():
    async with scripted_pool() as (pool, launcher):
        await _load(pool, bounds=Bounds(hard_timeout_seconds=60.0))
        with anyio.move_on_after(5.0):
            await pool.infer(1, request([1.0]), "json")
        given_up = anyio.current_time()
        await anyio.sleep(59.0)
        assert launcher.workers[0].killed_at is None
        await anyio.sleep(2.0)
        assert launcher.workers[0].killed_at == pytest.approx(given_up + 60.0)
        assert len(launcher.workers) == 2 and not pool.why_not(1)


async def test_a_worker_that_says_something_after_a_call_was_given_up_has_its_time_again():
    async with scripted_pool() as (pool, launcher):
        await _load(pool, bounds=Bounds(hard_timeout_seconds=60.0))
        with anyio.move_on_after(5.0):
            await pool.infer(1, request([1.0]), "json")
        await anyio.sleep(40.0)
        (worker,) = launcher.workers
        worker.there.send(frames.Freed([]))
        heard = anyio.current_time()
        await anyio.sleep(100.0)
        assert worker.killed_at == pytest.approx(heard + 60.0)


async def test_a_worker_is_not_stuck_while_one_of_its_batch_is_waited_for():
    async with scripted_pool() as (pool, launcher), anyio.create_task_group() as callers:
        await _load(pool, Rule(2, 1.0, eager=False), Bounds(hard_timeout_seconds=60.0))
        leaves, stays = anyio.CancelScope(), anyio.CancelScope()

        async def ask(scope: anyio.CancelScope) -> None:
            with scope:
                await pool.infer(1, request([1.0]), "json")

        callers.start_soon(ask, leaves)
        callers.start_soon(ask, stays)
        await anyio.sleep(5.0)
        (worker,) = launcher.workers
        Progress(worker.progress).begin(2)  # both have begun
        leaves.cancel()
        await anyio.sleep(1000.0)
        assert worker.killed_at is None
        given_up = anyio.current_time()
        stays.cancel()
        await anyio.sleep(100.0)
        assert worker.killed_at is not None
        assert worker.killed_at - given_up < 70.0


@pytest.mark.parametrize(("runs", "is_stuck"), [(2, False), (1, True), (0, True)])
async def test_a_worker_is_stuck_unless_somebody_waits_for_the_call_that_it_runs(runs, is_stuck):
    def script(frame: Any) -> Any:
        return frames.Waiting(1) if isinstance(frame, frames.Infer) and frame.call == 1 else loads(frame)

    async with scripted_pool(script) as (pool, launcher), anyio.create_task_group() as callers:
        await _load(pool, bounds=Bounds(hard_timeout_seconds=60.0))
        with anyio.move_on_after(5.0):
            await pool.infer(1, request([1.0]), "json")

        async def ask() -> None:
            with suppress(MLServeError):
                await pool.infer(1, request([1.0]), "json")

        callers.start_soon(ask)
        await anyio.sleep(1.0)
        (worker,) = launcher.workers
        Progress(worker.progress).begin(2)
        Progress(worker.progress).run(runs)  # and then something blocks the loop
        await anyio.sleep(1000.0)
        assert (worker.killed_at is not None) == is_stuck
        callers.cancel_scope.cancel()


async def test_a_silent_worker_whose_loop_turns_is_not_stuck():
    """Its calls may wait for their clients, and have nothing to say."""
    asked = []

    def script(frame: Any) -> Any:
        if isinstance(frame, frames.Ping):
            asked.append(anyio.current_time())
            return frames.Pong()
        return loads(frame)

    async with scripted_pool(script) as (pool, launcher):
        await _load(pool, bounds=Bounds(hard_timeout_seconds=60.0))
        with anyio.move_on_after(5.0):
            await pool.infer(1, request([1.0]), "json")
        await anyio.sleep(1000.0)
        assert 10 < len(asked) < 20, "each time that it has been silent for so long"
        assert launcher.workers[0].killed_at is None


async def test_a_load_that_takes_too_long_ends_its_worker_when_its_time_is_over():
    async with scripted_pool(lambda frame: None) as (pool, launcher):
        started = anyio.current_time()
        with pytest.raises(Exception, match="load_timeout_seconds"):
            await _load(pool, bounds=Bounds(load_timeout_seconds=1800.0))
        assert anyio.current_time() - started == pytest.approx(1800.0)
        assert launcher.workers[0].killed_at is not None


async def test_a_load_that_waits_for_a_call_somebody_waits_for_has_its_time_afterwards():
    answers: list[Any] = []

    def script(frame: Any) -> Any:
        if isinstance(frame, frames.Load) and frame.model == 1:
            return loads(frame)
        answers.append(frame)  # the worker runs the call, and has not come to the second load
        return None

    async with scripted_pool(script) as (pool, launcher), anyio.create_task_group() as tasks:
        await _load(pool)
        (worker,) = launcher.workers
        tasks.start_soon(_fails, pool, request([1.0]), None, WorkerDied)
        await anyio.wait_all_tasks_blocked()
        Progress(worker.progress).begin(1)
        tasks.start_soon(_fails_to_load, pool, frames.Load(2, b"{}", ""), Bounds(load_timeout_seconds=10.0))
        await anyio.sleep(1000.0)
        assert worker.killed_at is None
        Progress(worker.progress).run(0)  # now it has
        came_to_it = anyio.current_time()
        await anyio.sleep(20.0)
        assert worker.killed_at == pytest.approx(came_to_it + 10.0, abs=0.1)


async def _fails_to_load(pool: Pool, frame: frames.Load, bounds: Bounds) -> None:
    with pytest.raises(ModelLoadError, match="load_timeout_seconds"):
        await pool.load(frame, None, bounds)


async def test_a_worker_that_is_stuck_is_replaced_also_when_a_load_waits_behind():
    def script(frame: Any) -> Any:
        return loads(frame) if isinstance(frame, frames.Load) and frame.model == 1 else None

    async with scripted_pool(script) as (pool, launcher), anyio.create_task_group() as tasks:
        await _load(pool, bounds=Bounds(hard_timeout_seconds=60.0))
        (worker,) = launcher.workers
        with anyio.move_on_after(5.0):
            await pool.infer(1, request([1.0]), "json")
        given_up = anyio.current_time()
        tasks.start_soon(_fails_to_load_for, pool, WorkerDied)
        await anyio.sleep(100.0)
        assert worker.killed_at == pytest.approx(given_up + 60.0)


async def test_a_load_may_compute_for_its_own_time_whoever_left():
    def script(frame: Any) -> Any:
        return loads(frame) if isinstance(frame, frames.Load) and frame.model == 1 else None

    async with scripted_pool(script) as (pool, launcher), anyio.create_task_group() as tasks:
        await _load(pool, bounds=Bounds(hard_timeout_seconds=60.0))
        (worker,) = launcher.workers
        with anyio.move_on_after(5.0):
            await pool.infer(1, request([1.0]), "json")
        tasks.start_soon(_fails_to_load, pool, frames.Load(2, b"{}", ""), Bounds(load_timeout_seconds=1800.0))
        Progress(worker.progress).run(LOADING)
        began = anyio.current_time()
        await anyio.sleep(2000.0)
        assert worker.killed_at == pytest.approx(began + 1800.0, abs=2.0)


async def _fails_to_load_for(pool: Pool, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        await pool.load(frames.Load(2, b"{}", ""), None, Bounds(load_timeout_seconds=1800.0))


async def test_the_time_of_an_unload_does_not_pass_while_its_worker_computes_for_somebody():
    def script(frame: Any) -> Any:
        return loads(frame) if isinstance(frame, frames.Load) else None

    async with scripted_pool(script) as (pool, launcher), anyio.create_task_group() as tasks:
        await _load(pool)
        await pool.load(frames.Load(2, b"{}", ""))
        (worker,) = launcher.workers
        tasks.start_soon(_fails, pool, request([1.0]), None, WorkerDied)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(pool.unload, 2)
        await anyio.sleep(10.0)  # it awaits something
        Progress(worker.progress).begin(1)
        await anyio.sleep(1000.0)
        assert worker.killed_at is None
        Progress(worker.progress).run(0)
        done = anyio.current_time()
        await anyio.sleep(100.0)
        assert worker.killed_at == pytest.approx(done + 20.0, abs=0.2)


async def test_an_unload_behind_a_call_that_somebody_waits_for_ends_no_worker():
    def script(frame: Any) -> Any:
        return loads(frame) if isinstance(frame, frames.Load) else None

    async with scripted_pool(script) as (pool, launcher), anyio.create_task_group() as tasks:
        await _load(pool)
        await pool.load(frames.Load(2, b"{}", ""))
        (worker,) = launcher.workers
        tasks.start_soon(_fails, pool, request([1.0]), None, WorkerDied)
        await anyio.wait_all_tasks_blocked()
        Progress(worker.progress).begin(1)
        tasks.start_soon(pool.unload, 2)
        await anyio.sleep(1000.0)
        assert worker.killed_at is None
        Progress(worker.progress).run(0)
        came_to_it = anyio.current_time()
        await anyio.sleep(100.0)
        assert worker.killed_at == pytest.approx(came_to_it + 30.0, abs=0.1)


async def test_a_process_that_is_there_for_one_load_and_never_says_hello_is_given_up():
    async with scripted_pool() as (pool, launcher):
        await _load(pool)
        launcher.says_hello = False
        started = anyio.current_time()
        with pytest.raises(ModelLoadError, match="the process in which its load"):
            await pool.load(frames.Load(2, b"{}", ""), apart=True)
        assert anyio.current_time() - started == pytest.approx(120.0)
        assert len(launcher.workers) == 2 and pool.pids == [launcher.workers[0].pid]
        assert not pool.why_not(1)


async def test_a_worker_whose_socket_is_gone_is_ended_once_though_each_call_of_a_batch_finds_it_so():
    async with scripted_pool() as (pool, launcher), anyio.create_task_group() as tasks:
        await _load(pool, Rule(calls=2, wait_seconds=1.0, eager=False))
        link = pool.crew.links[0]

        def spoilt(*_: Any) -> None:
            raise ValueError

        def gone(*_: Any) -> None:
            raise ChannelClosed

        link.start_batch, link.start = spoilt, gone
        for n in range(2):
            tasks.start_soon(pool.infer, 1, request([float(n)]), "json")
        await anyio.sleep(50.0)
        assert launcher.workers[0].killed_at is not None
        assert pool.pids == [launcher.workers[1].pid] and pool.running_count == 2, "another worker has them"
        tasks.cancel_scope.cancel()


async def test_a_model_that_cannot_be_loaded_again_is_tried_after_pauses_that_double():
    answers = {"fail": False}

    def script(frame: Any) -> Any:
        if isinstance(frame, frames.Load) and answers["fail"]:
            return frames.LoadFailed(frame.model, "no such artifact", 500, "")
        return loads(frame)

    async with scripted_pool(script) as (pool, launcher):
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
        return loads(frame)

    async with scripted_pool(script) as (pool, launcher):
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
        return loads(frame)

    async with scripted_pool(script) as (pool, _):
        await _load(pool, Rule(calls=8, wait_seconds=3.0, eager=False))
        async with anyio.create_task_group() as tasks:
            started = anyio.current_time()
            for n in range(3):
                tasks.start_soon(pool.infer, 1, request([float(n)]), "json")
                await anyio.sleep(0.5)
            await anyio.sleep(5.0)
            assert sent == [(pytest.approx(started + 3.0), 3)]
            tasks.cancel_scope.cancel()
