"""Workers that are worn out are exchanged: no call fails, nothing leaks, streams end as they began."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import anyio
import pytest

from mlserve import recycling
from mlserve.errors import MLServeError, WorkerDied
from mlserve.osdep import resident_bytes
from mlserve.recycling import Wear
from tests.engine import load, request, running_pool, until, values, write_models

pytestmark = pytest.mark.anyio

LEAKY = """
import asyncio
import os
import threading
import time
import numpy as np
from pathlib import Path
from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput

KEPT = []


class Leaky(MLModel):
    def predict(self, request):
        KEPT.append(np.ones(int(request.inputs[0].data[0]), dtype=np.uint8))
        return InferenceResponse(
            model_name=self.name,
            outputs=[ResponseOutput(name="pid", shape=[1], datatype="FP64", data=[float(os.getpid())])],
        )


class Once(Leaky):
    '''Can be loaded while a file is there.'''

    async def load(self):
        assert Path(__file__).with_name("allowed").exists(), "not allowed"


class Threaded(Leaky):
    '''Has a thread that no end of the process can wait for.'''

    async def load(self):
        threading.Thread(target=time.sleep, args=(100_000,)).start()

    async def unload(self):
        Path(__file__).with_name("unloaded").touch()


class Gated(Leaky):
    '''Does not end its load() while a gate is there; its unload() waits for the end of whoever stands before it.'''

    async def load(self):
        gate, mine = Path(__file__).with_name("gate"), Path(__file__).with_name(f"pid-{os.getpid()}")
        if gate.exists():
            mine.write_text(str(os.getpid()))
            mine.rename(mine.with_name("waiting"))
        while gate.exists():
            await asyncio.sleep(0.01)

    async def unload(self):
        pid = Path(__file__).with_name("waiting").read_text()
        while Path("/proc", pid).exists():
            await asyncio.sleep(0.01)
        Path(__file__).with_name("unloaded").touch()


class Hanging(Leaky):
    async def unload(self):
        time.sleep(100_000)
"""


def _descriptors():
    return len(os.listdir("/proc/self/fd"))


def _shared():
    return {one.name for one in Path("/dev/shm").iterdir() if one.name.startswith("psm_")}


@pytest.mark.slow
async def test_of_a_thousand_calls_none_fails_while_workers_are_exchanged_every_fifty(tmp_path):
    folder = write_models(tmp_path)
    before = _shared()  # of others, whoever killed them in the middle of making one
    async with running_pool(1, wear=Wear(calls=50)) as (pool, arena):
        await load(pool, 1, "AsyncDouble", folder)
        pids, answered = set(), 0
        figures = []

        def note():
            arena.trim()
            assert arena.leased_count <= 64  # those in which the worker answers: one for each call at once, at most
            figures.append(_descriptors() - arena.leased_count)

        async def caller():
            nonlocal answered
            number = 0
            while answered < 1000 or len(pids) < 4:
                number += 1
                pids.update(pool.pids)
                assert values(await pool.infer(1, request([float(number)] * 10_000), "raw"))[0] == 2.0 * number
                answered += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(caller)
        await until(lambda: len(pool.crew._all) == 1)
        note()
        for _ in range(4):
            pid = pool.pids
            async with anyio.create_task_group() as tasks:
                for _ in range(60):
                    tasks.start_soon(pool.infer, 1, request([1.0] * 10_000), "raw")
            await until(lambda pid=pid: pool.pids != pid and len(pool.crew._all) == 1)
            note()
        assert len(set(figures)) == 1, figures
        await until(lambda: _shared() <= before)
        assert pool.crew.restarts == 0


@pytest.mark.slow
async def test_a_worker_above_its_memory_is_exchanged(tmp_path):
    folder = write_models(tmp_path, LEAKY)
    async with running_pool(1, wear=Wear(memory_bytes=400 << 20)) as (pool, _):
        await load(pool, 1, "Leaky", folder)
        first = pool.pids[0]
        assert resident_bytes(first) < 300 << 20
        for _ in range(10):
            await pool.infer(1, request([float(50 << 20)]), "raw")
        await until(lambda: pool.pids and pool.pids != [first])
        assert pool.crew.restarts == 0


async def test_a_bound_below_what_a_fresh_worker_takes_has_no_effect_and_is_told(tmp_path, caplog):
    folder = write_models(tmp_path, LEAKY)
    async with running_pool(1, wear=Wear(memory_bytes=1 << 20)) as (pool, _):
        await load(pool, 1, "Leaky", folder)
        pids = pool.pids
        await pool.infer(1, request([1.0]), "raw")
        await until(lambda: "recycle_above_bytes 1048576 is too low, and has no effect" in caplog.text)
        assert pool.pids == pids


async def test_what_a_worker_holds_at_rest_has_its_models_also_where_calls_come_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(recycling, "_LOOK_SECONDS", 3600)  # the only look is that at a process that has just begun
    folder = write_models(tmp_path, LEAKY)
    async with running_pool(1, wear=Wear(memory_bytes=1 << 40)) as (pool, _):
        await load(pool, 1, "Leaky", folder)
        (link,) = pool.crew.links
        held = resident_bytes(link.pid)
        at_rest = link.at_rest_bytes
        assert 0.8 * held < at_rest < 1.25 * held
        await pool.infer(1, request([float(50 << 20)]), "raw")
        await load(pool, 2, "Leaky", folder)
        assert link.at_rest_bytes == at_rest < resident_bytes(link.pid) - (25 << 20)


async def test_a_stream_under_way_ends_on_the_worker_on_which_it_began(tmp_path):
    folder = write_models(tmp_path)
    async with running_pool(1, wear=Wear(calls=3)) as (pool, _):
        await load(pool, 1, "Double", folder)
        old = pool.pids[0]

        async def requests():
            for chunks in (2, 1):
                yield request([1.0], parameters={"chunks": chunks})
                if chunks == 2:
                    await until(lambda: pool.pids and pool.pids[0] != old)

        stream = pool.stream(1, requests(), "raw")
        got = [values(chunk)[0] for chunk in await anext(stream)]
        for _ in range(3):
            await pool.infer(1, request([1.0]), "raw")
        async for chunks in stream:
            got += [values(chunk)[0] for chunk in chunks]
        assert got == [0.0, 1.0, 0.0]
        await until(lambda: not Path(f"/proc/{old}").exists())
        assert len(pool.pids) == 1


@pytest.mark.slow
async def test_workers_of_a_pool_are_exchanged_one_after_the_other(tmp_path):
    folder = write_models(tmp_path)
    async with running_pool(2, wear=Wear(calls=10)) as (pool, _):
        await load(pool, 1, "AsyncDouble", folder)
        before = set(pool.pids)
        most = 0
        with anyio.fail_after(60):
            while before & set(pool.pids):
                await pool.infer(1, request([1.0]), "raw")
                most = max(most, sum(link.ready_at is None for link in pool.crew._all))
                assert len(pool.pids) == 2
        assert most == 1


@pytest.mark.slow
async def test_a_worn_worker_stays_while_its_successor_cannot_load_the_model(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("mlserve.recycling._AGAIN_SECONDS", 0.2)
    folder = write_models(tmp_path, LEAKY)
    (folder / "allowed").touch()
    async with running_pool(1, wear=Wear(calls=3)) as (pool, _):
        await load(pool, 1, "Once", folder)
        old = pool.pids
        (folder / "allowed").unlink()
        for _ in range(3):
            await pool.infer(1, request([1.0]), "raw")
        await until(lambda: "stays for now" in caplog.text)
        assert pool.pids == old
        await pool.infer(1, request([1.0]), "raw")
        (folder / "allowed").touch()
        await until(lambda: pool.pids and pool.pids != old, 60)
        await pool.infer(1, request([1.0]), "raw")


@pytest.mark.slow
async def test_a_worn_worker_that_dies_before_it_has_a_successor_is_started_again(tmp_path, caplog):
    folder = write_models(tmp_path)
    with caplog.at_level(logging.INFO, "mlserve.pool"):
        async with running_pool(1, wear=Wear(calls=2)) as (pool, _):
            await load(pool, 1, "Double", folder)
            old = pool.pids[0]
            for _ in range(2):
                await pool.infer(1, request([1.0]), "raw")
            await until(lambda: "a fresh one takes its seat" in caplog.text)
            os.kill(old, signal.SIGKILL)
            await until(lambda: old not in pool.pids and pool.pids)
            assert values(await pool.infer(1, request([1.0]), "raw")) == [2.0]
            await until(lambda: len(pool.crew._all) == 1)
            assert len(pool.pids) == 1


async def test_a_pool_can_be_stopped_while_a_worker_is_exchanged(tmp_path, caplog):
    folder = write_models(tmp_path)
    with caplog.at_level(logging.INFO, "mlserve.pool"):
        async with running_pool(1, wear=Wear(calls=1)) as (pool, _):
            await load(pool, 1, "Double", folder)
            await pool.infer(1, request([1.0]), "raw")
            await until(lambda: "a fresh one takes its seat" in caplog.text)
            links = list(pool.crew._all)
        assert all(not Path(f"/proc/{link.pid}").exists() for link in links)


async def test_a_pool_ends_quietly_though_the_successor_of_a_worker_ends_before_it_was_ready(tmp_path):
    folder = write_models(tmp_path, LEAKY)
    async with running_pool(1, wear=Wear(calls=1)) as (pool, _):
        await load(pool, 1, "Gated", folder)
        (folder / "gate").touch()
        await pool.infer(1, request([1.0]), "raw")
        await until((folder / "waiting").exists)
    assert (folder / "unloaded").exists()


@pytest.mark.slow
async def test_few_worn_workers_linger_however_many_streams_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr("mlserve.recycling._MOST_LINGERING", 2)
    folder = write_models(tmp_path)
    async with running_pool(1, wear=Wear(calls=2)) as (pool, _), anyio.create_task_group() as tasks:
        await load(pool, 1, "Double", folder)
        ends = [anyio.Event() for _ in range(4)]

        async def requests(end):
            yield request([1.0], parameters={"chunks": 1})
            await end.wait()

        async def stream(end, *, task_status):
            stream = pool.stream(1, requests(end), "raw")
            await anext(stream)
            task_status.started()
            assert [chunk async for chunk in stream] == []

        for number, end in enumerate(ends):
            pids = list(pool.pids)
            await tasks.start(stream, end)
            await pool.infer(1, request([1.0]), "raw")
            if number < 2:
                await until(lambda pids=pids: pool.pids and pool.pids != pids)
        assert pool.crew.links[0].worn.is_set()
        assert pool.pids == pids and len(pool.crew._all) == 3
        ends[0].set()
        await until(lambda: pool.pids and pool.pids != pids)
        assert len(pool.crew._all) == 3
        for end in ends:
            end.set()
        await until(lambda: len(pool.crew._all) == 1)


@pytest.mark.parametrize("kind", ["Threaded", "Hanging"])
async def test_a_worker_that_does_not_end_when_it_is_exchanged_is_killed(tmp_path, caplog, monkeypatch, kind):
    monkeypatch.setattr("mlserve.recycling.UNLOAD_SECONDS", 0.2)
    folder = write_models(tmp_path, LEAKY)
    async with running_pool(1, wear=Wear(calls=2)) as (pool, _):
        await load(pool, 1, kind, folder)
        old = pool.pids[0]
        for _ in range(2):
            await pool.infer(1, request([1.0]), "raw")
        await until(lambda: old not in pool.pids and not Path(f"/proc/{old}").exists())
        assert f"worker {old} of pool test is killed: it did not end within 0.2 s" in caplog.text
        assert pool.crew.restarts == 0
        assert pool.crew._observer.restarts == [("test", "lingered")]
        assert values(await pool.infer(1, request([1.0]), "raw")) != [float(old)]


@pytest.mark.slow
async def test_the_next_exchange_waits_until_the_process_before_has_ended(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("mlserve.recycling.UNLOAD_SECONDS", 1000.0)
    folder = write_models(tmp_path, LEAKY)
    with caplog.at_level(logging.INFO, "mlserve.pool"):
        async with running_pool(1, stop_seconds=0.2, wear=Wear(calls=1)) as (pool, _):
            await load(pool, 1, "Threaded", folder)
            first = pool.pids[0]
            await pool.infer(1, request([1.0]), "raw")
            await until((folder / "unloaded").exists)
            assert pool.pids != [first]
            second = pool.pids[0]
            for _ in range(20):
                await pool.infer(1, request([1.0]), "raw")
            assert pool.pids == [second] and len(pool.crew._all) == 2
            os.kill(first, signal.SIGKILL)
            await until(lambda: pool.pids != [second])


async def test_a_failing_call_counts_as_any_other(tmp_path):
    folder = write_models(tmp_path)
    async with running_pool(1, wear=Wear(calls=2)) as (pool, _):
        await load(pool, 1, "Failing", folder)
        old = pool.pids
        for _ in range(2):
            with pytest.raises(MLServeError) as caught:
                await pool.infer(1, request([1.0]), "raw")
            assert not isinstance(caught.value, WorkerDied)
        await until(lambda: pool.pids != old)
