"""Listener: the accepting socket and all its connections, in asyncio, from the first to the last."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping

from mlserve.grpc.call import CallLimits, Method
from mlserve.grpc.connection import GrpcProtocol
from mlserve.grpc.handler import CallHandler
from mlserve.metrics import Metrics
from mlserve.sockets import descriptors_are_short
from mlserve.unsent import Reading

__all__ = ["Listener"]

logger = logging.getLogger("mlserve.grpc")

# How long ended calls may take to clean up, and closing connections to send what is left.
_CLEANUP_SECONDS = 5.0
_CLOSE_SECONDS = 1.0
# How many turns of the loop a connection takes from the accepting socket to its protocol.
_ACCEPT_TURNS = 5
_LOOK_SECONDS = 1.0
_STOPPING = "the server is stopping"


class Listener:
    """Accepts connections until `drain` or `close`. After `close` there is no task, connection or socket left."""

    def __init__(self, methods: Mapping[str, Method], metrics: Metrics, limits: CallLimits) -> None:
        self._methods = methods
        self._metrics = metrics
        self._limits = limits
        self._server: asyncio.AbstractServer | None = None
        self._sock: socket.socket | None = None
        self._open: dict[GrpcProtocol, CallHandler] = {}  # the connections
        self._tasks: set[asyncio.Task[None]] = set()  # the calls, those of lost connections too
        self._all_closed: asyncio.Future[None] | None = None
        self._stopping = False
        self._looking: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Listener: {len(self._open)} connections, {len(self._tasks)} calls>"

    async def start(self, sock: socket.socket) -> None:
        """Accepts connections on a bound socket."""
        self._sock = sock
        self._server = await asyncio.get_running_loop().create_server(self._make_protocol, sock=sock)
        self._look_at_clients()

    def _look_at_clients(self) -> None:
        """Every second or so: closes the connections of those that do not read, or that there is no room for."""
        loop, seconds = asyncio.get_running_loop(), self._limits.send_seconds
        for protocol, handler in list(self._open.items()):
            protocol.check_reading(loop.time())
            if handler.unwelcome and not handler.draining:
                handler.drain()
        self._looking = loop.call_later(min(_LOOK_SECONDS, seconds / 4 or _LOOK_SECONDS), self._look_at_clients)

    async def drain(self, grace_seconds: float) -> None:
        """Takes no more connections and calls; waits so long for those that run. Idle connections close at once."""
        await self._stop_accepting()
        for handler in list(self._open.values()):
            # Those that only watch would go on for ever.
            handler.end_calls("UNAVAILABLE", _STOPPING, _is_watching)
            handler.drain()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_seconds)

    async def close(self) -> None:
        """Ends what still runs, and closes every connection."""
        await self._stop_accepting()
        late = set(self._tasks)
        for handler in list(self._open.values()):
            handler.end_calls("UNAVAILABLE", _STOPPING, _any)
            handler.drain()
        if late:
            logger.warning("gRPC: ended %d unfinished calls", len(late))
            await asyncio.wait(late, timeout=_CLEANUP_SECONDS)
        for protocol in list(self._open):
            protocol.connection.close()
        await self._until_closed(_CLOSE_SECONDS)
        for protocol in list(self._open):
            protocol.transport.abort()
        await self._until_closed(_CLEANUP_SECONDS)
        if self._tasks:
            logger.error("gRPC: %d calls do not end", len(self._tasks))
        if self._looking is not None:
            self._looking.cancel()
        if self._server is not None:
            await self._server.wait_closed()

    async def _stop_accepting(self) -> None:
        """Closes the socket, once the connections that it has accepted have their protocols.

        asyncio's server forgets those between the two when it is closed.
        """
        if self._stopping or self._server is None or self._sock is None:
            return
        self._stopping = True
        asyncio.get_running_loop().remove_reader(self._sock)  # uvloop has none there, and does not need it.
        try:
            for _ in range(_ACCEPT_TURNS):
                await asyncio.sleep(0)
        finally:
            self._server.close()

    async def _until_closed(self, seconds: float) -> None:
        """Waits until no connection is open."""
        if not self._open:
            return
        self._all_closed = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._all_closed], timeout=seconds)

    def _make_protocol(self) -> GrpcProtocol:
        handler = CallHandler(self._methods, self._metrics, self._limits, self._tasks)
        client_reads = Reading(self._limits.send_seconds, self._limits.unsent)
        handler.protocol = protocol = GrpcProtocol(handler, self._changed, client_reads)
        return protocol

    def _changed(self, protocol: GrpcProtocol, is_open: bool) -> None:
        """A connection has opened, or is gone."""
        if is_open:
            handler = protocol.handler
            assert isinstance(handler, CallHandler)
            self._open[protocol] = handler
            handler.unwelcome = descriptors_are_short(protocol.transport.get_extra_info("socket"))
            if self._stopping:  # It was accepted just before the socket closed.
                handler.drain()
            return
        self._open.pop(protocol, None)
        if not self._open and self._all_closed is not None and not self._all_closed.done():
            self._all_closed.set_result(None)


def _is_watching(method: Method) -> bool:
    return method.service.startswith("grpc.")


def _any(method: Method) -> bool:
    return True
