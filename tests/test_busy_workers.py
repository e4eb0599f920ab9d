"""A worker that says nothing is ended if it is busy for nobody, and only then; a death is blamed on what ran."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from mlserve import crew, frames, loading, recovery
from mlserve.batching import Rule
from mlserve.bounds import Bounds
from mlserve.errors import MLServeError, RequestRefused, WorkerDied
from mlserve.settings import ModelSettings
from tests.engine import request, running_pool, until, values, write_models
from tests.serving import serving, write_model
from tests.unread import until as wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # what happens in the worker: it has no other
HARD = Bounds(hard_timeout_seconds=0.3)
TOGETHER = Rule(3, 30.0, eager=False)

MODELS = '''
import asyncio, os, time
from pathlib import Path
from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput

HERE = Path(__file__).parent


def hold(name):
    """Blocks the worker while the file "gate" is there."""
    (HERE / f"begun-{name}").touch()
    while (HERE / "gate").exists():
        time.sleep(0.002)


def answer(model, request):
    one = request.inputs[0]
    data = one.data.to_numpy(one.datatype, one.shape)
    return InferenceResponse(
        model_name=model.name,
        outputs=[ResponseOutput(name="y", shape=one.shape, datatype=one.datatype, data=data)],
    )


def alone(model, request):
    """Fails for several rows; of single ones -1 ends the process, 1 is held up at the gate."""
    rows = request.inputs[0].data
    if len(rows) > 1:
        raise ValueError("one by one")
    if rows[0] == -1:
        os._exit(9)
    if rows[0] == 1:
        hold("alone")
    return answer(model, request)


class SlowLoad(MLModel):
    def load(self):
        hold("load")
        return True

    def unload(self):
        hold("unload")

    def predict(self, request):
        return answer(self, request)


class Waiter(MLModel):
    """Awaits for ever."""

    async def predict(self, request):
        (HERE / "begun-waiter").touch()
        await asyncio.Event().wait()


class Alone(MLModel):
    def predict(self, request):
        return alone(self, request)


class AsyncAlone(MLModel):
    async def predict(self, request):
        await asyncio.sleep(0)
        found = alone(self, request)
        await asyncio.sleep(0)
        return found


class Computing(MLModel):
    async def predict_stream(self, requests):
        async for request in requests:
            yield answer(self, request)
            hold("stream")
            yield answer(self, request)
'''


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(crew, "_PONG_SECONDS", 0.5)
    monkeypatch.setattr(recovery, "BACKOFF_SECONDS", (0.0, 0.01))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "gate").touch()
    return write_models(tmp_path, MODELS)


async def _load(pool: Any, number: int, name: str, folder: Path, rule: Rule | None = None) -> None:
    settings = ModelSettings(name=name.lower(), implementation=f"models.{name}")
    await pool.load(frames.Load(number, settings.model_dump_json().encode(), str(folder)), rule, HARD)


async def _leaves(pool: Any, number: int, begun: Path) -> None:
    """A caller that leaves when its call has begun."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.infer, number, request([0.0]), "json")
        await until(begun.exists)
        tasks.cancel_scope.cancel()


async def _holds(folder: Path, place: str, work: Callable[[], Awaitable[Any]], meanwhile: Any = None) -> Any:
    """What becomes of work that holds the worker up for longer than a call may that nobody waits for."""
    found: list[Any] = []

    async def run() -> None:
        found.append(await work())

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await until((folder / f"begun-{place}").exists)
            if meanwhile is not None:
                meanwhile.cancel()
            await anyio.sleep(1.5)
            (folder / "gate").unlink()
    return found[0]


@ASYNCIO
async def test_a_load_and_an_unload_have_a_time_of_their_own_whoever_leaves_meanwhile(folder, monkeypatch):
    async with running_pool(1) as (pool, _), anyio.create_task_group() as tasks:
        await _load(pool, 1, "Waiter", folder)
        await _load(pool, 3, "Alone", folder)
        left = anyio.CancelScope()

        async def waits() -> None:
            with left:
                await pool.infer(1, request([0.0]), "json")

        tasks.start_soon(waits)
        await until((folder / "begun-waiter").exists)
        await _holds(folder, "load", lambda: _load(pool, 2, "SlowLoad", folder), left)
        (folder / "gate").touch()
        left = anyio.CancelScope()
        (folder / "begun-waiter").unlink()
        tasks.start_soon(waits)
        await until((folder / "begun-waiter").exists)
        await _holds(folder, "unload", lambda: pool.unload(2), left)
        assert values(await pool.infer(3, request([5.0]), "json")) == [5.0]
        assert pool.crew.restarts == 0


@ASYNCIO
@pytest.mark.parametrize("name", ["Alone", "AsyncAlone"])
async def test_a_member_of_a_failed_batch_that_runs_alone_for_nobody_ends_its_worker(folder, name):
    async with running_pool(1) as (pool, _), anyio.create_task_group() as tasks:
        await _load(pool, 1, name, folder, TOGETHER)
        ended = []

        async def ask(value: float) -> None:
            with suppress(WorkerDied):  # those behind may have begun
                await pool.infer(1, request([value]), "json")
            ended.append(value)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as others, anyio.create_task_group() as leaving:
                leaving.start_soon(ask, 1.0)
                await until(lambda: pool.waiting_count == 1)
                others.start_soon(ask, 2.0)
                others.start_soon(ask, 3.0)
                await until((folder / "begun-alone").exists)
                leaving.cancel_scope.cancel()
        assert sorted(ended) == [2.0, 3.0]
        await until(lambda: pool.crew._observer.restarts == [("test", "stuck")])
        tasks.cancel_scope.cancel()


@ASYNCIO
@pytest.mark.parametrize("name", ["Alone", "AsyncAlone"])
async def test_a_member_of_a_failed_batch_that_computes_for_somebody_goes_on(folder, name):
    async with running_pool(1) as (pool, _):
        await _load(pool, 1, name, folder, TOGETHER)
        left, found = anyio.CancelScope(), []

        async def ask(value: float, scope: anyio.CancelScope) -> None:
            with scope:
                found.append(values(await pool.infer(1, request([value]), "json")))

        async def all_three() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, 1.0, anyio.CancelScope())
                await until(lambda: pool.waiting_count == 1)
                tasks.start_soon(ask, 2.0, left)
                tasks.start_soon(ask, 3.0, anyio.CancelScope())

        await _holds(folder, "alone", all_three, left)
        assert sorted(found) == [[1.0], [3.0]]
        assert pool.crew.restarts == 0


@ASYNCIO
async def test_a_stream_may_compute_whoever_leaves_and_whatever_is_unloaded_meanwhile(folder, monkeypatch):
    monkeypatch.setattr(loading, "UNLOAD_SECONDS", 0.3)
    async with running_pool(1) as (pool, _), anyio.create_task_group() as tasks:
        await _load(pool, 1, "Waiter", folder)
        await _load(pool, 2, "Computing", folder)
        await _load(pool, 3, "Alone", folder)
        tasks.start_soon(_leaves_while, pool, folder)
        await until((folder / "begun-waiter").exists)

        async def requests() -> Any:
            yield request([5.0])

        async def stream() -> list[Any]:
            found = []
            async with aclosing(pool.stream(2, requests(), "raw")) as chunks:
                async for some in chunks:
                    found += [values(one) for one in some]
                    if len(found) == 1:
                        tasks.start_soon(pool.unload, 3)
            return found

        assert await _holds(folder, "stream", stream) == [[5.0], [5.0]]
        assert pool.crew.restarts == 0


async def _leaves_while(pool: Any, folder: Path) -> None:
    """A caller that leaves while a stream computes."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.infer, 1, request([0.0]), "json")
        await until((folder / "begun-stream").exists)
        tasks.cancel_scope.cancel()


@ASYNCIO
@pytest.mark.parametrize("name", ["Alone", "AsyncAlone"])
async def test_a_content_is_known_that_ends_workers_after_its_batch_was_taken_apart(folder, name):
    (folder / "gate").unlink()
    async with running_pool(1) as (pool, _):
        await _load(pool, 1, name, folder, TOGETHER)
        outcomes: list[str] = []

        async def ask(value: float) -> None:
            try:
                await pool.infer(1, request([value]), "json")
            except MLServeError as error:
                outcomes.append(type(error).__name__)

        async with anyio.create_task_group() as tasks:
            for value in (2.0, 3.0, -1.0):
                tasks.start_soon(ask, value)
        await ask(-1.0)
        assert set(outcomes) == {WorkerDied.__name__}
        with pytest.raises(RequestRefused):
            await pool.infer(1, request([-1.0]), "json")
        assert pool.crew.restarts == 2
        await until(lambda: not pool.why_not(1))  # the model is not to blame


BACKGROUND = """
import asyncio, json, time
from pathlib import Path
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse
from mlserve import MLModel
from mlserve.handlers import custom_handler
from mlserve.types import InferenceResponse


async def block():
    await asyncio.sleep(0.01)
    while Path(__file__).with_name("gate").exists():
        time.sleep(0.01)


class Model(MLModel):
    @custom_handler("/blocks", "GET")
    async def blocks(self):
        return JSONResponse({}, background=BackgroundTask(block))

    def predict(self, request):
        return InferenceResponse(model_name=self.name, outputs=[])
"""


def test_what_follows_an_answered_handler_and_blocks_ends_its_worker(tmp_path):
    place = write_model(tmp_path, "model", "model.Model")
    (place / "model.py").write_text(BACKGROUND)
    (place / "gate").touch()
    (tmp_path / "settings.json").write_text(json.dumps({"hard_timeout_seconds": 0.5}))
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}
    with serving(tmp_path, "--parallel-workers", "1") as server:
        assert httpx.get(f"{server.rest}/blocks", timeout=60).status_code == 200
        assert httpx.post(f"{server.rest}/v2/models/model/infer", json=body, timeout=60).status_code == 200
        page = f"http://{server.addresses['metrics']}/metrics"
        wait_until(lambda: 'reason="stuck"' in httpx.get(page).text)  # it may block only after the call
