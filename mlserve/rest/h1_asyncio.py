"""Accepts HTTP connections on asyncio (uvloop or not), and hands those that speak HTTP/2 to Hypercorn."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config

from mlserve.rest.h1 import H1Connection
from mlserve.rest.h1_exchange import Application
from mlserve.rest.h1_server import H1Server
from mlserve.rest.http2 import Http2Mixin

if sys.version_info >= (3, 11) or TYPE_CHECKING:
    from hypercorn.asyncio.task_group import TaskGroup
else:

    class TaskGroup:
        """Before 3.11 Hypercorn's group is a backport whose body anyio does not know as a task of its own."""

        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self._group = anyio.create_task_group()

        def spawn(self, run: Callable[..., Awaitable[Any]], *args: Any) -> None:
            self._group.start_soon(run, *args)

        async def __aenter__(self) -> TaskGroup:
            await self._group.__aenter__()
            return self

        async def __aexit__(self, *raised: Any) -> bool | None:
            return await self._group.__aexit__(*raised)


__all__ = ["AsyncioEdge"]

# In the turn of the event loop after accept() a task makes the transport, in the next that calls connection_made.
_ACCEPT_TURNS = 4


class AsyncioEdge:
    """The part of the edge that differs between asyncio and trio; lives inside `async with edge.tasks`."""

    def __init__(self, app: Application, config: Config, lifespan_state: dict[str, Any]) -> None:
        self._loop = asyncio.get_running_loop()
        # Hypercorn's group, not anyio's: starting a task in it costs 2 µs instead of 10, and there is one per request.
        self.tasks = TaskGroup(self._loop)
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]  # Hypercorn types every ASGI message
        self._config = config
        self._context = WorkerContext(None)
        self._lifespan_state = lifespan_state

    @asynccontextmanager
    async def accepting(self, server: H1Server, listener: socket.socket) -> AsyncIterator[None]:
        """Accept connections of the listening socket, which is closed at the end."""
        acceptor = await self._loop.create_server(
            lambda: H1Connection(server), sock=listener, backlog=self._config.backlog
        )
        try:
            yield
        finally:
            try:
                if isinstance(self._loop, asyncio.SelectorEventLoop):
                    await self._finish_accepting(listener)
            finally:
                acceptor.close()

    async def _finish_accepting(self, listener: socket.socket) -> None:
        """Takes no new connections, and waits until those that were taken are counted.

        asyncio makes their transports in tasks, which fail and forget the connection once the acceptor is closed.
        uvloop accepts in one step.
        """
        self._loop.remove_reader(listener)
        with anyio.CancelScope(shield=True):
            for _ in range(_ACCEPT_TURNS):
                await asyncio.sleep(0)

    def take_http2(self, server: H1Server, transport: asyncio.Transport, opening: bytes) -> None:
        """Let Hypercorn serve a connection from its first bytes on."""
        reader = asyncio.StreamReader(loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        transport.pause_reading()  # uvloop decides how to read a protocol of this kind when reading starts
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        reader.feed_data(opening)
        transport.resume_reading()
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        connection = _Http2Connection(
            self._app, self._loop, self._config, self._context, self._lifespan_state, reader, writer
        )
        self.tasks.spawn(connection.serve, server)

    async def stop_http2(self) -> None:
        """Ask the HTTP/2 connections to finish what they have begun."""
        await self._context.terminated.set()


class _Http2Connection(Http2Mixin, TCPServer):
    """Hypercorn's connection, counted among ours."""

    def abort(self) -> None:
        self.writer.transport.abort()

    def raw_socket(self) -> Any:
        return self.writer.get_extra_info("socket")
