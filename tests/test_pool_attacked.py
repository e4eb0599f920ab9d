"""What attacks on the pool have found: each once cost more than the call that was to blame."""

from __future__ import annotations

import os
import signal

import anyio
import pytest

from mlserve.errors import CallerLeft, MLServeError, NoWorker, WorkerDied
from mlserve.types import InferenceRequest
from tests.engine import load, request, running_pool, until, values, write_models

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path):
    return write_models(tmp_path)


ODD = [
    "id",
    "name",
    "shape",
    "datatype",
    "key",
    "error",
    "surrogate",
    "interrupt",
    "cancelled",
    "deep 600",
    "deep 970",
    "deep 100000",
]


async def test_an_answer_of_the_wrong_types_fails_its_call_and_nothing_else(folder):
    async with running_pool() as (pool, _):
        await load(pool, 1, "Odd", folder)
        for kind in ODD:
            with anyio.fail_after(60), pytest.raises(MLServeError) as caught:
                await pool.infer(1, request([1.0], id=kind), "json")
            assert 400 <= caught.value.http_status <= 599, kind
            assert values(await pool.infer(1, request([2.0], id="fine"), "json")) == [2.0]
        assert pool.crew.restarts == 0


@pytest.mark.parametrize("busy", [True, False])
async def test_a_model_that_is_busy_while_it_awaits_is_sent_one_call_after_the_other(tmp_path, busy):
    folder = write_models(tmp_path)
    (folder / "models.py").write_text(
        (folder / "models.py").read_text().replace("awaiting = True", f"awaiting = {busy}")
    )
    gate, second = folder / "gate", folder / "begun-2"
    async with running_pool() as (pool, _):
        await load(pool, 1, "Occupied", folder)
        gate.touch()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.infer, 1, request([1.0], id="1"), "json")
            await until((folder / "begun-1").exists)
            tasks.start_soon(pool.infer, 1, request([1.0], id="2"), "json")
            if busy:
                await until(lambda: pool.waiting_for(1) == 1)
                assert not second.exists()
            else:
                await until(second.exists)
            gate.unlink()
        assert second.exists()


async def test_an_answer_does_not_wait_for_the_call_that_runs_next(tmp_path):
    """Nor is it lost with it."""
    folder = write_models(tmp_path)
    async with running_pool() as (pool, _):
        await load(pool, 1, "Double", folder)
        await load(pool, 2, "Blocker", folder)
        for _ in range(50):
            await pool.infer(1, request([1.0]), "json")
        gate = folder / "gate"
        for _ in range(10):  # a fast worker is sent several at once
            gate.touch()
            async with anyio.create_task_group() as tasks:
                done = anyio.Event()

                async def ask(done=done):
                    await pool.infer(1, request([1.0]), "json")
                    done.set()

                tasks.start_soon(ask)
                await anyio.lowlevel.checkpoint()
                tasks.start_soon(pool.infer, 2, request([1.0]), "json")
                with anyio.fail_after(60):  # the gate's model waits for longer
                    await done.wait()
                gate.unlink()


async def test_a_cancelled_error_that_a_model_lets_out_is_the_models_failure(folder):
    async with running_pool() as (pool, _):
        await load(pool, 1, "Orphan", folder)
        await load(pool, 2, "Double", folder)
        with anyio.fail_after(60), pytest.raises(MLServeError, match="CancelledError"):
            await pool.infer(1, request([1.0]), "json")
        assert values(await pool.infer(2, request([2.0]), "json")) == [4.0]
        assert pool.crew.restarts == 0


async def test_a_worker_killed_with_a_backlog_of_writes_costs_no_more_than_its_calls(folder):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Sleeper", folder)
        large = InferenceRequest(
            inputs=[{"name": f"x{n}", "shape": [3000], "datatype": "FP32", "data": [5.0] * 3000} for n in range(100)]
        )
        outcomes = []

        async def ask():
            try:
                await pool.infer(1, large, "json")
            except WorkerDied as error:
                outcomes.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask)
            await until(lambda: pool.crew.links and pool.crew.links[0].calls)
            os.kill(pool.pids[0], signal.SIGKILL)
            await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()
        await load(pool, 2, "Double", folder)
        assert values(await pool.infer(2, request([2.0]), "json")) == [4.0]


async def test_a_load_while_the_only_worker_is_restarted_waits_for_it(folder):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Double", folder)
        killed = pool.pids
        os.kill(killed[0], signal.SIGKILL)
        await until(lambda: pool.pids != killed)
        with anyio.fail_after(60):
            await load(pool, 2, "AsyncDouble", folder)
            assert values(await pool.infer(2, request([2.0]), "json")) == [4.0]
            assert values(await pool.infer(1, request([2.0]), "json")) == [4.0]


async def test_a_model_that_cannot_be_loaded_again_fails_its_calls_and_says_so(folder):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Double", folder)
        (folder / "models.py").write_text("class Double:\n    pass\n")
        os.kill(pool.pids[0], signal.SIGKILL)
        with anyio.fail_after(60), pytest.raises(NoWorker, match="could not be loaded again"):
            await pool.infer(1, request([1.0]), "json")
        assert "could not be loaded again" in pool.why_not(1)


async def test_the_slots_of_calls_that_were_cancelled_before_they_began_come_back(folder):
    async with running_pool() as (pool, arena):
        await load(pool, 1, "Blocker", folder)
        await pool.infer(1, request([1.0], id="warm"), "json")
        (folder / "gate").touch()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.infer, 1, request([1.0], id="first"), "json")
            await until((folder / "begun-first").exists)
            async with anyio.create_task_group() as leaving:
                for n in range(8):
                    leaving.start_soon(pool.infer, 1, request([1.0] * 50_000, id=str(n)), "json")
                await anyio.wait_all_tasks_blocked()
                leaving.cancel_scope.cancel()
            (folder / "gate").unlink()
        await pool.infer(1, request([1.0], id="last"), "json")
        await until(lambda: arena.leased_count <= 1)  # one may be the stock of slots to answer in


async def test_a_call_whose_client_has_left_before_it_begins_is_cancelled(tmp_path):
    folder = write_models(tmp_path)
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Sleeper", folder)

        def leaves_at_once(leave):
            if leave is not None:
                leave()

        for _ in range(3):
            with pytest.raises(CallerLeft):
                await pool.infer(1, request([1000.0]), "raw", leaves_at_once)
        await until(lambda: not pool.crew.links[0].calls and not pool.waiting_count)
