"""Models that end, block or mistreat their worker: what becomes of their callers, of the others, of themselves."""

from __future__ import annotations

import os
import signal

import anyio
import pytest

from mlserve import loading, recovery
from mlserve.bounds import Bounds
from mlserve.errors import MLServeError, ModelLoadError, NoWorker, RequestRefused, WorkerDied
from tests.bad_models import BAD_MODELS
from tests.engine import load, request, running_pool, until, values, write_models

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # what happens in the worker: it has no other


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "good").mkdir()
    write_models(tmp_path / "good")
    return write_models(tmp_path, BAD_MODELS)


@pytest.fixture
def soon(monkeypatch):
    """Back-off without the waiting."""
    monkeypatch.setattr(recovery, "BACKOFF_SECONDS", (0.0, 0.01))
    monkeypatch.setattr(recovery, "FIRST_ASIDE_SECONDS", 0.3)


def _notes(folder):
    path = folder / "notes.txt"
    return path.read_text().split() if path.exists() else []


async def _death(pool, value, kind=WorkerDied, **more):
    with pytest.raises(kind) as caught:
        await pool.infer(1, request([value], **more), "json")
    return caught.value


async def test_a_model_that_keeps_ending_its_worker_is_set_aside_and_the_others_go_on(
    folder, soon, monkeypatch, caplog
):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Crasher", folder)
        await load(pool, 2, "Double", folder / "good")
        monkeypatch.setattr(recovery, "FIRST_ASIDE_SECONDS", 300.0)
        for value in (-1.0, -2.0, -3.0):
            await _death(pool, value)
        error = await _death(pool, 1.0, NoWorker)
        assert error.retryable and "3 times in a row" in error.message and 200 < error.retry_after_seconds <= 300
        assert "3 times" in pool.why_not(1)
        assert (
            "model crasher of pool" in caplog.text and "set aside for 300 s: the model ended its worker" in caplog.text
        )
        assert values(await pool.infer(2, request([2.0]), "json")) == [4.0]
        assert not pool.why_not(2)
        restarts = pool.crew.restarts
        for _ in range(3):
            await _death(pool, -4.0, NoWorker)
        assert pool.crew.restarts == restarts, "a model that is set aside ends nobody"


async def test_a_model_that_was_set_aside_comes_back(folder, soon, caplog):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Crasher", folder)
        for value in (-1.0, -2.0, -3.0):
            await _death(pool, value)
        assert "is set aside" in caplog.text
        await until(lambda: not pool.why_not(1))
        assert values(await pool.infer(1, request([5.0]), "json")) == [5.0]


async def test_a_model_that_ends_the_process_while_it_is_loaded_again_does_not_keep_the_others_down(folder, soon):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "LoadCrasher", folder)
        await load(pool, 2, "Double", folder / "good")
        (folder / "crash").touch()
        os.kill(pool.pids[0], signal.SIGKILL)
        await until(lambda: "while it loaded" in pool.why_not(1))
        assert values(await pool.infer(2, request([2.0]), "json")) == [4.0]
        pid = pool.pids[0]
        await anyio.sleep(1.5)  # it is tried again meanwhile, in processes of its own
        assert pool.pids == [pid] and pool.why_not(1)
        (folder / "crash").unlink()
        await until(lambda: not pool.why_not(1))
        assert values(await pool.infer(1, request([2.0]), "json")) == [2.0]
        assert pool.pids == [pid]


async def test_a_load_that_ends_the_process_fails_and_the_worker_comes_up_without_it(folder, soon):
    async with running_pool(1) as (pool, _):
        await load(pool, 2, "Double", folder / "good")
        (folder / "crash").touch()
        with pytest.raises(WorkerDied):
            await load(pool, 1, "LoadCrasher", folder)
        assert values(await pool.infer(2, request([2.0]), "json")) == [4.0]
        (folder / "crash").unlink()
        await load(pool, 1, "LoadCrasher", folder)


async def test_a_content_that_ended_two_workers_is_refused_and_others_are_not(folder, soon):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Crasher", folder)
        for name in ("a", "b"):
            await _death(pool, -1.0, id=name)
        with pytest.raises(RequestRefused, match="2 times in a row"):
            await pool.infer(1, request([-1.0], id="c"), "json")
        assert values(await pool.infer(1, request([1.0], id="d"), "json")) == [1.0]
        assert _notes(folder) == ["a", "b", "d"], "the model did not see it a third time, and none was run twice"


async def test_an_innocent_content_is_cleared_by_its_next_answer(folder, soon):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Blocker", folder / "good")
        for n in range(3):
            (folder / "good/gate").touch()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_swallowed, pool, request([1.0], id=f"k{n}"))
                await until((folder / f"good/begun-k{n}").exists)
                (folder / "good/gate").unlink()
                os.kill(pool.pids[0], signal.SIGKILL)
            if n < 2:
                assert values(await pool.infer(1, request([1.0], id=f"ok{n}"), "json")) == [1.0]
                assert not pool.crew.offences.knows(1)


async def _swallowed(pool, one):
    try:
        await pool.infer(1, one, "json")
    except MLServeError:
        pass


@ASYNCIO
@pytest.mark.parametrize("kind", ["sleep", "swallow", "gil", "stop"])
async def test_a_worker_that_hangs_is_replaced_and_who_waited_behind_is_answered(folder, soon, kind):
    bounds = Bounds(hard_timeout_seconds=0.3)
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Hanger", folder, bounds)
        await load(pool, 2, "Double", folder / "good")
        pid = pool.pids[0]
        found = []

        async def behind():
            found.append(values(await pool.infer(2, request([2.0]), "json")))

        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as leaving:
                leaving.start_soon(pool.infer, 1, request([1.0], id=f"{kind}-1"), "json")
                await until(lambda: _notes(folder))
                leaving.cancel_scope.cancel()
            tasks.start_soon(behind)
        assert found == [[4.0]]
        assert pool.pids != [pid] and pool.crew._observer.restarts == [("test", "stuck")]


async def test_a_worker_in_a_thread_that_hangs_is_left_alone_and_another_takes_over(folder, soon):
    async with running_pool(0) as (pool, _):
        await load(pool, 1, "Blocker", folder / "good", Bounds(hard_timeout_seconds=0.2))
        (folder / "good/gate").touch()
        async with anyio.create_task_group() as leaving:
            leaving.start_soon(pool.infer, 1, request([1.0], id="a"), "json")
            await until((folder / "good/begun-a").exists)
            leaving.cancel_scope.cancel()
        await until(lambda: pool.crew.restarts == 1)
        (folder / "good/gate").unlink()
        assert values(await pool.infer(1, request([1.0], id="b"), "json")) == [1.0]


async def test_a_busy_worker_whose_caller_still_waits_is_left_alone(folder, soon):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Blocker", folder / "good", Bounds(hard_timeout_seconds=0.1))
        (folder / "good/gate").touch()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.infer, 1, request([1.0], id="a"), "json")
            await until((folder / "good/begun-a").exists)
            await anyio.sleep(0.5)
            (folder / "good/gate").unlink()
        assert pool.crew.restarts == 0


async def test_a_load_that_hangs_fails_after_its_time_and_the_others_go_on(folder, soon):
    async with running_pool(1) as (pool, _):
        await load(pool, 2, "Double", folder / "good")
        (folder / "hang").touch()
        with pytest.raises(ModelLoadError, match="load_timeout_seconds"):
            await load(pool, 1, "LoadHanger", folder, Bounds(load_timeout_seconds=0.5))
        assert values(await pool.infer(2, request([2.0]), "json")) == [4.0]


async def test_an_unload_that_blocks_ends_after_a_bounded_time(folder, soon, monkeypatch):
    monkeypatch.setattr(loading, "UNLOAD_SECONDS", 0.3)
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "UnloadHanger", folder)
        await load(pool, 2, "Double", folder / "good")
        with anyio.fail_after(60):
            await pool.unload(1)
        assert values(await pool.infer(2, request([2.0]), "json")) == [4.0]


async def test_workers_that_never_come_up_fail_their_calls_instead_of_keeping_them(folder, soon, monkeypatch):
    async with running_pool(1) as (pool, _):
        await load(pool, 2, "Double", folder / "good")
        monkeypatch.setattr(pool.crew._launcher, "_python", "/bin/false")
        os.kill(pool.pids[0], signal.SIGKILL)
        with anyio.fail_after(60), pytest.raises(NoWorker, match="again and again"):
            await pool.infer(2, request([2.0]), "json")
        assert "again and again" in pool.why_not(2)
        monkeypatch.undo()
        await until(lambda: not pool.why_not(2))
        assert values(await pool.infer(2, request([2.0]), "json")) == [4.0]


KINDS = ["fork-return", "fork-stay", "print", "chdir", "signals", "threads", "exit", "interrupt", "generator"]


@ASYNCIO
@pytest.mark.parametrize("name", ["Rude", "AsyncRude"])
async def test_a_rude_model_costs_its_own_call_at_most(folder, soon, name, capfd):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, name, folder)
        await load(pool, 2, "Double", folder / "good")
        for kind in [*KINDS, "cancelled", "base"]:
            with anyio.fail_after(60):
                try:
                    found = values(await pool.infer(1, request([1.0], id=kind), "json"))
                    assert found == [float(pool.pids[0] % 1000)], f"{kind}: the worker itself answers"
                except MLServeError as error:
                    assert kind in ("exit", "interrupt", "generator", "cancelled", "base") and error.http_status == 500
                assert values(await pool.infer(2, request([2.0]), "json")) == [4.0], kind
        assert pool.crew.restarts == 0


@ASYNCIO
async def test_a_model_that_closes_its_workers_files_costs_that_worker(folder, soon):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Rude", folder)
        await load(pool, 2, "Double", folder / "good")
        with anyio.fail_after(60):
            await _death(pool, 1.0, id="close")
            assert values(await pool.infer(2, request([2.0]), "json")) == [4.0]


@ASYNCIO
async def test_the_processes_that_a_model_started_end_with_its_worker(folder, soon):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Rude", folder)
        await pool.infer(1, request([1.0], id="fork-stay"), "json")
        group = pool.pids[0]
        assert len(_members(group)) == 2
        os.kill(group, signal.SIGKILL)
        await until(lambda: not _members(group))


def _members(group):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                state, _, pgrp = stat.read().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(pid))
    return found
