"""Serves an ASGI application over HTTP until told to stop: binds, listens, drains; fast where Hypercorn is known.

HTTP/1.1 (h1.py) and HTTP/2 with prior knowledge (h2.py) are our own. The fast path uses the task groups of Hypercorn;
where the installed version is not the one they were tested with, stock Hypercorn serves both protocols, with one
warning. What differs then: the scope has no "mlserve.*" extensions, requests that stock lets pass are not refused
(tests/test_h1.py has the list), and on trio an error inside stock Hypercorn (a WebSocket handshake with another request
behind it makes one) ends the whole server, clients that do not read are not disconnected, uploads that stop are not
given up, of bodies only those for inference count as memory, and over HTTP/2 a stream that is given up may break its
connection (docs/decisions.md).
"""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import inspect
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.abc
import sniffio
from hypercorn.config import Config

from mlserve.errors import StartupError
from mlserve.rest.h1_exchange import Application
from mlserve.rest.h1_server import BACKLOG, H1Server, Limits
from mlserve.rest.lifespan import Lifespan
from mlserve.sockets import tune_listener

__all__ = ["bind", "fast_path_problem", "serve"]

TESTED_HYPERCORN = ("0.17.", "0.18.")
# Unsent bytes in the kernel beyond which a socket counts as full, so that a stream waits for its client after a few
# chunks and not after the megabytes that the kernel would buffer.
NOTSENT_LOWAT_BYTES = 16 * 1024

Address = tuple[str, int]
Trigger = Callable[[], Awaitable[object]]

log = logging.getLogger(__name__)


async def serve(
    app: Application,
    *,
    host: str,
    port: int,
    shutdown_trigger: Trigger,
    backend: str | None = None,
    limits: Limits | None = None,
    graceful_timeout: float = 25.0,
    fast: bool = True,
    task_status: anyio.abc.TaskStatus[Address] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` until `shutdown_trigger()` returns and the open connections are done, or their time is over.

    Reports the bound (host, port) once connections are accepted; port 0 takes a free one. Raises StartupError when the
    address cannot be had or the application's lifespan says that it cannot start. After the trigger idle connections
    are closed, running requests have `graceful_timeout` seconds to finish and are then cancelled. Cancelling `serve`
    stops at once. `fast=False` takes stock Hypercorn.
    """
    backend = backend or sniffio.current_async_library()
    limits = limits or Limits()
    config = _hypercorn_config(limits, graceful_timeout)
    with bind(host, port) as listener:
        problem = fast_path_problem(backend) if fast else None
        if problem is not None:
            log.warning("HTTP/1.1 is served by stock Hypercorn, which costs several times more: %s", problem)
        if fast and problem is None:
            await _serve_fast(app, listener, backend, config, limits, shutdown_trigger, task_status)
        else:
            await _serve_stock(app, listener, backend, config, shutdown_trigger, task_status)


# -- fast ----------------------------------------------------------------------------------------------------------


async def _serve_fast(
    app: Application,
    listener: socket.socket,
    backend: str,
    config: Config,
    limits: Limits,
    shutdown_trigger: Trigger,
    task_status: anyio.abc.TaskStatus[Address],
) -> None:
    lifespan = Lifespan(app)
    edge = _edge_class(backend)()
    server = H1Server(app, spawn=edge.tasks.spawn, lifespan_state=lifespan.state, limits=limits)
    try:
        with anyio.CancelScope() as everything:
            async with edge.tasks as tasks:
                tasks.spawn(lifespan.run)
                await lifespan.startup()
                if lifespan.failure is None:
                    tasks.spawn(server.watch)
                    async with edge.accepting(server, listener):
                        task_status.started(_address(listener))
                        await shutdown_trigger()
                    if late := await server.drain(config.graceful_timeout):
                        log.warning("%d connections were not done in time and are cut off", late)
                    await lifespan.shutdown(config.shutdown_timeout)
                everything.cancel()
    finally:
        server.abort()
    lifespan.raise_failure()


def _edge_class(backend: str) -> Any:
    if backend == "trio":
        from mlserve.rest.h1_trio import TrioEdge

        return TrioEdge
    from mlserve.rest.h1_asyncio import AsyncioEdge

    return AsyncioEdge


def fast_path_problem(backend: str) -> str | None:
    """Why the fast path cannot be taken with the Hypercorn that is installed; None if it can."""
    version = importlib.metadata.version("hypercorn")
    if not version.startswith(TESTED_HYPERCORN):
        return f"Hypercorn {version} is not known here (tested: {', '.join(v + 'x' for v in TESTED_HYPERCORN)})"
    name, parameters = f"hypercorn.{backend}.task_group", () if backend == "trio" else ("loop",)
    try:
        found = inspect.signature(importlib.import_module(name).TaskGroup)
    except (ImportError, AttributeError):
        return f"{name}.TaskGroup is missing"
    if tuple(found.parameters) != parameters:
        return f"{name}.TaskGroup takes {tuple(found.parameters)}, not {parameters}"
    return None


# -- stock ---------------------------------------------------------------------------------------------------------


async def _serve_stock(
    app: Application,
    listener: socket.socket,
    backend: str,
    config: Config,
    shutdown_trigger: Trigger,
    task_status: anyio.abc.TaskStatus[Address],
) -> None:
    address = _address(listener)
    config.bind = [f"fd://{listener.detach()}"]
    stock = importlib.import_module(f"hypercorn.{backend}")
    lifespan = Lifespan(app)
    accepting = anyio.Event()
    stop = anyio.Event()

    async def wait_for_trigger() -> None:
        try:
            await shutdown_trigger()
        finally:
            stop.set()

    async def trigger_of_stock() -> None:
        accepting.set()  # Hypercorn waits for its trigger once it accepts
        await stop.wait()

    async def run_stock() -> None:
        app_without_lifespan = lifespan.leave_out()
        # Cancelled with connections open, Hypercorn's own wind-down breaks: cancelling us pulls the trigger instead.
        with anyio.CancelScope(shield=True):
            await stock.serve(app_without_lifespan, config, shutdown_trigger=trigger_of_stock, mode="asgi")
        await lifespan.shutdown(config.shutdown_timeout)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lifespan.run)
        await lifespan.startup()
        if lifespan.failure is None:
            tasks.start_soon(wait_for_trigger)
            tasks.start_soon(run_stock)
            await accepting.wait()
            task_status.started(address)
    lifespan.raise_failure()


def _hypercorn_config(limits: Limits, graceful_timeout: float) -> Config:
    config = Config()
    config.backlog = BACKLOG
    config.graceful_timeout = graceful_timeout
    config.keep_alive_timeout = limits.keep_alive_seconds
    config.keep_alive_max_requests = 2**31
    config.h11_max_incomplete_size = limits.max_head_bytes
    config.include_server_header = False
    config.errorlog = logging.getLogger("hypercorn.error")  # else it puts a handler of its own in place
    return config


# -- binding -------------------------------------------------------------------------------------------------------


@contextmanager
def bind(host: str, port: int) -> Iterator[socket.socket]:
    """A listening, non-blocking TCP socket on `host` (name or address, IPv4 or IPv6); closed at the end."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartupError(f"host {host!r} cannot be resolved: {error.strerror or error}") from error
    # A name such as localhost may stand for both families; clients that are given an IPv4 address are more common.
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    with socket.socket(family, kind, protocol) as listener:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tune_listener(listener)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" serves IPv4 too
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)
        try:
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            raise StartupError(_why_not_bound(host, port, error)) from error
        yield listener


def _why_not_bound(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use by another program; stop that one, or choose another port (0: any)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} on {host} is not allowed for this user; choose one above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"host {host} is not an address of this machine; 0.0.0.0 takes all of them"
    return f"cannot listen on {host}, port {port}: {error.strerror or error}"


def _address(listener: socket.socket) -> Address:
    host, port = listener.getsockname()[:2]
    return host, port
