"""GrpcServer: binds, serves until told to stop, drains, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc

from mlserve.errors import StartupError
from mlserve.grpc.call import CallLimits, Method, methods_of
from mlserve.grpc.health import HealthService
from mlserve.grpc.listener import Listener
from mlserve.grpc.plane import Plane, TrioPlane, trio_asyncio
from mlserve.grpc.reflection import ReflectionService
from mlserve.grpc.services import InferenceService, RepositoryService
from mlserve.intake import PAUSE_SECONDS, Intake
from mlserve.metrics import Metrics
from mlserve.settings import Settings
from mlserve.sockets import tune_listener
from mlserve.unsent import Unsent

__all__ = ["GrpcServer", "bind"]

logger = logging.getLogger("mlserve.grpc")

_BACKLOG = 1024
_LONGEST_MESSAGE = (1 << 32) - 1  # what the four bytes before a message can say


class GrpcServer:
    """The gRPC transport of one server. `serve` may run again after it has ended.

    `poll_seconds`: how often the health service's Watch looks at the state. `pause_seconds`: so long without a byte of
    a message that is half there, and its call ends; 0: never.
    """

    def __init__(
        self,
        dataplane: Plane,
        metrics: Metrics,
        settings: Settings,
        *,
        poll_seconds: float = 1.0,
        intake: Intake | None = None,
        unsent: Unsent | None = None,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._dataplane = dataplane
        self._metrics = metrics
        self._settings = settings
        self._poll_seconds = poll_seconds
        self._intake = intake or Intake()
        self._unsent = unsent or Unsent()
        self._pause_seconds = pause_seconds

    async def serve(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        sock: socket.socket | None = None,
        shutdown_trigger: Callable[[], Awaitable[object]] = anyio.sleep_forever,
        graceful_timeout: float = 25.0,
        task_status: anyio.abc.TaskStatus[tuple[str, int]] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serves until `shutdown_trigger` returns; reports (host, port) once clients can connect.

        Then: no new connections, GOAWAY, running calls finish within `graceful_timeout` seconds, those that do not
        get UNAVAILABLE. Cancelling does the same without the waiting. `sock` is a bound socket, which is closed at
        the end. StartupError if the address cannot be used, or on trio if trio-asyncio is missing.
        """
        package = None if _on_asyncio() else trio_asyncio()
        sock = bind(host, port) if sock is None else sock
        tune_listener(sock)
        stop, hurry, ended = anyio.Event(), anyio.Event(), anyio.Event()

        async def watch() -> None:
            """Passes the trigger, or the cancellation, to what runs shielded below."""
            try:
                await shutdown_trigger()
                stop.set()
                await ended.wait()
            finally:
                hurry.set()
                stop.set()

        # trio-asyncio's loop must outlive the cancellation of this task, or there is nothing left to clean up with.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            with sock, anyio.CancelScope(shield=True):
                if package is None:
                    listener = self._listener(self._dataplane)
                    await _run(listener, sock, _same, stop, hurry, graceful_timeout, task_status)
                else:
                    async with package.open_loop() as loop:
                        loop.set_exception_handler(_log_what_nobody_heard)
                        listener = self._listener(TrioPlane(self._dataplane))
                        hop = package.aio_as_trio
                        await _run(listener, sock, hop, stop, hurry, graceful_timeout, task_status)
            ended.set()

    def _listener(self, plane: Plane) -> Listener:
        return Listener(
            self._methods(plane),
            self._metrics,
            CallLimits(
                _message_limit(self._settings),
                self._settings.gzip_enabled,
                self._intake,
                self._unsent,
                self._settings.send_timeout_seconds,
                self._pause_seconds,
            ),
        )

    def _methods(self, plane: Plane) -> dict[str, Method]:
        """All methods by path, and reflection for what is there."""
        services: list[Any] = [
            InferenceService(plane, self._settings.grpc_stream_response),
            RepositoryService(plane),
            HealthService(plane, self._poll_seconds),
        ]
        methods: dict[str, Method] = {}
        for service in services:
            methods |= methods_of(service.__mapping__())
        reflection = ReflectionService(method.service for method in methods.values())
        return methods | methods_of(reflection.__mapping__())


async def _run(
    listener: Listener,
    sock: socket.socket,
    hop: Callable[[Any], Any],
    stop: anyio.Event,
    hurry: anyio.Event,
    graceful_timeout: float,
    task_status: anyio.abc.TaskStatus[tuple[str, int]],
) -> None:
    """One life of the listener, whose methods are asyncio's: `hop` takes a call there."""
    try:
        await hop(listener.start)(sock)
        address = sock.getsockname()
        task_status.started((address[0], address[1]))
        await stop.wait()
        if not hurry.is_set():
            async with anyio.create_task_group() as race:
                race.start_soon(_cancel_when, hurry, race.cancel_scope)
                await hop(listener.drain)(graceful_timeout)
                race.cancel_scope.cancel()
    finally:
        await hop(listener.close)()


async def _cancel_when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. StartupError says what to do about an address that is taken."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind)
    except OSError as error:
        raise StartupError(f"gRPC cannot listen on {host}:{port}: {error}") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise StartupError(
                f"gRPC port {port} on {host} is taken by another program: stop that one, or choose another port with "
                f'"grpc_port" in settings.json or with MLSERVER_GRPC_PORT'
            ) from None
        raise StartupError(f"gRPC cannot listen on {host}:{port}: {error.strerror or error}") from None
    return sock


def _message_limit(settings: Settings) -> int:
    """The most bytes of a message: the setting of its own (below 0: no limit), else that of REST's bodies."""
    limit = settings.grpc_max_message_length
    if limit is None:
        limit = settings.max_body_bytes
    return _LONGEST_MESSAGE if limit < 0 else min(limit, _LONGEST_MESSAGE)


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _same(func: Any) -> Any:
    return func


def _log_what_nobody_heard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio would log, such as a failed callback of one call; trio-asyncio would end the server with it."""
    logger.error("gRPC: %s", context.get("message", "something failed"), exc_info=context.get("exception"))
