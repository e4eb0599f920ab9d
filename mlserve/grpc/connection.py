"""One HTTP/2 connection: grpclib's protocol with our h2, our inbox, joined writes, and a bound on idle frames."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from grpclib.config import Configuration
from grpclib.protocol import AbstractHandler, Connection, EventsProcessor, H2Protocol, Stream
from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import DenialOfServiceError, ProtocolError, StreamClosedError

from mlserve.grpc.inbox import Inbox
from mlserve.http2 import ServerConnection, goaway_frame
from mlserve.unsent import Reading
from mlserve.wire.protowire import Chunk

__all__ = ["GrpcConnection", "GrpcProtocol", "HttpStream", "JoinedWrites"]

logger = logging.getLogger("mlserve.grpc")

_JOINED_BYTES = 64 << 10  # Below it, copying the parts of a write together is cheaper than handing over each.
_BUFFERED_BYTES = 512 << 10  # Written before the turn of the loop ends, so that the transport can push back.
_WRITE_BUFFER_BYTES = 1 << 20
_MAX_STREAMS = 1000


class JoinedWrites:
    """A transport that writes once for each turn of the loop, whatever happened in it."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[Chunk] = []
        self._size = 0

    def write(self, data: Chunk) -> None:
        """Takes data; it is sent at the end of this turn of the loop, or sooner if there is much of it."""
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _BUFFERED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Sends what is there."""
        parts, size = self._parts, self._size
        self._parts, self._size = [], 0
        if not parts or self._transport.is_closing():
            return
        if len(parts) == 1:
            self._transport.write(parts[0])
        elif size <= _JOINED_BYTES:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)

    def close(self) -> None:
        """Closes after what is there is sent."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Closes at once."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As asyncio's transports have it."""
        return self._transport.get_extra_info(name, default)


class HttpStream(Stream):
    """One stream: an inbox for messages, and DATA frames written without copying tensors."""

    def init_stream(self, stream_id: int, connection: Connection) -> None:
        """Gives the stream its inbox."""
        self.id = stream_id
        self.buffer = cast(Any, Inbox(partial(connection.ack, stream_id)))

    @property
    def inbox(self) -> Inbox:
        """The received messages."""
        return cast(Inbox, self.buffer)

    async def send_headers(self, headers: Any, end_stream: bool = False) -> None:
        """Sends the headers of an answer, or its trailers. StreamClosedError if the stream is gone."""
        assert self.id is not None
        connection = cast(GrpcConnection, self.connection)
        if not connection.write_ready.is_set():
            await connection.write_ready.wait()
        if self._transport.is_closing():
            raise StreamClosedError(self.id)
        connection.flush()  # What h2 still holds was said before.
        h2 = cast(ServerConnection, self._h2_connection)
        self._transport.write(h2.headers_frame(self.id, headers, end_stream))

    async def send_chunks(self, chunks: Sequence[Chunk], seconds: float) -> None:
        """Sends DATA; waits for the client's window and for the socket. StreamClosedError if the stream is gone.

        For `seconds` the client may leave its window shut, then its stream is reset; 0: for ever. A socket that takes
        nothing is the listener's business.

        h2 would copy each byte four times on its way. It still keeps the windows and says whether the stream is open.
        """
        assert self.id is not None
        connection, stream_id = cast(GrpcConnection, self.connection), self.id
        h2 = cast(ServerConnection, self._h2_connection)
        write = self._transport.write
        rest = [memoryview(chunk) for chunk in chunks if len(chunk)]
        rest.reverse()
        left = sum(map(len, rest))
        loop, shut_at = asyncio.get_running_loop(), None
        while left:
            if not connection.write_ready.is_set():
                await connection.write_ready.wait()
            room = h2.room(stream_id)
            if room is None or self._transport.is_closing():
                raise StreamClosedError(stream_id)
            if not room:
                shut_at = shut_at or loop.time()
                await self._until_window(shut_at + seconds if seconds else None)
                continue
            shut_at = None
            take = min(room, h2.max_outbound_frame_size, left)
            left -= take
            connection.flush()
            write(h2.data_head(stream_id, take, end_stream=False))
            while take:
                chunk = rest.pop()
                if len(chunk) > take:
                    rest.append(chunk[take:])
                    chunk = chunk[:take]
                take -= len(chunk)
                write(chunk)

    async def _until_window(self, end: float | None) -> None:
        """Waits until the client opens a window: this stream's or its connection's. StreamClosedError at the end."""
        self.window_updated.clear()
        left = None if end is None else max(0.0, end - asyncio.get_running_loop().time())
        try:
            await asyncio.wait_for(self.window_updated.wait(), left)
        except asyncio.TimeoutError:
            assert self.id is not None
            if self.closable:
                self.reset_nowait(ErrorCodes.CANCEL)
                self.connection.flush()
            raise StreamClosedError(self.id) from None


class GrpcConnection(Connection):
    """grpclib's Connection with our streams."""

    def create_stream(self, *, stream_id: int | None = None, wrapper: Any = None) -> HttpStream:
        """A stream that the client has opened."""
        return HttpStream(self, self._connection, self._transport, stream_id=stream_id, wrapper=wrapper)

    def flush(self) -> None:
        """Writes what h2 has to say; nothing once the connection is closing."""
        if not self.is_closing():
            super().flush()

    def goaway(self, error: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Tells the client to open no more streams here; those that are open go on."""
        if not self.is_closing():
            self.flush()
            self._transport.write(goaway_frame(self._connection.highest_inbound_stream_id, error))


class _Events(EventsProcessor):
    """grpclib's EventsProcessor, deaf to frames that nobody needs."""

    def process(self, event: Event) -> None:
        """Acts on one event of h2. Unknown frames must be ignored; grpclib raises for them."""
        processors = getattr(self, "processors", None)
        if processors is None or event.__class__ not in processors:
            return
        processors[event.__class__](event)


class GrpcProtocol(H2Protocol):
    """asyncio's view of a connection. `on_change(protocol, is_open)` is told when it opens and when it is gone."""

    connection: GrpcConnection
    processor: _Events
    transport: asyncio.Transport

    def __init__(
        self, handler: AbstractHandler, on_change: Callable[[GrpcProtocol, bool], None], client_reads: Reading
    ) -> None:
        super().__init__(handler, _CONFIGURATION, _UNUSED)
        self._on_change = on_change
        self._client_reads = client_reads

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Says hello with our settings."""
        loop = self._loop = asyncio.get_running_loop()
        self._read_paused = False
        h2 = self._h2 = ServerConnection(max_streams=_MAX_STREAMS, checks_headers=False)  # call.py reads them
        h2.initiate_connection()
        transport = self.transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        joined = cast(asyncio.Transport, JoinedWrites(transport, loop))
        self.connection = GrpcConnection(h2, joined, config=self.config)
        self.connection.flush()
        self.connection.initialize()
        self.processor = _Events(self.handler, self.connection)
        self._on_change(self, True)

    def check_reading(self, now: float) -> None:
        """Closes the connection of a client that does not read."""
        if self._client_reads.has_stopped(self.transport.get_extra_info("socket"), now):
            logger.debug("closing a gRPC connection: the client does not read")
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Acts on what the client said: at once, or behind the frames that wait for their turn."""
        if not self._h2.has_more():
            self._read(data)
        elif not (self._h2.hold(data) or self._read_paused or self.connection.is_closing()):
            self._read_paused = True
            self.transport.pause_reading()

    def _read(self, data: bytes) -> None:
        """A flood of small frames takes many turns of the loop, so that other connections have theirs."""
        self._feed(data)
        if self.connection.is_closing():
            return
        self.connection.flush()
        if self._h2.has_more():
            self._loop.call_soon(self._read, b"")
        elif self._read_paused:
            self._read_paused = False
            self.transport.resume_reading()

    def _feed(self, data: bytes) -> None:
        if self.connection.is_closing():
            return
        try:
            events = self.connection.feed(data)
        except ProtocolError as error:
            level = logging.WARNING if isinstance(error, DenialOfServiceError) else logging.DEBUG
            logger.log(level, "closing a gRPC connection: %s", error)
            self.connection.flush()  # The GOAWAY that says why.
            self.processor.close("protocol error")
            return
        except Exception:  # An odd client must not be able to reach anything but its own connection.
            logger.exception("closing a gRPC connection after an unexpected error")
            self.connection.goaway(ErrorCodes.INTERNAL_ERROR)
            self.processor.close("internal error")
            return
        for event in events:
            self.processor.process(event)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Ends the calls of a client that is gone."""
        super().connection_lost(exc)
        self.connection.resume_writing()  # Whoever waits for the socket is to see that it is closed.
        self._on_change(self, False)


_CONFIGURATION = Configuration().__for_server__()
_UNUSED: Any = None  # grpclib's protocol would make its own h2 connection of this.
