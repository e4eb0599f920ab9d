"""Which models are loaded, in which versions and states: load, swap, unload.

    (unknown) ──load──▶ LOADING ──▶ READY ──unload──▶ UNLOADING ──▶ UNAVAILABLE
                           ├──────▶ UNAVAILABLE, with the reason: load() raised
                           └──────▶ UNKNOWN, with the reason: load() said that the model is not ready

A reload brings the new model up beside the old one and then exchanges them. From then on the old one retires: calls
that began on it end on it, then it is unloaded. If the new one raises, the old one stays; if it says that it is not
ready, that holds, and the old one goes. Loads and unloads of one name happen one after the other; neither calls nor
models that retire are waited for.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.abc
import msgspec

from mlserve import frames
from mlserve.batching import Line, rule_of
from mlserve.bounds import Bounds
from mlserve.errors import MLServeError, ModelLoadError, ModelNotFound, ModelNotReady, ServerStopping, from_exception
from mlserve.pool import Pool
from mlserve.pools import Pools
from mlserve.repository import ModelRepository, version_key
from mlserve.settings import ModelSettings, Settings
from mlserve.types import MetadataModelResponse, RepositoryIndexResponseItem, State

_logger = logging.getLogger("mlserve.models")
_LONGEST_NAME = 1024  # characters; nobody has a model of a longer one, whoever asks for it


class Model:
    """One version of a model, loaded in a pool. Replaced as a whole by a reload."""

    pool: Pool  # set once there is one: not before the model's environment is ready

    def __init__(self, number: int, settings: ModelSettings) -> None:
        self.number = number  # what the workers know it by
        self.settings = settings
        self.name = settings.name
        self.version = settings.version
        self.state = State.LOADING
        self.reason = ""
        self.wanted = False  # the server is not ready without it: it was there at the start, or has been ready since
        self.metadata = MetadataModelResponse(name=settings.name, platform=settings.platform)
        self.details: dict[str, Any] = {}
        self.rule = rule_of(settings)  # how its calls are grouped
        self._in_use = 0
        self._unused = anyio.Event()
        self.hurry = anyio.Event()  # the calls that keep it have not for ever any more
        self.retired = anyio.Event()  # it is out of its workers, and was in them

    def __repr__(self) -> str:
        return f"<Model {self.name} {self.version or '-'}: {self.state.value}, {self._in_use} calls>"

    @property
    def batched(self) -> bool:
        """Whether its calls may be grouped."""
        return self.rule.calls > 1

    @property
    def is_gone(self) -> bool:
        """Whether it is as if it had never been there: unloaded, or never loaded since."""
        return self.state in (State.UNAVAILABLE, State.UNLOADING) and not self.wanted

    def condition(self) -> tuple[State, str]:
        """Its state, with the reason; UNAVAILABLE also while no worker is up that could run it."""
        if self.state is not State.READY:
            return self.state, self.reason
        reason = self.pool.why_not(self.number)
        return (State.UNAVAILABLE, reason) if reason else (State.READY, "")

    @property
    def serves(self) -> bool:
        """Whether a call would be run now. Calls are taken, and wait, as long as `state` is READY."""
        return self.condition()[0] is State.READY

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within this context the model is not unloaded."""
        self._in_use += 1
        try:
            yield
        finally:
            self._in_use -= 1
            if not self._in_use:
                self._unused.set()

    async def until_unused(self, most_seconds: float) -> None:
        """Waits until no call uses the model any more; from `hurry` on so many seconds at most."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hurry, tasks.cancel_scope, most_seconds)
            while self._in_use:
                self._unused = anyio.Event()
                await self._unused.wait()
            tasks.cancel_scope.cancel()

    async def _hurry(self, waiting: anyio.CancelScope, seconds: float) -> None:
        await self.hurry.wait()
        await anyio.sleep(seconds)
        waiting.cancel()


class Models:
    """All models of one server, by name and version."""

    def __init__(self, repository: ModelRepository, pools: Pools, settings: Settings) -> None:
        self._repository = repository
        self._pools = pools
        self._settings = settings
        self._models: dict[str, dict[str | None, Model]] = {}
        self._default: dict[str, Model] = {}  # the version that answers where none is asked for
        self._reading = anyio.CapacityLimiter(repository.readers)
        self._locks: dict[str, anyio.Lock] = {}  # of the names that are being loaded or unloaded
        self._retiring: dict[str, list[Model]] = {}  # by name: replaced or unloaded, and not yet out of their workers
        self._numbers = itertools.count(1)
        self._all_tried = False  # the models of the start

    def __iter__(self) -> Iterator[Model]:
        for versions in self._models.values():
            yield from versions.values()

    def batched(self) -> Iterator[tuple[str, str, Line]]:
        """Name, version and line of each model whose calls are grouped."""
        for model in self:
            if not model.batched or model.state is not State.READY:
                continue
            line = model.pool.line_of(model.number)
            if line is not None:
                yield model.name, model.version or "", line

    # -- finding ------------------------------------------------------------------------------------------------------

    def find(self, name: str, version: str | None = None) -> Model:
        """The model, in any state; without a version the newest that is ready. ModelNotFound if there is none."""
        model = self._models.get(name, {}).get(version) if version else self._default.get(name)
        if model is None or model.is_gone:
            raise ModelNotFound(name, version or None, model.reason if model is not None else "")
        return model

    def ready(self, name: str, version: str | None = None) -> Model:
        """The model, ready for calls. ModelNotFound, or ModelNotReady with the reason."""
        model = self._default.get(name) if not version else None
        if model is None or model.state is not State.READY:
            model = self.find(name, version)
            if model.state is not State.READY:
                raise ModelNotReady(name, version or None, model.reason)
        return model

    def is_default(self, model: Model) -> bool:
        """Whether it is the version that answers where none is asked for."""
        return self._default.get(model.name) is model

    def all_ready(self) -> bool:
        """Whether all models can serve that should: those that were unloaded on purpose should not."""
        return all(model.serves for model in self if model.wanted)

    def any_ready(self) -> bool:
        """Whether one model can serve."""
        return any(model.serves for model in self)

    def any_loaded(self) -> bool:
        """Whether one model is loaded, be its worker up at this moment or not."""
        return any(model.state is State.READY for model in self)

    async def index(self, ready_only: bool = False) -> list[RepositoryIndexResponseItem]:
        """What is in the repository and what is loaded of it, in the order of names and versions."""
        items: dict[tuple[str, str | None], RepositoryIndexResponseItem] = {}
        for settings in await self._read(self._repository.list):
            items[settings.name, settings.version] = _item(settings.name, settings.version, State.UNAVAILABLE, "")
        for model in self:
            items[model.name, model.version] = _item(model.name, model.version, *model.condition())
        found = [item for item in items.values() if not ready_only or item.state is State.READY]
        return sorted(found, key=lambda item: (item.name, version_key(item.version or "")))

    # -- changing -----------------------------------------------------------------------------------------------------

    async def expect_all(self) -> list[Model]:
        """Every model of the repository, which is LOADING from now on. For `load_all`."""
        expected = [self._made(settings, wanted=True) for settings in await _in_thread(self._repository.list)]
        for model in expected:
            self._put(model)
        return expected

    async def load_all(self, expected: list[Model]) -> None:
        """Loads what was expected. One that fails is kept with its reason; the others go on.

        One that somebody has loaded or unloaded before its turn came is left.
        """
        for model in expected:
            try:
                async with self._alone_with(model.name):
                    if model.state is State.LOADING and self._models[model.name].get(model.version) is model:
                        await self._load(model)
            except MLServeError:
                pass  # told in the log, in the index and in the start-up table
        self._all_tried = True

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Runs loads and unloads to their end, whether or not those who asked for them still wait. Until `stop`."""
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            await anyio.sleep_forever()

    def stop(self) -> None:
        """Gives up what is under way."""
        self._tasks.cancel_scope.cancel()

    async def load(self, name: str) -> None:
        """Loads, or loads again, all versions of a model as they are on disk now; returns when they take calls.

        Versions that are gone from disk are unloaded. ModelNotFound if the repository has no such model,
        ModelLoadError with the reason if a version fails; the version that was there before stays. Goes on when the
        waiting task is cancelled.
        """
        await self._to_the_end(self._load_from_disk, name)

    async def unload(self, name: str) -> None:
        """Unloads all versions of a model; returns when they are out of their workers. ModelNotFound if none is loaded.

        Calls under way have `shutdown_timeout_seconds` to end. Goes on when the waiting task is cancelled.
        """
        await self._to_the_end(self._unload_all, name)

    async def _to_the_end(self, work: Callable[[str], Awaitable[None]], name: str) -> None:
        """Runs `work(name)` as a task of ours, and waits for it."""
        if len(name) > _LONGEST_NAME:
            raise ModelNotFound(name)
        done = anyio.Event()
        errors: list[Exception] = []

        async def run() -> None:
            try:
                await work(name)
            except MLServeError as error:
                errors.append(error)
            except Exception as error:
                _logger.exception("a change to model '%s' failed", name)
                errors.append(from_exception(error))
            finally:
                done.set()

        self._tasks.start_soon(run)
        await done.wait()
        if errors:
            raise errors[0]

    async def _load_from_disk(self, name: str) -> None:
        async with self._alone_with(name):
            found = await self._read(self._repository.find, name)
            if not found:
                raise ModelNotFound(name)
            errors: list[MLServeError] = []
            for settings in found:
                try:
                    await self._load(self._made(settings))
                except MLServeError as error:
                    errors.append(error)  # the other versions are tried all the same
            versions = {settings.version for settings in found}
            for model in [one for version, one in self._models.get(name, {}).items() if version not in versions]:
                self._unload(model)
            if errors:
                raise errors[0]

    async def _unload_all(self, name: str) -> None:
        async with self._alone_with(name):
            loaded = [one for one in self._models.get(name, {}).values() if not one.is_gone]
            if not loaded:
                raise ModelNotFound(name)
            for model in loaded:
                self._unload(model)
        for model in list(self._retiring.get(name, ())):
            await model.retired.wait()

    @asynccontextmanager
    async def _alone_with(self, name: str) -> AsyncIterator[None]:
        """Within this context nobody else loads or unloads the model."""
        lock = self._locks.setdefault(name, anyio.Lock())
        try:
            async with lock:
                yield
        finally:
            if self._locks.get(name) is lock and not lock.locked():  # nor does anybody wait for it, then
                del self._locks[name]

    async def _read(self, ask: Callable[..., list[ModelSettings]], *names: str) -> list[ModelSettings]:
        """Asks the repository, once no others read. ServerStopping if it is given up meanwhile.

        A reading is a task of ours, since its thread cannot be cancelled: its place is taken until the thread has
        ended, whether or not somebody still waits.
        """
        done = anyio.Event()
        found: list[list[ModelSettings]] = []
        errors: list[Exception] = []

        async def run() -> None:
            try:
                found.append(await _in_thread(ask, *names))
            except Exception as error:
                errors.append(error)
            finally:
                self._reading.release_on_behalf_of(done)
                done.set()

        await self._reading.acquire_on_behalf_of(done)
        self._tasks.start_soon(run)
        await done.wait()
        if errors:
            raise errors[0]
        if not found:
            raise ServerStopping("the server is stopping")
        return found[0]

    def _made(self, settings: ModelSettings, *, wanted: bool = False) -> Model:
        model = Model(next(self._numbers), settings)
        model.wanted = wanted
        return model

    async def _load(self, model: Model) -> None:
        """Brings one version up, and puts it in the place of the one that was there."""
        old = self._models.get(model.name, {}).get(model.version)
        if old is None or old.state not in (State.READY, State.UNKNOWN):
            self._put(model)
            old = None
        try:
            loaded = await self._load_in_pool(model)
            model.metadata = MetadataModelResponse.model_validate_json(loaded.metadata)
            model.details = msgspec.json.decode(loaded.details)
        except MLServeError as error:
            model.state, model.reason = State.UNAVAILABLE, error.message
            _log_failure(model, error)
            raise
        except Exception as error:  # nobody foresaw it: one model must not end the server
            _logger.exception("model %s failed to load", _title(model))
            failure = ModelLoadError(from_exception(error).message)
            model.state, model.reason = State.UNAVAILABLE, failure.message
            raise failure from error
        model.wanted = True
        model.state = State.READY if loaded.ready else State.UNKNOWN
        self._put(model)
        if old is not None:
            self._retire(old)
        if not loaded.ready:
            model.reason = "its load() said that it is not ready"
            _logger.error("model %s is not ready: %s", _title(model), model.reason)
            raise ModelLoadError(f"model '{model.name}' was loaded, but {model.reason}")
        _logger.info("model %s is ready", _title(model))

    def _bounds_of(self, settings: ModelSettings) -> Bounds:
        """What a model may take of its workers: by its own settings, else by the server's."""
        names = Bounds.__struct_fields__
        return Bounds(*(_first(getattr(settings, name), getattr(self._settings, name)) for name in names))

    async def _load_in_pool(self, model: Model) -> frames.Loaded:
        model.pool = pool = await self._pools.of(model.settings)
        folder = os.path.abspath(model.settings.source_dir) if model.settings.source_dir else ""
        source = model.settings._source or ""
        frame = frames.Load(model.number, model.settings.model_dump_json().encode(), folder, source)
        served = self._all_tried and any(one.state is State.READY for one in self._models[model.name].values())
        try:
            return await pool.load(frame, model.rule, self._bounds_of(model.settings), apart=served)
        except Exception:
            await self._pools.leave(pool)
            raise

    def _unload(self, model: Model) -> None:
        """Takes a model away from its callers, and lets it retire if it is in workers."""
        was_loaded = model.state in (State.READY, State.UNKNOWN)
        model.state, model.reason, model.wanted = State.UNLOADING if was_loaded else State.UNAVAILABLE, "", False
        self._choose_default(model.name)
        if was_loaded:
            self._retire(model)
            model.hurry.set()

    def _retire(self, model: Model) -> None:
        """Unloads a model that takes no new calls, once those that it has are over.

        They may take as long as they like, until the model is unloaded or loaded yet again: there are never many
        versions of one model in memory, whatever is open.
        """
        retiring = self._retiring.setdefault(model.name, [])
        for one in retiring:
            one.hurry.set()
        retiring.append(model)
        model.pool.expect_no_more(model.number)
        self._tasks.start_soon(self._retire_in_time, model)

    async def _retire_in_time(self, model: Model) -> None:
        try:
            await model.until_unused(self._settings.shutdown_timeout_seconds)
            await model.pool.unload(model.number)
            await self._pools.leave(model.pool)
        except Exception:
            _logger.exception("model %s could not be unloaded", _title(model))
        self._retiring[model.name].remove(model)
        if not self._retiring[model.name]:
            del self._retiring[model.name]
        if model.state is State.UNLOADING:
            model.state = State.UNAVAILABLE
            self._choose_default(model.name)
            _logger.info("model %s is unloaded", _title(model))
        model.retired.set()

    def _put(self, model: Model) -> None:
        self._models.setdefault(model.name, {})[model.version] = model
        self._choose_default(model.name)

    def _choose_default(self, name: str) -> None:
        """The newest version that is ready; without one, the newest that is there at all."""
        versions = self._models[name].values()
        candidates = [one for one in versions if one.state is State.READY] or list(versions)
        self._default[name] = max(candidates, key=lambda one: version_key(one.version or ""))


async def _in_thread(ask: Callable[..., list[ModelSettings]], *names: str) -> list[ModelSettings]:
    """Asks a repository: a thousand files or a slow network must not hold up anybody's call. Cancelled, it is left."""
    return await anyio.to_thread.run_sync(ask, *names, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))


def _first(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _title(model: Model) -> str:
    return f"'{model.name}'" + (f" version {model.version}" if model.version else "")


def _item(name: str, version: str | None, state: State, reason: str) -> RepositoryIndexResponseItem:
    return RepositoryIndexResponseItem(name=name, version=version, state=state, reason=reason)


def _log_failure(model: Model, error: MLServeError) -> None:
    detail = "".join(getattr(error, "__notes__", []))
    _logger.error("model '%s' failed to load: %s%s", model.name, error.message, f"\n{detail}" if detail else "")
