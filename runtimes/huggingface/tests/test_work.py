"""The threads of a model: as many as there are computations at one time, and each computation has its end."""

from __future__ import annotations

import threading

import anyio
import pytest

from mlserve_huggingface.work import Job, Stopped, Work


def threads_of(name: str) -> int:
    return sum(one.name.startswith(f"huggingface-{name}_") for one in threading.enumerate())


def test_calls_one_after_the_other_have_one_thread() -> None:
    async def call_often() -> None:
        work = Work("in-turn")
        for number in range(500):
            assert await work.run(lambda job, number=number: number + 1) == number + 1
            assert threads_of("in-turn") == 1
        work.close()

    anyio.run(call_often)
    assert threads_of("in-turn") == 0


def test_more_calls_than_threads_wait_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlserve_huggingface.work._THREADS", 2)
    found: list[int] = []

    async def call_all() -> None:
        work = Work("few")

        async def call(number: int) -> None:
            found.append(await work.run(lambda job: number))

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(call, number)
        assert threads_of("few") == 2
        work.close()

    anyio.run(call_all)
    assert sorted(found) == list(range(20))


def test_failures_reach_their_caller_and_the_thread_goes_on() -> None:
    def fail(job: Job) -> None:
        raise ZeroDivisionError

    async def call_both() -> None:
        work = Work("failing")
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await work.run(fail)
        assert await work.run(lambda job: "well") == "well" and threads_of("failing") == 1
        work.close()

    anyio.run(call_both)


def test_a_call_that_is_left_is_stopped_before_its_caller_goes_on() -> None:
    ended = threading.Event()

    async def leave() -> None:
        work, started = Work("left"), threading.Event()

        def compute(job: Job) -> None:
            try:
                while True:
                    started.set()
                    job.check()
            except Stopped:
                ended.set()
                raise

        async with anyio.create_task_group() as group:
            group.start_soon(work.run, compute)
            await anyio.to_thread.run_sync(started.wait)
            group.cancel_scope.cancel()
        assert ended.is_set()
        work.close()

    anyio.run(leave)
