"""Puts all parts together, runs the one task group, drains and stops it. The only place that knows everybody."""

from __future__ import annotations

import logging
import math
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from mlserve import compat, garbage, logs, malloc, osdep
from mlserve.cli.table import ModelRow, startup_table
from mlserve.dataplane import DataPlane
from mlserve.errors import StartupError, first_of_ours
from mlserve.grpc.server import GrpcServer
from mlserve.intake import Intake
from mlserve.metrics import Metrics
from mlserve.models import Model, Models
from mlserve.pool import Pool
from mlserve.pool_metrics import PoolMetrics
from mlserve.pools import Pools
from mlserve.repository import ModelRepository, open_repository
from mlserve.rest.app import RestApp
from mlserve.rest.h1_server import Limits
from mlserve.rest.metrics_page import MetricsApp
from mlserve.rest.serve import serve as serve_http
from mlserve.settings import Settings, load_settings
from mlserve.tracing import TracedPlane, open_tracing
from mlserve.unsent import Unsent

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

_logger = logging.getLogger("mlserve.server")
_DEFAULTS = Settings.model_construct()
_NOT_YET = ("kafka_enabled", "cache_enabled", "parallel_backend")
_NOT_YET_OF_MODELS = ("cache_enabled",)
_IDLE_SECONDS = 10.0  # without calls for this long, memory goes back to the system
_ANSWER_SECONDS = 0.5  # before the end of a drain, for transports to tell their clients that their calls are cut off
_EXIT_SECONDS = 0.5  # for Python to end by itself, however long the drain took
_WORKER_SECONDS = 0.5  # kept of a drain for workers to end by themselves, however long the calls took


class Server:
    """One server over one repository. `run` it in a task group; `stop` it, or cancel the task."""

    def __init__(self, settings: Settings, repository: ModelRepository) -> None:
        self.settings = settings
        self._repository = repository
        self.metrics = Metrics(settings.server_name, settings.metrics_rest_server_prefix)
        self.unsent = Unsent(settings.answer_memory_bytes or osdep.quarter_of_memory())
        self.intake = Intake(settings.body_memory_bytes or osdep.quarter_of_memory())
        self.pools = Pools(settings, self.metrics, self.unsent)
        self.metrics.registry.register(PoolMetrics(self.pools))
        self.metrics.model_values.in_process = self.pools.any_in_process
        self.models = Models(repository, self.pools, settings)
        self.metrics.batched = self.models.batched
        self._tracing = open_tracing(settings)
        self.dataplane = (
            DataPlane(settings, self.models, self.metrics)
            if self._tracing is None
            else TracedPlane(settings, self.models, self.metrics, self._tracing)
        )
        self._expected: list[Model] = []  # what was in the repository at the start, if it is to be loaded
        self.addresses: dict[str, tuple[str, int]] = {}  # where it listens: "http", "grpc", "metrics"
        self._stop_asked = anyio.Event()
        self._stop_now = anyio.Event()
        self._close_transports = anyio.Event()
        self._transports_closed: list[anyio.Event] = []

    async def run(self, *, task_status: anyio.abc.TaskStatus[Server] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serves until stopped; reports itself once all models have been tried and calls can be answered.

        The end: readiness off, a pause, no new connections, calls and streams finish, then the workers; all under
        `shutdown_timeout_seconds`. StartupError if a port is taken or no worker comes up.
        """
        self._end_at = math.inf
        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as transports:
                if self.settings.load_models_at_startup:
                    await self._until_stopped(self._expect_models)
                await tasks.start(self.models.run)
                await self._start_transports(transports)
                await self._until_stopped(partial(tasks.start, self.pools.run))
                await self._until_stopped(self._load_models)
                task_status.started(self)
                transports.start_soon(self._give_memory_back)
                await self._stop_asked.wait()
                await self._drain(transports)
            self.models.stop()
            await self.pools.stop(self._seconds_for_workers())
        if self._tracing is not None:
            await self._tracing.close()

    def _tell_unused(self) -> None:
        """One line for each setting that is accepted, and has no effect in this version."""
        for name in _NOT_YET:
            if getattr(self.settings, name) != getattr(_DEFAULTS, name):
                _logger.warning("the setting '%s' has no effect in this version", name)
        for model in self.models:
            for name in _NOT_YET_OF_MODELS:
                if getattr(model.settings, name):
                    _logger.warning("model '%s': the setting '%s' has no effect in this version", model.name, name)

    async def _until_stopped(self, work: Callable[[], Awaitable[object]]) -> None:
        """Awaits `work()`, but gives up at once when asked to stop; does not begin it after that."""
        if self._stop_asked.is_set():
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cancel_when, self._stop_asked, tasks.cancel_scope)
            await work()
            tasks.cancel_scope.cancel()

    async def _expect_models(self) -> None:
        self._expected = await self.models.expect_all()

    async def _load_models(self) -> None:
        """Tries all models of the repository."""
        await self.models.load_all(self._expected)
        self._tell_unused()
        self.dataplane.started = True

    async def _cancel_when(self, event: anyio.Event, scope: anyio.CancelScope) -> None:
        await event.wait()
        scope.cancel()

    async def _drain(self, transports: anyio.abc.TaskGroup) -> None:
        """Lets the transports finish what they accepted, as long as the bound and the user's patience allow."""
        self.dataplane.draining = True
        self._end_at = anyio.current_time() + self.settings.shutdown_timeout_seconds
        _logger.info("stopping: %d calls under way", self.dataplane.in_flight)
        with anyio.CancelScope(deadline=self._end_at - _WORKER_SECONDS):
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(self._cancel_when, self._stop_now, waiting.cancel_scope)
                await anyio.sleep(self.settings.shutdown_pause_seconds)
                self._close_transports.set()
                self.pools.expect_no_more()
                for closed in self._transports_closed:
                    await closed.wait()
                waiting.cancel_scope.cancel()
        if self.dataplane.in_flight:
            _logger.warning("stopping with %d calls unfinished", self.dataplane.in_flight)
        transports.cancel_scope.cancel()

    def seconds_left(self) -> float:
        """What is left of the time to stop in; none after a second signal."""
        return 0.0 if self._stop_now.is_set() else max(0.0, self._end_at - anyio.current_time())

    def _seconds_for_workers(self) -> float:
        """How long workers may take to end."""
        return min(self.settings.parallel_workers_timeout, self.seconds_left())

    def _grace_seconds(self) -> float:
        """How long transports may wait for calls, once they are told to close."""
        settings = self.settings
        reserved = settings.shutdown_pause_seconds + _WORKER_SECONDS + _ANSWER_SECONDS
        return max(0.0, settings.shutdown_timeout_seconds - reserved)

    async def _give_memory_back(self) -> None:
        """Returns freed memory to the system after a while without calls: see malloc.py for why it was kept."""
        trimmed = seen = 0
        while True:
            await anyio.sleep(_IDLE_SECONDS)
            idle = seen == self.dataplane.admitted and not self.dataplane.in_flight
            seen = self.dataplane.admitted
            if idle and seen != trimmed:
                self.pools.arena.trim()
                malloc.trim()
                trimmed = seen

    def stop(self) -> None:
        """Asks for an orderly end: finish what was accepted, then close. A second time: close now."""
        if self._stop_asked.is_set():
            self._stop_now.set()
        self._stop_asked.set()

    async def _start_transports(self, tasks: anyio.abc.TaskGroup) -> None:
        settings = self.settings
        grpc = GrpcServer(self.dataplane, self.metrics, settings, intake=self.intake, unsent=self.unsent)
        rest = RestApp(self.dataplane, self.metrics, settings, self.unsent, self.intake)
        limits = Limits(
            intake=self.intake,
            unsent=self.unsent,
            send_seconds=settings.send_timeout_seconds,
            leaves_descriptors=True,
        )
        http = partial(serve_http, rest, port=settings.http_port, limits=limits)
        self.addresses["http"] = await self._start(tasks, http)
        self.addresses["grpc"] = await self._start(tasks, partial(grpc.serve, port=settings.grpc_port))
        if settings.metrics_endpoint:
            metrics = partial(serve_http, MetricsApp(self.metrics, settings), port=settings.metrics_port)
            self.addresses["metrics"] = await self._start(tasks, metrics)

    async def _start(self, tasks: anyio.abc.TaskGroup, serve: Callable[..., Awaitable[None]]) -> tuple[str, int]:
        """Starts one transport; its address, once it listens."""
        closed = anyio.Event()
        self._transports_closed.append(closed)

        async def run(*, task_status: anyio.abc.TaskStatus[tuple[str, int]]) -> None:
            try:
                await serve(
                    host=self.settings.host,
                    shutdown_trigger=self._close_transports.wait,
                    graceful_timeout=self._grace_seconds(),
                    task_status=task_status,
                )
            finally:
                closed.set()

        address: tuple[str, int] = await tasks.start(run)
        return address

    def nothing_loaded(self) -> bool:
        """Whether there are models, or broken settings of models, and not one could be loaded."""
        return not self.models.any_loaded() and (any(self.models) or bool(self._repository.broken))

    def table(self) -> str:
        """What is served, and where, for people."""
        rows = [
            ModelRow(model.name, model.version or "", model.state.value, _implementation(model.settings), model.reason)
            for model in self.models
        ]
        places = {name: f"{host}:{port}" for name, (host, port) in self.addresses.items()}
        workers = ", ".join(_workers(pool) for pool in self.pools)
        return startup_table(rows, places, workers)


def _workers(pool: Pool) -> str:
    if pool.crew.in_process:
        return f"none in pool {pool.name}: its models run in the server process"
    starting = pool.crew.size - len(pool.pids)
    return f"{len(pool.pids)} in pool {pool.name}" + (f" ({starting} more starting)" if starting else "")


def _implementation(settings: Any) -> str:
    name = settings.implementation
    return name.__name__ if isinstance(name, type) else str(name)


def run(folder: Path, overrides: dict[str, Any]) -> int:
    """Serves a folder until a signal ends it; the exit code. StartupError, SettingsError."""
    settings = load_settings(folder, overrides)
    logs.configure(settings)
    osdep.raise_descriptor_limit()
    osdep.keep_signals_from_forks()
    malloc.tune()
    compat.install()
    options = {"use_uvloop": True} if settings.backend == "asyncio" else {}
    try:
        return anyio.run(_main, settings, folder, backend=settings.backend, backend_options=options)
    except BaseExceptionGroup as group:
        raise first_of_ours(group) from group


async def _main(settings: Settings, folder: Path) -> int:
    with closing(open_repository(folder, settings)) as repository:
        return await _run_until_signalled(Server(settings, repository))


async def _run_until_signalled(server: Server) -> int:
    failed = False
    async with anyio.create_task_group() as tasks:
        await tasks.start(_stop_on_signals, server)
        async with anyio.create_task_group() as serving:
            await serving.start(server.run)
            garbage.spare()
            if server.dataplane.started:
                print(server.table(), file=sys.stderr, flush=True)
            failed = server.dataplane.started and server.nothing_loaded()
            if failed:
                server.stop()
        tasks.cancel_scope.cancel()
    if failed:
        raise StartupError("no model could be loaded; the lines above say why")
    osdep.end_within(max(_EXIT_SECONDS, server.seconds_left()))
    return 0


async def _stop_on_signals(server: Server, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            server.stop()
