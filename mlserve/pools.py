"""Which pool a model lives in: the default one, one of its own size, or one that it shares with others by name."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import anyio.abc

from mlserve import osdep
from mlserve.arena import Arena
from mlserve.launch import ProcessLauncher, ThreadLauncher
from mlserve.link import Observer
from mlserve.pool import Pool
from mlserve.settings import ModelSettings, Settings

_logger = logging.getLogger("mlserve.pool")
_DEFAULT = "default"


class Pools:
    """All pools of one server. A pool other than the default one ends when its last model leaves."""

    def __init__(self, settings: Settings, observer: Observer) -> None:
        self._settings = settings
        self._observer = observer
        self.arena = Arena(settings.slot_memory_bytes or osdep.shared_memory_bytes())
        self._pools: dict[str, Pool] = {}
        self._members: dict[str, int] = {}
        self._lock = anyio.Lock()

    def __iter__(self) -> Any:
        return iter(self._pools.values())

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Runs the default pool, and those that models ask for, until `stop`."""
        async with anyio.create_task_group() as self._tasks:
            await self._start(_DEFAULT, self._settings.parallel_workers)
            task_status.started()
        self.arena.close()

    async def of(self, settings: ModelSettings) -> Pool:
        """The pool of a model, started if it is not there yet. Every call wants one `leave`."""
        name, workers = self._place_of(settings)
        async with self._lock:
            pool = self._pools.get(name)
            if pool is None:
                pool = await self._start(name, workers)
            self._members[name] += 1
            return pool

    async def leave(self, pool: Pool) -> None:
        """One model has left a pool; the last one stops it."""
        async with self._lock:
            self._members[pool.name] -= 1
            if not self._members[pool.name] and pool.name != _DEFAULT:
                del self._pools[pool.name]
                await pool.stop(self._settings.parallel_workers_timeout)

    async def stop(self, seconds: float) -> None:
        """Stops all workers: politely, and after so many seconds by force."""
        async with anyio.create_task_group() as stopping:
            for pool in list(self._pools.values()):
                stopping.start_soon(pool.stop, seconds)

    def _place_of(self, settings: ModelSettings) -> tuple[str, int]:
        workers = settings.parallel_workers
        parameters = settings.parameters
        group = parameters.inference_pool_gid if parameters is not None else None
        if group:
            return f"group {group}", max(1, workers or self._settings.parallel_workers)
        if parameters is not None and parameters.autogenerate_inference_pool_gid:
            workers = self._settings.parallel_workers if workers is None else workers
        if workers is not None:
            return f"model {settings.name} {settings.version or '-'} of {workers}", workers
        return _DEFAULT, self._settings.parallel_workers

    async def _start(self, name: str, workers: int) -> Pool:
        launcher: ProcessLauncher | ThreadLauncher
        if workers:
            launcher = ProcessLauncher(self._settings.model_dump_json().encode())
        else:
            launcher = ThreadLauncher()
        pool = Pool(name, max(1, workers), launcher, self.arena, self._observer)
        self._members.setdefault(name, 0)
        await self._tasks.start(pool.run)
        self._pools[name] = pool
        return pool
