"""The pool and its workers: answers, order, cancellation, death, slots, streams. On asyncio and trio."""

from __future__ import annotations

import os
import signal

import anyio
import pytest

from mlserve import frames
from mlserve.bounds import window_of
from mlserve.errors import CallerLeft, MLServeError, ModelLoadError, ServerStopping, WorkerDied
from mlserve.settings import ModelSettings
from tests.engine import load, request, running_pool, until, values, write_models

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path):
    return write_models(tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("form", ["json", "raw", "contents"])
async def test_an_answer_comes_in_the_form_that_was_asked_for(folder, workers, form):
    async with running_pool(workers) as (pool, _):
        await load(pool, 1, "Double", folder)
        for size in (3, 50_000):
            response = await pool.infer(1, request([1.5] * size, id="a"), form)
            assert response.outputs[0].data.form == form
            assert values(response) == [3.0] * size
            assert response.id == "a"


async def test_synchronous_and_asynchronous_models_answer_side_by_side(folder):
    async with running_pool() as (pool, _):
        for number, name in enumerate(("Double", "AsyncDouble", "Sleeper"), 1):
            await load(pool, number, name, folder)
        answers = {}

        async def ask(number, value):
            answers[number, value] = values(await pool.infer(number, request([value]), "raw"))

        async with anyio.create_task_group() as tasks:
            for value in range(20):
                tasks.start_soon(ask, 1 + value % 2, float(value))
            tasks.start_soon(ask, 3, 0.05)
        assert len(answers) == 21
        assert all(found == [value * 2] for (number, value), found in answers.items() if number < 3)


async def test_calls_that_await_do_not_wait_for_each_other(folder):
    async with running_pool() as (pool, _):
        await load(pool, 1, "Sleeper", folder)
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(pool.infer, 1, request([1000.0]), "json")
            await until(lambda: pool.crew.links[0].awaiting.get(1) == 100)
            tasks.cancel_scope.cancel()


async def test_a_failing_model_fails_its_call_only(folder):
    async with running_pool() as (pool, _):
        for number, name in enumerate(("Failing", "Exiting", "Double"), 1):
            await load(pool, number, name, folder)
        for number, text in ((1, "ValueError: golden value"), (2, "SystemExit: 3")):
            with pytest.raises(MLServeError, match=text) as caught:
                await pool.infer(number, request([1]), "json")
            assert caught.value.http_status == 500
        assert values(await pool.infer(3, request([1]), "json")) == [2.0]


async def test_a_killed_workers_call_fails_at_once_and_the_waiting_ones_are_answered(folder):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Blocker", folder)
        (folder / "gate").touch()
        outcomes = {}

        async def ask(name):
            try:
                outcomes[name] = values(await pool.infer(1, request([1.0] * 20_000, id=name), "raw"))
            except WorkerDied as error:
                outcomes[name] = error

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "first")
            await until((folder / "begun-first").exists)
            tasks.start_soon(ask, "second")
            tasks.start_soon(ask, "third")
            await anyio.wait_all_tasks_blocked()
            os.kill(pool.pids[0], signal.SIGKILL)
            await until(lambda: "first" in outcomes)
            (folder / "gate").unlink()
        assert isinstance(outcomes["first"], WorkerDied)
        assert not outcomes["first"].retryable
        assert outcomes["second"] == outcomes["third"] == [1.0] * 20_000
        assert pool.crew.restarts == 1


async def test_another_worker_answers_while_one_is_gone(folder):
    async with running_pool(2) as (pool, _):
        await load(pool, 1, "Double", folder)
        os.kill(pool.pids[0], signal.SIGKILL)
        for _ in range(20):
            assert values(await pool.infer(1, request([2]), "json")) == [4.0]
        await until(lambda: len(pool.pids) == 2)


async def test_a_model_that_ends_its_process_is_told_to_its_caller_and_loaded_again(folder):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Dying", folder)
        await load(pool, 2, "Double", folder)
        with pytest.raises(WorkerDied):
            await pool.infer(1, request([1]), "json")
        assert values(await pool.infer(2, request([1]), "json")) == [2.0]


async def test_a_cancelled_call_is_cancelled_in_the_model(folder):
    async with running_pool() as (pool, _):
        await load(pool, 1, "Sleeper", folder)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.infer, 1, request([1000]), "json")
            await until(lambda: pool.crew.links[0].awaiting.get(1))
            tasks.cancel_scope.cancel()
        await until(lambda: (folder / "notes.txt").exists() and (folder / "notes.txt").read_text() == "cancelled")
        assert values(await pool.infer(1, request([0]), "json")) == [0.0]


async def test_a_cancelled_call_that_waits_never_begins(folder):
    async with running_pool() as (pool, _):
        await load(pool, 1, "Blocker", folder)
        (folder / "gate").touch()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.infer, 1, request([1], id="first"), "json")
            await until(lambda: (folder / "begun-first").exists())
            with anyio.move_on_after(0.05):
                await pool.infer(1, request([1], id="second"), "json")
            tasks.start_soon(pool.infer, 1, request([1], id="third"), "json")
            await anyio.sleep(0.01)
            (folder / "gate").unlink()
        assert (folder / "begun-third").exists()
        assert not (folder / "begun-second").exists()


async def test_an_input_that_a_model_keeps_never_changes_under_it(folder):
    async with running_pool() as (pool, arena):
        await load(pool, 1, "Keeper", folder)
        for number in range(100):
            response = await pool.infer(1, request([float(number)] * 20_000), "raw")
            assert values(response)[0] == number
            del response
        # Past 64 kept slots inputs are copied, so that a hoarding model cannot use all shared memory up.
        await until(lambda: arena.leased_count <= 70)


async def test_slots_come_back_after_the_answers_are_gone(folder):
    async with running_pool() as (pool, arena):
        await load(pool, 1, "Double", folder)
        for _ in range(50):
            await pool.infer(1, request([1.0] * 30_000), "raw")
        await until(lambda: arena.leased_count <= 4)
        assert arena.leased_count + arena.free_count <= 8, "the same few slots go round"


async def test_an_answer_stays_as_it_is_while_somebody_holds_it(folder):
    async with running_pool() as (pool, _):
        await load(pool, 1, "Double", folder)
        first = await pool.infer(1, request([1.0] * 30_000), "raw")
        for number in range(10):
            await pool.infer(1, request([float(number)] * 30_000), "raw")
        assert values(first) == [2.0] * 30_000


async def test_a_load_that_fails_says_why_and_leaves_the_others(folder):
    async with running_pool() as (pool, _):
        await load(pool, 1, "Double", folder)
        with pytest.raises(ModelLoadError, match="no such artifact"):
            await load(pool, 2, "Broken", folder)
        assert not (await load(pool, 3, "Refusing", folder)).ready
        assert values(await pool.infer(1, request([1]), "json")) == [2.0]


async def test_a_worker_that_cannot_start_ends_the_start_with_an_error(folder):
    from mlserve.arena import Arena
    from mlserve.errors import StartupError
    from mlserve.launch import ProcessLauncher
    from mlserve.pool import Pool
    from tests.engine import Observed

    pool = Pool("test", 1, ProcessLauncher(b"{not json"), Arena(1 << 20), Observed())
    with pytest.raises(BaseException) as caught:
        async with anyio.create_task_group() as tasks:
            await tasks.start(pool.run)
    error = caught.value
    while not isinstance(error, StartupError):
        error = error.exceptions[0]
    assert "exit code 1" in str(error)


async def test_a_stopped_pool_takes_nothing_and_ends_its_processes(folder):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Double", folder)
        pid = pool.pids[0]
        await pool.stop()
        with pytest.raises(ServerStopping):
            await pool.infer(1, request([1]), "json")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("workers", [0, 1])
async def test_a_stream_gives_all_chunks_in_order(folder, workers):
    async with running_pool(workers) as (pool, _):
        await load(pool, 1, "Double", folder)

        async def requests():
            yield request([1.0], parameters={"chunks": 100})
            yield request([10.0], parameters={"chunks": 3})

        found = [values(chunk)[0] async for chunks in pool.stream(1, requests(), "raw") for chunk in chunks]
        assert found == [float(n) for n in range(100)] + [0.0, 10.0, 20.0]


async def test_a_reader_that_stops_ends_the_stream(folder):
    async with running_pool() as (pool, _):
        await load(pool, 1, "Double", folder)

        async def requests():
            yield request([1.0], parameters={"chunks": 1_000_000_000})

        chunks = pool.stream(1, requests(), "raw")
        for _ in range(5):
            await anext(chunks)
        await chunks.aclose()
        assert values(await pool.infer(1, request([1]), "json")) == [2.0]
        await until(lambda: not pool.crew.links[0].calls)


COUNTED = """
from mlserve.types import InferenceResponse
from models import *


class Counted(MLModel):
    made = 0

    async def predict(self, request):
        request.inputs[0].data = [float(self.made)]
        return answer(self, request)

    async def predict_stream(self, requests):
        async for request in requests:
            while True:
                self.made += 1
                yield answer(self, request)
"""


async def test_a_stream_is_no_further_ahead_of_its_reader_than_is_documented(folder):
    (folder / "counted.py").write_text(COUNTED)
    settings = ModelSettings(name="counted", implementation="counted.Counted")
    async with running_pool() as (pool, _):
        await pool.load(frames.Load(1, settings.model_dump_json().encode(), str(folder)))

        async def requests():
            yield request([1.0])

        async def made() -> float:
            return values(await pool.infer(1, request([1.0]), "json"))[0]

        chunks = pool.stream(1, requests(), "raw")
        read, furthest = 0, 0.0
        for _ in range(50):
            held = len(await anext(chunks))
            while (ahead := await made() - read) < 16 + 1:  # the last one is in the generator's hands
                pass
            furthest = max(furthest, ahead)
            read += held
        assert 16 < furthest <= 32 + 1
        await chunks.aclose()


@pytest.mark.parametrize(("service_seconds", "calls"), [(None, 1), (10.0, 1), (0.001, 3), (0.0001, 21), (1e-9, 64)])
def test_the_window_holds_a_moment_of_work(service_seconds, calls):
    assert window_of(service_seconds) == calls


async def test_a_caller_that_says_it_leaves_is_told_so_and_its_call_is_dropped(folder):
    async with running_pool() as (pool, _):
        await load(pool, 1, "Sleeper", folder)
        given = []
        raised = []

        async def ask():
            try:
                await pool.infer(1, request([30]), "json", given.append)
            except CallerLeft as error:
                raised.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await until(lambda: given and pool.crew.links[0].calls)
            given[0]()
        assert len(raised) == 1
        assert given[-1] is None, "the transport is told that it is too late now"
        await until(lambda: not pool.crew.links[0].calls)
        assert values(await pool.infer(1, request([0]), "json")) == [0.0]
