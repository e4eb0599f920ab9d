"""Which pool a model lives in: the default one, or one that it has for itself or shares with others like it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import NamedTuple

import anyio
import anyio.abc

from mlserve import osdep
from mlserve.arena import Arena
from mlserve.environments import Environment, Environments
from mlserve.errors import ModelLoadError, StartupError, first_of_ours
from mlserve.launch import ProcessLauncher, ThreadLauncher
from mlserve.observing import Observer
from mlserve.pool import Pool
from mlserve.recycling import NO_WEAR, Wear
from mlserve.settings import ModelParameters, ModelSettings, Settings
from mlserve.unsent import Unsent

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

_logger = logging.getLogger("mlserve.pool")
_DEFAULT = "default"
_SLOTS_PART = 4  # slots have at most this part of the descriptors; connections need the rest


class Place(NamedTuple):
    """What a pool has to be like. Models that want the same share one."""

    name: str  # Invariant: names all the rest, so that two pools of one name are alike
    workers: int  # 0: a thread of the server
    environment: Environment | None = None
    devices: tuple[int | str, ...] = ()
    wear: Wear = NO_WEAR


class Pools:
    """All pools of one server. A pool other than the default one ends when its last model leaves."""

    def __init__(self, settings: Settings, observer: Observer, unsent: Unsent | None = None) -> None:
        self._settings = settings
        self._observer = observer
        self._unsent = unsent or Unsent()
        self._unsent.on_room = self._go_on
        self._environments = Environments(settings.environments_dir)
        self._of_image: Environment | None = None  # for all models that ask for none
        self.arena = Arena(
            settings.slot_memory_bytes or osdep.shared_memory_bytes(), osdep.descriptor_limit() // _SLOTS_PART
        )
        self._pools: dict[str, Pool] = {}
        self._members: dict[str, int] = {}
        self._locks: dict[str, anyio.Lock] = {}  # by name: a pool that starts or stops holds up no other

    def __iter__(self) -> Iterator[Pool]:
        return iter(list(self._pools.values()))

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Runs the default pool, and those that models ask for, until `stop`."""
        async with anyio.create_task_group() as self._tasks:
            self._of_image = await self._environments.of_image()
            workers = self._settings.parallel_workers
            await self._start(Place(_DEFAULT, max(1, workers) if self._of_image else workers))
            task_status.started()
        self.arena.close()

    async def of(self, settings: ModelSettings) -> Pool:
        """The pool of a model, started if it is not there yet. Every call wants one `leave`.

        ModelLoadError if the model's environment cannot be used, or its workers do not start.
        """
        place = place_of(settings, self._settings.parallel_workers, await self._environments.of_model(settings))
        async with self._lock(place.name):
            pool = self._pools.get(place.name)
            if pool is None:
                try:
                    pool = await self._start(place)
                except StartupError as error:
                    raise ModelLoadError(error.message) from error
            self._members[place.name] += 1
            return pool

    async def leave(self, pool: Pool) -> None:
        """One model has left a pool; the last one stops it."""
        async with self._lock(pool.name):
            self._members[pool.name] -= 1
            if not self._members[pool.name] and pool.name != _DEFAULT:
                del self._pools[pool.name]
                await pool.stop(self._settings.parallel_workers_timeout)

    def _go_on(self) -> None:
        """Clients have taken their answers: calls may begin again."""
        for pool in self._pools.values():
            pool.go_on()

    def any_in_process(self) -> bool:
        """Whether models run in this process."""
        return any(pool.crew.in_process for pool in self._pools.values())

    def expect_no_more(self) -> None:
        """The server takes no new calls: those that wait for company go as they are."""
        for pool in self._pools.values():
            pool.expect_no_more()

    def _lock(self, name: str) -> anyio.Lock:
        return self._locks.setdefault(name, anyio.Lock())

    async def stop(self, seconds: float) -> None:
        """Stops all workers: politely, and after so many seconds by force."""
        async with anyio.create_task_group() as stopping:
            for pool in self:
                stopping.start_soon(pool.stop, seconds)

    async def _start(self, place: Place) -> Pool:
        """Starts a pool; StartupError if its workers do not come up."""
        launcher: ProcessLauncher | ThreadLauncher
        if place.workers:
            environment = place.environment or self._of_image
            settings = self._settings.model_dump_json().encode()
            launcher = ProcessLauncher(settings, environment, place.devices, place.workers)
        else:
            launcher = ThreadLauncher()
        workers = max(1, place.workers)
        pool = Pool(place.name, workers, launcher, self.arena, self._observer, place.wear, self._unsent)
        try:
            await self._tasks.start(pool.run)
        except BaseExceptionGroup as group:
            await pool.stop(0)
            raise first_of_ours(group) from group
        self._members.setdefault(place.name, 0)
        self._pools[place.name] = pool
        return pool


def place_of(settings: ModelSettings, workers: int, environment: Environment | None) -> Place:
    """Where a model wants to live, on a server whose default pool has so many workers.

    Its own size, devices or recycling give a model a pool of its own; a group, one that it shares with those of the
    group that want the same; an environment alone, one that it shares with all others in that environment. What only
    a process can have makes at least one.
    """
    parameters = settings.parameters or ModelParameters.model_construct()
    devices = tuple(_checked(device, settings.name) for device in settings.devices)
    wear = Wear(settings.recycle_after_requests, settings.recycle_above_bytes)
    group, alone = parameters.inference_pool_gid, parameters.autogenerate_inference_pool_gid
    if settings.parallel_workers is not None:
        workers = settings.parallel_workers
    elif devices:
        workers = len(devices)
    if group or environment or devices or any(wear):
        workers = max(1, workers)
    if group:
        name = f"group {group} of {workers}"
    elif alone or settings.parallel_workers is not None or devices or any(wear):
        name = f"model {settings.name} {settings.version or '-'} of {workers}"
    else:
        name = _DEFAULT
    if environment:
        name = f"environment {environment.name}" if name == _DEFAULT else f"{name} in environment {environment.name}"
    name += f" on {' '.join(map(str, devices))}" if devices else ""
    return Place(f"{name}{wear}", workers, environment, devices, wear)


def _checked(device: int | str, model: str) -> int | str:
    if ":" in str(device):
        raise ModelLoadError(
            f"model '{model}': devices: '{device}' is not what drivers know; give its number ('{device}' may be "
            f'{str(device).rpartition(":")[2] or 0}) or its UUID ("GPU-…")'
        )
    return device
