"""One HTTP/1.1 connection: bytes in, one exchange after the other, bytes out; no queue, task or timer of its own.

    OPENING ──first bytes are no HTTP/2──▶ SERVING ──answered, and not to be kept──▶ CLOSING
       │ HTTP/2 with prior knowledge          │ refused, or the rest of a body is unwanted    ▲
       ▼                                      ▼                                               │ client closed, or enough
    handed over to H2Connection            LINGERING ─────────────────────────────────────────┘

SERVING is idle (nothing asked), in a head, or busy (`_current` is being answered). Requests that a client sends ahead
wait in `_ahead`; when they are too many nothing more is read. LINGERING has sent its last word and closed its sending
side; it drops what the client still sends, for a bounded time, since closing with unread bytes would reset the
connection and the client might never see the answer.

A connection is asyncio's BufferedProtocol, because that lets the kernel write into a buffer of our choice: one that all
connections share (its content is parsed before anybody else can read), or the body itself while a large one arrives.
On trio a small transport calls the same methods. Every method but `drain` is synchronous and runs on the event loop,
so between two of them the state is whole.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import socket
import struct
import time
from collections import deque
from typing import Any

import anyio

from mlserve.rest.h1_body import Body
from mlserve.rest.h1_exchange import Exchange
from mlserve.rest.h1_parser import Refusal, RequestParser
from mlserve.rest.h1_response import error_response
from mlserve.rest.h1_server import LEAVE_SECONDS, H1Server, Transport, host_and_port
from mlserve.rest.h2 import H2Connection
from mlserve.sockets import NO_DESCRIPTORS, descriptors_are_short
from mlserve.unsent import Reading

__all__ = ["H1Connection"]

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# While a client is this many requests ahead of its answers, nothing is read, and it is not seen if it leaves. What one
# packet brought is parsed to the end, up to the larger number.
PAUSE_AHEAD = 8
MAX_AHEAD = 64
LINGER_BYTES = 64 * 1024 * 1024  # dropped after a refusal, so that a client in the midst of its upload sees the answer

log = logging.getLogger(__name__)


class Phase(enum.Enum):
    """Where a connection stands; see the head of this file."""

    OPENING = enum.auto()
    SERVING = enum.auto()
    LINGERING = enum.auto()
    CLOSING = enum.auto()


class H1Connection(asyncio.BufferedProtocol):
    """One client, from its first byte to its last; the Link of its exchanges and the sink of its parser."""

    def __init__(self, server: H1Server) -> None:
        self._server = server
        self._transport: Transport
        self._parser = RequestParser(self, server.limits.max_head_bytes)
        self._phase = Phase.OPENING
        self._opening = b""  # the first bytes, while they may still become HTTP2_PREFACE
        self._current: Exchange | None = None  # the one being answered
        self._arriving: Exchange | None = None  # the one whose body is being read; current, or the last one ahead
        self._ahead: deque[Exchange] = deque()
        self._in_place: Body | None = None  # Invariant: while set, the kernel writes into it and the parser is not fed
        self._reading = True
        self._half_closed = False  # the client sends nothing more
        self._writable: anyio.Event | None = None  # set by whoever waits for a slow client
        self._write_paused = False
        self._since = time.monotonic()  # when it became idle, began a head, or began to linger
        self._heard = 0.0  # when the last bytes of a body came
        self._dropped_bytes = 0
        self._client: tuple[str, int] | None = None
        self._address: tuple[str, int] | None = None
        self._client_reads = Reading(server.limits.send_seconds, server.limits.unsent)

    def __repr__(self) -> str:
        what = "idle" if self._current is None else f"{self._current.scope['method']} {self._current.scope['path']}"
        return f"<H1Connection {self._client}: {self._phase.name.lower()}, {what} | {len(self._ahead)} ahead>"

    # -- called by the transport -----------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._client = host_and_port(transport.get_extra_info("peername"))
        self._address = host_and_port(transport.get_extra_info("sockname"))
        self._server.enter(self)
        if self._server.limits.leaves_descriptors and descriptors_are_short(transport.get_extra_info("socket")):
            self._refuse(Refusal(503, NO_DESCRIPTORS), retry=True)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._server.read_buffer if self._in_place is None else self._in_place.space()

    def buffer_updated(self, nbytes: int) -> None:
        if self._in_place is not None:
            self._filled_in_place(self._in_place, nbytes)
        elif self._phase is Phase.SERVING:
            self._feed(self._server.read_buffer[:nbytes])
        elif self._phase is Phase.OPENING:
            self._open_with(self._opening + bytes(self._server.read_buffer[:nbytes]))
        else:
            self._drop(nbytes)

    def eof_received(self) -> bool:
        """The client closed its sending side; True keeps ours open for the answer it may still be waiting for."""
        if self._phase is not Phase.SERVING or self._current is None or self._arriving is self._current:
            return False
        self._half_closed = True
        if self._arriving is not None:
            self._arriving = None
            self._ahead.pop().body.release()  # will never be complete
        for exchange in (self._current, *self._ahead):
            exchange.leave(lost=False)
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self._phase = Phase.CLOSING
        self._in_place = None
        self._server.leave(self)
        if self._current is not None:
            self._current.leave(lost=True)
        self._current = self._arriving = None
        self._forget_ahead()
        self.resume_writing()
        self._parser.close()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    # -- called by the server --------------------------------------------------------------------------------------

    def check_deadlines(self, now: float) -> None:
        """Close the connection if its client was silent for too long, or does not read."""
        if self._client_reads.has_stopped(self._transport.get_extra_info("socket"), now):
            log.debug("%s: closed, since the client does not read", self._client)
            self.abort()
            return
        limits, quiet = self._server.limits, now - self._since
        if self._phase is Phase.LINGERING:
            if quiet > limits.linger_seconds:
                self.abort()
        elif self._phase is Phase.CLOSING:
            return
        elif self._current is None:
            if not self._parser.in_head:
                if quiet > limits.keep_alive_seconds:
                    self._close()
            elif quiet > limits.head_seconds:
                self._refuse(Refusal(408, f"the request's head took longer than {limits.head_seconds:g} s"))
        elif self._arriving is self._current and self._reading and now - self._heard > limits.body_pause_seconds:
            self._refuse(Refusal(408, f"nothing of the request's body came for {limits.body_pause_seconds:g} s"))

    def stop_when_idle(self, now: float) -> None:
        """Close if nothing was asked for LEAVE_SECONDS, or after the answer that is under way."""
        idle = self._current is None and self._phase in (Phase.OPENING, Phase.SERVING)
        if idle and now - self._since > LEAVE_SECONDS:
            self._close()

    def give_up(self) -> None:
        """Tell the client that its answer will not come, where that can be said, and close."""
        if self._phase is not Phase.SERVING:
            return
        if self._current is not None:
            self._current.say_last_words()
        elif not self._parser.in_head:  # nothing was asked
            self._close()
            return
        self._refuse(Refusal(503, "the server stopped before the answer was there"))

    def abort(self) -> None:
        """Close at once; what was not sent is lost."""
        self._phase = Phase.CLOSING
        self._transport.abort()

    # -- called by exchanges (Link) --------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._phase is not Phase.CLOSING:
            self._transport.write(data)

    async def drain(self) -> None:
        while self._write_paused:
            if self._writable is None:
                self._writable = anyio.Event()
            await self._writable.wait()

    def body_wanted(self, exchange: Exchange, whole: bool) -> None:
        if exchange is self._arriving:
            self._heard = time.monotonic()
            if whole and exchange.body.move_in_place():
                self._in_place = exchange.body
            self._steer_reading()

    def answered(self, exchange: Exchange) -> None:
        if exchange is not self._current:
            return
        self._current = None
        done = self._half_closed and not self._ahead
        if done or not exchange.keep_alive:  # while stopping too: a client that was promised more may ask once more
            self._close(linger=not exchange.body.complete or self._parser.refusal is not None)
            return
        self._since = time.monotonic()
        self._go_on()

    def cut_off(self, exchange: Exchange) -> None:
        if exchange is self._current:
            self._current = None
            if exchange.scope["http_version"] == "1.0":
                self._reset()
            else:
                self._close()

    def date_line(self) -> bytes:
        return self._server.date_line()

    def stopping(self) -> bool:
        return self._server.stopping

    # -- called by the parser (RequestSink) ------------------------------------------------------------------------

    def on_head(self) -> None:
        parser = self._parser
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": parser.http_version,
            "method": parser.method,
            "scheme": "http",
            "path": parser.path,
            "raw_path": parser.raw_path,
            "query_string": parser.query,
            "root_path": "",
            "headers": parser.headers,
            "client": self._client,
            "server": self._address,
            "state": self._server.lifespan_state.copy(),
        }
        body = Body(parser.content_length, self._server.limits.intake)
        exchange = Exchange(self._server.app, self, scope, body, parser.keep_alive, parser.expects_continue)
        self._arriving = exchange
        self._ahead.append(exchange)

    def on_body(self, piece: bytes) -> None:
        if self._arriving is not None:
            self._arriving.body.add(piece)

    def on_end(self) -> None:
        if self._arriving is not None:
            self._arriving.body.complete = True
            if self._arriving is self._current:
                self._arriving.arrived()
            self._arriving = None
        if len(self._ahead) > MAX_AHEAD:
            self._parser.refuse(503, f"over {MAX_AHEAD} requests were sent ahead of their answers")

    # -- inner workings --------------------------------------------------------------------------------------------

    def _open_with(self, data: bytes) -> None:
        """Tell HTTP/2 with prior knowledge from HTTP/1.1 by the first bytes."""
        if HTTP2_PREFACE.startswith(data[: len(HTTP2_PREFACE)]):
            self._opening = data
            if len(data) >= len(HTTP2_PREFACE):
                self._hand_over(data)
            return
        self._phase = Phase.SERVING
        self._opening = b""
        self._feed(data)

    def _hand_over(self, data: bytes) -> None:
        self._phase = Phase.CLOSING
        connection = H2Connection(self._server)
        self._transport.set_protocol(connection)
        connection.connection_made(self._transport)
        connection.feed(data)
        self._server.leave(self)
        self._parser.close()

    def _feed(self, data: bytes | memoryview) -> None:
        parser = self._parser
        was_in_head = parser.in_head
        parser.feed(data)
        if parser.in_head:
            if not was_in_head:
                self._since = time.monotonic()
        elif self._arriving is not None:
            self._heard = time.monotonic()
        self._go_on()

    def _go_on(self) -> None:
        """Start what waits, tell the exchange that is running, refuse what cannot be read, steer the reader."""
        if self._current is None and self._ahead:
            self._current = self._ahead.popleft()
            self._server.spawn(self._current.run)
        elif self._arriving is not None and self._arriving is self._current:
            self._current.arrived()
        refusal = self._parser.refusal
        if refusal is not None and (self._current is None or self._arriving is self._current):
            self._refuse(refusal)
        else:
            self._steer_reading()

    def _steer_reading(self) -> None:
        """Read on unless too many requests wait, or more of a body than its application wants to have ready."""
        arriving = self._arriving
        read = len(self._ahead) < PAUSE_AHEAD and (arriving is None or arriving.body.buffered <= arriving.read_ahead)
        if read is not self._reading:
            self._reading = read
            if read:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _filled_in_place(self, body: Body, nbytes: int) -> None:
        body.filled(nbytes)
        self._heard = time.monotonic()
        if body.refused:
            self._in_place = None
            self._refuse(Refusal(429, self._server.limits.intake.refusal().message))
            return
        if body.complete:
            self._in_place = None
            self._parser.restart()
            self.on_end()

    def _refuse(self, refusal: Refusal, *, retry: bool = False) -> None:
        """Answer with an error of our own, if nothing of an answer was sent yet, and close."""
        exchange, self._current = self._current, None
        if exchange is None:
            self.write(error_response(refusal.status, refusal.reason, date_line=self.date_line(), retry=retry))
        else:
            if not exchange.head_sent:
                exchange.say_error(refusal.status, refusal.reason)
            exchange.leave(lost=True)
        log.debug("%s: refused with %d, %s", self._client, refusal.status, refusal.reason)
        self._close(linger=True)

    def _close(self, *, linger: bool = False) -> None:
        """Close after what was written; with `linger` not before the client did, or had the time to."""
        self._forget_ahead()
        self._arriving = self._in_place = None
        if not linger:
            self._phase = Phase.CLOSING
            self._transport.close()
            return
        self._phase = Phase.LINGERING
        self._since = time.monotonic()
        try:
            self._transport.write_eof()
        except OSError:  # the client was faster
            self.abort()
        else:
            self._steer_reading()

    def _forget_ahead(self) -> None:
        """Drops requests that will not be answered."""
        while self._ahead:
            self._ahead.pop().body.release()

    def _reset(self) -> None:
        """End the connection with an error, where a normal end would look like the end of the body."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def _drop(self, nbytes: int) -> None:
        self._dropped_bytes += nbytes
        if self._dropped_bytes > LINGER_BYTES:
            self.abort()
