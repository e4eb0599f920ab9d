"""A model that has used up the file descriptors of its worker: no call is lost, and a fresh worker takes over."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import contextmanager

import anyio
import pytest

from mlserve import frames, recycling
from mlserve.batching import Rule
from mlserve.channel import Channel
from mlserve.errors import MLServeError
from mlserve.frames import SlotRef
from mlserve.settings import ModelSettings
from tests.engine import load, request, running_pool, until, values, write_models

pytestmark = pytest.mark.anyio

HOARDER = """
import os, resource
from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput

KEPT = []


class Hoarder(MLModel):
    '''On a value below zero it keeps files open until there are none left.'''

    def answer(self, request):
        one = request.inputs[0]
        array = one.data.to_numpy(one.datatype, one.shape)
        if (array < 0).any():
            resource.setrlimit(resource.RLIMIT_NOFILE, (128, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            try:
                while True:
                    KEPT.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
        return InferenceResponse(
            model_name=self.name,
            outputs=[ResponseOutput(name="y", shape=one.shape, datatype="FP32", data=array * 2)],
            parameters={"pid": os.getpid()},
        )

    def predict(self, request):
        return self.answer(request)

    async def predict_stream(self, requests):
        async for request in requests:
            yield self.answer(request)
"""
LARGE = 40_000  # values: too many for a frame


@pytest.fixture
def folder(tmp_path):
    return write_models(tmp_path, HOARDER)


@pytest.fixture(params=["calls", "batches"])
def rule(request):
    return Rule(calls=4, wait_seconds=1000.0, eager=False) if request.param == "batches" else None


async def _load(pool, folder, rule):
    settings = ModelSettings(name="hoarder", implementation="models.Hoarder")
    await pool.load(frames.Load(1, settings.model_dump_json().encode(), str(folder)), rule)


async def _ask(pool, *firsts, size=LARGE):
    """Answers of calls that are sent together: the first value of each, and the process that gave it."""
    answers = {}

    async def ask(first):
        answer = await pool.infer(1, request([first] * size), "raw")
        assert len(values(answer)) == size
        answers[first] = (values(answer)[0], answer.parameters.pid)

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            for first in firsts:
                tasks.start_soon(ask, first)
    return [answers[first] for first in firsts]


async def test_calls_that_need_new_slots_are_answered_all_the_same(folder, rule, caplog):
    async with running_pool(1) as (pool, arena):
        await _load(pool, folder, rule)
        old = pool.pids[0]
        await _ask(pool, -1.0, 2.0, 3.0, 4.0, size=1)
        for _ in range(3):
            assert await _ask(pool, 1.0, 2.0, 3.0, 4.0) == [(first, old) for first in (2.0, 4.0, 6.0, 8.0)]
        assert pool.crew.restarts == 0
        await until(lambda: not arena.leased_count)
    assert f"worker {old} of pool test can look at no more shared memory" in caplog.text
    assert "all of its 128 file descriptors are in use" in caplog.text


async def test_a_worker_without_descriptors_is_exchanged(folder, caplog, monkeypatch):
    monkeypatch.setattr(recycling, "_AGAIN_SECONDS", 0.0)
    async with running_pool(1) as (pool, arena):
        await _load(pool, folder, None)
        old = pool.pids[0]
        await _ask(pool, -1.0, size=1)
        assert await _ask(pool, 1.0, 2.0) == [(2.0, old), (4.0, old)]
        await until(lambda: pool.pids and pool.pids[0] != old)
        fresh = pool.pids[0]
        assert await _ask(pool, 1.0, 2.0) == [(2.0, fresh), (4.0, fresh)]
        assert arena.total_bytes, "the fresh one takes slots"
        assert pool.crew.restarts == 0


async def test_a_stream_whose_request_is_lost_fails_and_others_go_on(folder):
    got = []

    async def requests(*firsts):
        for place, first in enumerate(firsts):
            await until(lambda place=place: len(got) == place)
            yield request([first] * (1 if first < 0 else LARGE))

    async def stream(*firsts):
        got.clear()
        async for chunks in pool.stream(1, requests(*firsts), "raw"):
            got.extend(values(chunk)[0] for chunk in chunks)

    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Hoarder", folder)
        with anyio.fail_after(120):
            with pytest.raises(MLServeError, match="can take no more large requests") as caught:
                await stream(-1.0, 1.0)
            assert caught.value.http_status == 503
            await stream(1.0, 2.0)
        assert got == [2.0, 4.0]


@contextmanager
def few_descriptors(left: int):
    """Lets this process open so many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open("/dev/null", os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 64, hard))
    try:
        while True:
            try:
                taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        for _ in range(left):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in taken:
            os.close(number)


def test_descriptors_that_are_lost_are_not_taken_for_those_of_the_next_frame():
    left, right = socket.socketpair()
    pool, worker = Channel(left, frames.ToPool), Channel(right, frames.ToWorker)
    pipes = [os.pipe() for _ in range(4)]
    readers = [reader for reader, _ in pipes]
    pool.send(frames.Attach([SlotRef(number, 10, fresh=True) for number in range(3)]), readers[:3])
    with few_descriptors(1):
        [first] = worker.receive(wait_for_descriptors=True)
    pool.send(frames.Grant(SlotRef(3, 10, fresh=True)), readers[3:])
    [second] = worker.receive(wait_for_descriptors=True)
    assert len(first.slots) == 3 and second.slot.number == 3
    lost = worker.take(3)
    assert lost[0] is not None and lost[1:] == [None, None]
    [last] = worker.take(1)
    for number, fd in ((0, lost[0]), (3, last)):
        os.write(pipes[number][1], bytes([number]))
        assert os.read(fd, 1) == bytes([number])
        os.close(fd)
    for pair in pipes:
        for fd in pair:
            os.close(fd)
    pool.close()
    worker.close()
