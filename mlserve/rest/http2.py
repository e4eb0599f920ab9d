"""What Hypercorn's connection needs to serve HTTP/2 among our connections, the same on asyncio and trio."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hypercorn import protocol
from hypercorn.events import Event, Updated
from hypercorn.protocol import h2
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import StreamClosed

from mlserve.rest.h1_server import H1Server
from mlserve.unsent import Reading

__all__ = ["Http2Mixin"]

log = logging.getLogger(__name__)

if TYPE_CHECKING:

    class _Base:  # what Hypercorn's two TCPServer have in common
        idle_task: Any

        async def run(self) -> None: ...
        async def protocol_send(self, event: Event) -> None: ...
        async def _read_data(self) -> None: ...

else:
    _Base = object


class _Buffer(h2.StreamBuffer):
    """What one stream has not sent yet. Who fills it waits until the client has made room.

    Hypercorn's lets the next piece in as soon as little went out, also where nothing can go out, since the client's
    window is closed: memory would grow for as long as a model has something to say.
    """

    async def pop(self, max_length: int) -> bytes:
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        if len(self.buffer) < h2.BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data


class _Protocol(h2.H2Protocol):
    """Resets a stream whose answer is broken off. Hypercorn's says nothing more, and its client waits for ever."""

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, StreamClosed):
            buffer = self.stream_buffers.get(event.stream_id)
            if buffer is not None and not buffer._complete:
                with suppress(ProtocolError, KeyError):  # the client has closed it
                    self.connection.reset_stream(event.stream_id, ErrorCodes.INTERNAL_ERROR)
                    self.priority.unblock(event.stream_id)
        await super().stream_send(event)

    async def _send_data(self, stream_id: int) -> None:
        await super()._send_data(stream_id)
        await self._flush()  # resets: here, and not where an application ends, which shall wait for no client


h2.StreamBuffer = _Buffer  # type: ignore[misc]  # Hypercorn has no other place for these
protocol.H2Protocol = _Protocol  # type: ignore[attr-defined]


class Http2Mixin(_Base):
    """Before Hypercorn's TCPServer in the list of bases; counted by H1Server, with Hypercorn's own deadlines."""

    _preface_seen = False
    _read = False  # all that the client will ever say; or the connection is cancelled
    _client_reads: Reading

    async def serve(self, server: H1Server) -> None:
        """Serve until the connection is closed."""
        self._client_reads = Reading(server.limits.send_seconds, server.limits.unsent)
        server.enter(self)
        try:
            await self.run()
        except Exception:  # an error in Hypercorn ends this connection, not the task group of all
            log.exception("a connection of HTTP/2 failed")
        finally:
            self.abort()  # Hypercorn's own close is cancelled with it
            server.leave(self)

    async def protocol_send(self, event: Event) -> None:
        # Hypercorn takes the preface for a request that is under way: a connection on which nothing is ever asked
        # would count as busy for ever.
        if isinstance(event, Updated) and not self._preface_seen:
            self._preface_seen = True
        elif not (isinstance(event, Updated) and self._read):  # else it would wait for another request; nor can it now
            await super().protocol_send(event)

    async def _read_data(self) -> None:
        try:
            await super()._read_data()
        finally:
            self._read = True
            await self.idle_task.stop()  # or the descriptor of a client that left is kept until the idle timeout

    def check_deadlines(self, now: float) -> None:
        """Close if the client does not read; Hypercorn sees to the rest."""
        if self._client_reads.has_stopped(self.raw_socket(), now):
            self.abort()

    def raw_socket(self) -> Any:
        """The connection's socket."""
        raise NotImplementedError

    def stop_when_idle(self, now: float) -> None:
        """Hypercorn does, once its context says `terminated`."""

    def give_up(self) -> None:
        """HTTP/2 has no words for it: the streams end with the connection."""

    def abort(self) -> None:
        """Close at once."""
        raise NotImplementedError
