"""Accepts HTTP connections on asyncio (uvloop or not)."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from mlserve.rest.h1 import H1Connection
from mlserve.rest.h1_server import BACKLOG, H1Server

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

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Hypercorn's group, not anyio's: starting a task in it costs 2 µs instead of 10, and there is one per request.
        self.tasks = TaskGroup(self._loop)

    @asynccontextmanager
    async def accepting(self, server: H1Server, listener: socket.socket) -> AsyncIterator[None]:
        """Accept connections of the listening socket, which is closed at the end."""
        acceptor = await self._loop.create_server(lambda: H1Connection(server), sock=listener, backlog=BACKLOG)
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
