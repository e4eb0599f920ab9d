"""What a load, a reload and an unload leave alone: the version that serves, open streams, other pools."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager

import anyio
import pytest
from trio.testing import MockClock

from mlserve.dataplane import DataPlane
from mlserve.errors import ModelLoadError, ModelNotFound, ServerStopping
from mlserve.metrics import Metrics
from mlserve.models import Model, Models
from mlserve.pools import Pools
from mlserve.repository import ModelRepository
from mlserve.settings import ModelSettings, Settings
from mlserve.types import State
from tests.engine import request, until, values
from tests.serving import is_alive, write_model

pytestmark = pytest.mark.anyio

MODEL = '''
import asyncio, os, time
from pathlib import Path
from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput

VERSION = 1.0


class Versioned(MLModel):
    """Answers with its version; streams it until the caller leaves."""

    def load(self):
        with Path(__file__).with_name("loads").open("a") as loads:
            loads.write(f"{os.getpid()}\\n")
        return True

    def unload(self):
        with Path(__file__).with_name("unloads").open("a") as unloads:
            unloads.write(f"{VERSION}\\n")

    def predict(self, request):
        return self.answer()

    async def predict_stream(self, requests):
        async for request in requests:
            while True:
                yield self.answer()
                await asyncio.sleep(0.002)

    def answer(self):
        output = ResponseOutput(name="version", shape=[1], datatype="FP32", data=[VERSION])
        return InferenceResponse(model_name=self.name, outputs=[output])
'''
ENDS, HANGS = "os._exit(3)", "time.sleep(1000)"


@pytest.fixture
def place(tmp_path):
    place = write_model(tmp_path, "m", "models.Versioned", load_timeout_seconds=60)
    _write(place)
    return place


def _write(place, version=1.0, load="return True", **settings):
    """The model's files as somebody edits them."""
    text = MODEL.replace("VERSION = 1.0", f"VERSION = {version}").replace("return True", load)
    (place / "models.py").write_text(text)
    if settings:
        write_model(place.parent, "m", "models.Versioned", **settings)


@asynccontextmanager
async def _plane(place, workers=0, shutdown_timeout_seconds=25.0):
    settings = Settings(parallel_workers=workers, shutdown_timeout_seconds=shutdown_timeout_seconds)
    metrics = Metrics()
    pools = Pools(settings, metrics)
    models = Models(ModelRepository(place.parent), pools, settings)
    async with anyio.create_task_group() as tasks:
        await tasks.start(pools.run)
        await tasks.start(models.run)
        await models.load_all(await models.expect_all())
        try:
            yield DataPlane(settings, models, metrics), models, pools
        finally:
            tasks.cancel_scope.shield = True
            models.stop()
            await pools.stop(3.0)


async def _version(plane):
    return values(await plane.infer(request([1.0]), "m"))[0]


@pytest.mark.parametrize(
    ("load", "seconds", "told"),
    [(ENDS, 60, "the process in which its load.. was tried ended with exit code 3"), (HANGS, 1, "within 1 s")],
)
async def test_a_reload_that_ends_or_hangs_its_process_leaves_the_only_worker_and_the_old_version(
    place, load, seconds, told
):
    async with _plane(place, workers=1) as (plane, models, pools):
        (pool,) = pools
        pids = pool.pids
        _write(place, 2.0, load, load_timeout_seconds=seconds)
        with pytest.raises(ModelLoadError, match=told):
            await models.load("m")
        assert pool.pids == pids and pool.crew.restarts == 0
        assert await _version(plane) == 1.0
        assert [(one.state, one.reason) for one in await models.index()] == [(State.READY, "")]
        _write(place, 3.0, load_timeout_seconds=60)
        await models.load("m")
        assert await _version(plane) == 3.0
        assert pool.pids == pids


async def test_a_reload_is_tried_in_a_process_that_has_ended_before_the_workers_load(place):
    async with _plane(place, workers=1) as (plane, models, pools):
        (pool,) = pools
        _write(place, 2.0)
        await models.load("m")
        assert await _version(plane) == 2.0
        await until((place / "unloads").exists)
        first, tried, second = map(int, (place / "loads").read_text().split())
        assert [first] == [second] == pool.pids and tried != first
        assert (place / "unloads").read_text().split()[0] == "2.0", "the trial unloads what it has loaded"
        assert not is_alive(tried)


async def test_the_first_load_of_a_name_is_not_tried_before(place):
    async with _plane(place, workers=1) as (plane, models, _):
        await models.unload("m")
        await models.load("m")
        assert await _version(plane) == 1.0
        assert len(set((place / "loads").read_text().split())) == 1


async def test_a_reload_that_says_not_ready_replaces_the_old_version_in_spite_of_the_trial(place):
    async with _plane(place, workers=1) as (_, models, _):
        _write(place, 2.0, "return False")
        with pytest.raises(ModelLoadError, match="not ready"):
            await models.load("m")
        assert [one.state for one in await models.index()] == [State.UNKNOWN]


class _Streaming:
    """Somebody who reads a stream for ever."""

    def __init__(self, plane):
        self._plane = plane
        self.seen = set()
        self.count = 0
        self.ended = None

    async def run(self):
        async def requests():
            yield request([1.0])

        try:
            async with aclosing(self._plane.infer_stream(requests(), "m")) as answers:
                async for chunks in answers:
                    self.count += len(chunks)
                    self.seen.update(values(chunk)[0] for chunk in chunks)
        except ServerStopping as error:
            self.ended = error

    async def goes_on(self):
        before = self.count
        await until(lambda: self.count > before, 60)


async def test_an_open_stream_holds_up_neither_reloads_nor_calls(place):
    async with _plane(place) as (plane, models, _), anyio.create_task_group() as tasks:
        old, new = _Streaming(plane), _Streaming(plane)
        tasks.start_soon(old.run)
        await old.goes_on()
        with anyio.fail_after(60):
            for version in (2.0, 3.0):
                _write(place, version)
                await models.load("m")
                assert await _version(plane) == version
        tasks.start_soon(new.run)
        await old.goes_on()
        await new.goes_on()
        assert (old.seen, new.seen) == ({1.0}, {3.0})
        tasks.cancel_scope.cancel()


async def test_a_stream_on_a_version_that_was_replaced_goes_on_until_the_model_is_changed_again(place):
    async with (
        _plane(place, shutdown_timeout_seconds=0.1) as (plane, models, pools),
        anyio.create_task_group() as tasks,
    ):
        stream = _Streaming(plane)
        tasks.start_soon(stream.run)
        await stream.goes_on()
        _write(place, 2.0)
        await models.load("m")
        await anyio.sleep(0.5)
        await stream.goes_on()
        assert stream.ended is None
        _write(place, 3.0)
        await models.load("m")
        await until(lambda: stream.ended is not None, 60)
        assert stream.seen == {1.0}
        await until(lambda: sum(len(pool.crew._models) for pool in pools) == 1, 60)
        assert await _version(plane) == 3.0


async def test_an_unload_takes_the_name_away_at_once_and_open_calls_after_their_time(place):
    async with (
        _plane(place, shutdown_timeout_seconds=0.5) as (plane, models, pools),
        anyio.create_task_group() as tasks,
    ):
        stream = _Streaming(plane)
        tasks.start_soon(stream.run)
        await stream.goes_on()
        tasks.start_soon(models.unload, "m")
        await until(lambda: next(iter(models)).condition()[0] is not State.READY, 60)
        with pytest.raises(ModelNotFound):
            await _version(plane)
        await until(lambda: next(iter(models)).condition()[0] is State.UNAVAILABLE, 60)
        assert stream.ended is not None and not stream.ended.retryable
        assert "unloaded before its answer" in stream.ended.message
        assert not any(pool.crew._models for pool in pools)


async def test_a_model_can_be_loaded_while_its_unload_waits_for_a_stream(place):
    async with _plane(place) as (plane, models, _), anyio.create_task_group() as tasks:
        stream = _Streaming(plane)
        tasks.start_soon(stream.run)
        await stream.goes_on()
        tasks.start_soon(models.unload, "m")
        await until(lambda: next(iter(models)).condition()[0] is State.UNLOADING, 60)
        with anyio.fail_after(60):
            await models.load("m")
        assert await _version(plane) == 1.0
        await stream.goes_on()
        tasks.cancel_scope.cancel()


async def test_a_call_that_waits_for_company_goes_when_its_model_is_replaced(place):
    _write(place, max_batch_size=8, max_batch_time=1000.0, batch_eager=False)
    found = []
    async with _plane(place) as (plane, models, pools), anyio.create_task_group() as tasks:
        (pool,) = pools

        async def ask():
            found.append(await _version(plane))

        tasks.start_soon(ask)
        await until(lambda: pool.waiting_count == 1)
        _write(place, 2.0)
        await models.load("m")
        await until(lambda: found)
        assert found == [1.0]


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})])
async def test_calls_may_take_for_ever_until_they_are_hurried(anyio_backend):
    model = Model(1, ModelSettings(name="m", implementation="x.Y"))
    with model.in_use():
        with anyio.move_on_after(100_000.0) as waiting:
            await model.until_unused(25.0)
        assert waiting.cancelled_caught
        model.hurry.set()
        started = anyio.current_time()
        await model.until_unused(25.0)
        assert anyio.current_time() - started == pytest.approx(25.0)


async def test_a_pool_that_starts_or_stops_holds_up_no_other(monkeypatch):
    slow, quick = (ModelSettings(name=name, implementation="x.Y", parallel_workers=0) for name in ("slow", "quick"))
    pools = Pools(Settings(parallel_workers=0), Metrics())
    begun, gate = anyio.Event(), anyio.Event()
    start = pools._start

    async def held_up(place):
        if "slow" in place.name:
            begun.set()
            await gate.wait()
        return await start(place)

    monkeypatch.setattr(pools, "_start", held_up)
    async with anyio.create_task_group() as tasks:
        await tasks.start(pools.run)
        async with anyio.create_task_group() as loads:
            loads.start_soon(pools.of, slow)
            await begun.wait()
            with anyio.fail_after(60):
                await pools.leave(await pools.of(quick))
            gate.set()
        assert [one.name for one in pools] == ["default", "model slow - of 0"]
        await pools.stop(3.0)
