"""What is told of models while a server starts: all of them, from the first moment, and nothing that is not so yet."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager

import anyio
import pytest

from mlserve.dataplane import DataPlane
from mlserve.errors import ModelLoadError, ModelNotFound, ModelNotReady, ServerStopping
from mlserve.metrics import Metrics
from mlserve.models import Models
from mlserve.pools import Pools
from mlserve.repository import ModelRepository
from mlserve.server import Server
from mlserve.settings import Settings
from mlserve.types import State
from tests.engine import request, until, values
from tests.serving import write_model

pytestmark = pytest.mark.anyio

MODEL = '''
import asyncio
from pathlib import Path
from mlserve import MLModel
from mlserve.types import InferenceResponse


class Gated(MLModel):
    """Loads once its gate is gone."""

    async def load(self):
        place = Path(__file__).parent
        with (place / "loads").open("a") as loads:
            loads.write("x")
        while (place / "gate").exists():
            await asyncio.sleep(0.002)
        return True

    async def predict(self, request):
        return InferenceResponse(model_name=self.name, outputs=[request.inputs[0].model_dump()])
'''


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        (write_model(tmp_path, name, "models.Gated", max_batch_size=4, max_batch_time=0.01) / "models.py").write_text(
            MODEL
        )
    return tmp_path


@asynccontextmanager
async def _starting(folder):
    """A data plane whose models are being loaded; `a` waits for its gate, `b` for its turn."""
    (folder / "a" / "gate").touch()
    settings = Settings(parallel_workers=0)
    metrics = Metrics()
    pools = Pools(settings, metrics)
    models = Models(ModelRepository(folder), pools, settings)
    expected = await models.expect_all()
    async with anyio.create_task_group() as tasks:
        await tasks.start(pools.run)
        await tasks.start(models.run)
        loaded = anyio.Event()

        async def load_all() -> None:
            await models.load_all(expected)
            loaded.set()

        tasks.start_soon(load_all)
        await until((folder / "a" / "loads").exists)
        try:
            yield DataPlane(settings, models, metrics), models, loaded
        finally:
            (folder / "a" / "gate").unlink(missing_ok=True)
            with anyio.fail_after(60):
                await loaded.wait()
            models.stop()
            await pools.stop(3.0)


async def test_every_model_is_told_as_loading_from_the_first_moment(folder):
    async with _starting(folder) as (plane, models, loaded):
        assert [(one.name, one.state) for one in await models.index()] == [("a", State.LOADING), ("b", State.LOADING)]
        assert await models.index(ready_only=True) == []
        for name in ("a", "b"):
            assert not plane.model_ready(name)
            assert plane.model_metadata(name).name == name
            with pytest.raises(ModelNotReady, match="is not ready yet"):
                await plane.infer(request([1.0]), name)
        with pytest.raises(ModelNotFound):
            plane.model_ready("c")
        assert list(models.batched()) == [], "there are no lines yet"
        (folder / "a" / "gate").unlink()
        await loaded.wait()
        assert [(one.state, one.reason) for one in await models.index()] == [(State.READY, "")] * 2
        assert values(await plane.infer(request([1.0]), "b")) == [1.0]
        assert len(list(models.batched())) == 2


async def test_they_are_loading_before_the_first_worker_is_up(folder):
    settings = Settings(parallel_workers=0)
    models = Models(ModelRepository(folder), Pools(settings, Metrics()), settings)
    await models.expect_all()
    async with anyio.create_task_group() as tasks:
        await tasks.start(models.run)
        assert [one.state for one in await models.index()] == [State.LOADING, State.LOADING]
        with pytest.raises(ModelNotReady):
            models.ready("a")
        models.stop()


async def test_a_model_that_is_loaded_by_hand_before_its_turn_is_not_loaded_twice(folder):
    async with _starting(folder) as (plane, models, loaded):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(models.load, "b")  # one worker loads one model after the other
            await anyio.wait_all_tasks_blocked()
            (folder / "a" / "gate").unlink()
        await loaded.wait()
        assert values(await plane.infer(request([1.0]), "b")) == [1.0]
    assert (folder / "b" / "loads").read_text() == "x"


async def test_a_model_that_is_unloaded_before_its_turn_stays_away(folder):
    async with _starting(folder) as (plane, models, loaded):
        await models.unload("b")
        with pytest.raises(ModelNotFound):
            plane.model_ready("b")
        (folder / "a" / "gate").unlink()
        await loaded.wait()
        assert [one.state for one in await models.index()] == [State.READY, State.UNAVAILABLE]
        assert models.all_ready()
    assert not (folder / "b" / "loads").exists()


@asynccontextmanager
async def _running(repository):
    """The models of a repository, none of them loaded."""
    settings = Settings(parallel_workers=0)
    pools = Pools(settings, Metrics())
    models = Models(repository, pools, settings)
    async with anyio.create_task_group() as tasks:
        await tasks.start(pools.run)
        await tasks.start(models.run)
        yield models
        models.stop()
        await pools.stop(3.0)


async def test_names_that_nobody_has_are_not_kept(folder):
    async with _running(ModelRepository(folder)) as models:
        for change in (models.load, models.unload):
            for name in ("nobody", "n" * 1025):
                with pytest.raises(ModelNotFound):
                    await change(name)
            async with anyio.create_task_group() as tasks:
                for _ in range(3):  # at the same time, too
                    tasks.start_soon(_refused, change)
        assert not models._locks and not models._retiring
        await models.load("a")
        await models.load("a")
        await models.unload("a")
        await until(lambda: not models._retiring)
        assert not models._locks


async def _refused(change):
    with pytest.raises(ModelNotFound):
        await change("nobody")


async def test_a_name_that_is_too_long_is_told_by_its_beginning(folder):
    async with _running(ModelRepository(folder)) as models:
        for ask in (models.load, models.unload):
            with pytest.raises(ModelNotFound) as caught:
                await ask("n" * 2_000_000)
            assert len(caught.value.message) < 400
        with pytest.raises(ModelNotFound) as caught:
            models.find("n" * 2_000_000, "v" * 2_000_000)
        assert len(caught.value.message) < 700


class _Slow(ModelRepository):
    """Reading takes until the event loop has seen that it is under way."""

    def __init__(self, root):
        super().__init__(root)
        self.began, self.go = threading.Event(), threading.Event()
        self.lock = threading.Lock()
        self.inside = self.most = 0

    def list(self):
        self._wait()
        return super().list()

    def find(self, name):
        self._wait()
        return super().find(name)

    def _wait(self):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.began.set()
        assert self.go.wait(60), "the event loop waits for us"
        with self.lock:
            self.inside -= 1


@pytest.mark.parametrize("ask", ["index", "load"])
async def test_reading_the_repository_holds_up_nobody(folder, ask):
    repository = _Slow(folder)
    async with _running(repository) as models:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(models.load, "a") if ask == "load" else tasks.start_soon(models.index)
            await until(repository.began.is_set, 60)
            repository.go.set()
        assert {one.name for one in await models.index()} == {"a", "b"}


@pytest.mark.parametrize("anyio_backend", ["asyncio", pytest.param("trio", marks=pytest.mark.own_process)])
async def test_a_server_that_starts_can_be_stopped_while_its_repository_is_read(folder, anyio_backend):
    repository = _Slow(folder)
    made = Settings(parallel_workers=0, host="127.0.0.1", http_port=0, grpc_port=0, metrics_endpoint=None)
    server = Server(made, repository)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run)
        await until(repository.began.is_set, 60)
        server.stop()
    assert not list(server.models)
    repository.go.set()


async def test_whoever_asks_for_the_repository_may_leave_while_it_is_read(folder):
    repository = _Slow(folder)
    async with _running(repository) as models:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(models.index)
            await until(repository.began.is_set, 60)
            tasks.cancel_scope.cancel()
        repository.go.set()
        assert len(await models.index()) == 2


async def test_those_who_leave_while_the_repository_is_read_cost_one_thread_in_all(folder):
    repository = _Slow(folder)
    async with _running(repository) as models:
        for _ in range(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(models.index)
                await until(repository.began.is_set, 60)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            assert models._reading.borrowed_tokens == 1, "by the thread that still reads"
        repository.go.set()
        assert len(await models.index()) == 2
        assert repository.most == 1
        await anyio.wait_all_tasks_blocked()
        assert models._reading.borrowed_tokens == 0


async def test_whoever_asks_for_the_repository_when_the_server_stops_is_told(folder):
    repository = _Slow(folder)
    async with _running(repository) as models:
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                with pytest.raises(ServerStopping):
                    await models.index()

            tasks.start_soon(ask)
            await until(repository.began.is_set, 60)
            models.stop()
        repository.go.set()


async def test_what_nobody_foresaw_in_one_models_load_fails_that_model_only(folder, caplog, monkeypatch):
    place_of = Pools.of

    async def of(pools, settings):
        if settings.name == "a":
            raise IndexError("a surprise")
        return await place_of(pools, settings)

    monkeypatch.setattr(Pools, "of", of)
    settings = Settings(parallel_workers=0)
    pools = Pools(settings, Metrics())
    models = Models(ModelRepository(folder), pools, settings)
    expected = await models.expect_all()
    async with anyio.create_task_group() as tasks:
        await tasks.start(pools.run)
        await tasks.start(models.run)
        await models.load_all(expected)
        assert [(one.state, one.reason) for one in await models.index()] == [
            (State.UNAVAILABLE, "IndexError: a surprise"),
            (State.READY, ""),
        ]
        assert "model 'a' failed to load" in caplog.text and "Traceback" in caplog.text
        with pytest.raises(ModelLoadError, match="IndexError: a surprise"):
            await models.load("a")
        monkeypatch.undo()
        await models.load("a")
        assert models.all_ready()
        models.stop()
        await pools.stop(3.0)
