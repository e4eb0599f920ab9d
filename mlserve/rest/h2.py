"""One HTTP/2 connection with prior knowledge: frames in, an exchange for each stream, frames out.

    OPEN ──the server ends──▶ LEAVING ──no stream is left: GOAWAY──▶ CLOSING
      └──error of the protocol, client gone, or it does not read───────▲

As in h1.py every method is synchronous and runs on the event loop: what h2 has encoded is written in the same step, in
order, and belongs to the transport from then on. So nothing that is cancelled can take a frame along with it, which
would make the whole connection unreadable; and all streams of a client that leaves are told in one step.

What streams have to send waits with them (h2_exchange.py) until the transport takes it and the windows are open, and
goes out a frame of each in turn. Priorities are not kept; RFC 9113 has given them up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import anyio.lowlevel
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import DenialOfServiceError, ProtocolError, StreamClosedError

from mlserve.http2 import ServerConnection, goaway_frame
from mlserve.rest.h1_body import Body
from mlserve.rest.h1_server import LEAVE_SECONDS, H1Server, Transport, host_and_port
from mlserve.rest.h2_exchange import Fields, H2Exchange, Stream
from mlserve.unsent import Reading

__all__ = ["H2Connection"]

MAX_STREAMS = 100  # at the same time
WRITE_BYTES = 64 * 1024  # frames are joined up to here

log = logging.getLogger(__name__)


class H2Connection(asyncio.BufferedProtocol):
    """One client, from its preface to its last stream; what its streams ask of it."""

    def __init__(self, server: H1Server) -> None:
        self._server = server
        self._transport: Transport
        self._h2 = ServerConnection(max_streams=MAX_STREAMS, checks_headers=True)
        self._streams: dict[int, Stream] = {}  # Invariant: those of which something is to be sent or received
        self._ready: deque[Stream] = deque()  # those that may have something to send
        self._heads: list[bytes | memoryview] = []  # what goes out before anything else
        self._write_paused = False
        self._closing = False
        self._gathering = False  # what there is to say is said together, when all that has come is read
        self._leaving = False  # no more streams are taken
        self._said_goodbye = False
        self._since = time.monotonic()  # when the last stream ended
        self._heard = 0.0  # when a part of a frame came; streams behind it have to wait
        self._read_paused = False  # too many frames wait for their turn
        self._client: tuple[str, int] | None = None
        self._address: tuple[str, int] | None = None
        self._client_reads = Reading(server.limits.send_seconds, server.limits.unsent)

    def __repr__(self) -> str:
        return f"<H2Connection {self._client}: {len(self._streams)} streams{' | leaving' if self._leaving else ''}>"

    # -- called by the transport -----------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._client = host_and_port(transport.get_extra_info("peername"))
        self._address = host_and_port(transport.get_extra_info("sockname"))
        self._server.enter(self)
        self._h2.initiate_connection()
        self._flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._server.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.feed(bytes(self._server.read_buffer[:nbytes]))

    def feed(self, data: bytes) -> None:
        """Act on what the client said: at once, or behind the frames that wait for their turn."""
        if self._h2.has_more():
            if not (self._h2.hold(data) or self._read_paused or self._closing):
                self._read_paused = True
                self._transport.pause_reading()
        else:
            self._read(data)
            if self._h2.has_more() and not self._closing:
                self._server.spawn(self._read_on)

    async def _read_on(self) -> None:
        """A flood of small frames takes many turns of the loop, so that other connections have theirs."""
        while self._h2.has_more() and not self._closing:
            await anyio.lowlevel.checkpoint()
            self._read(b"")
        if self._read_paused and not self._closing:
            self._read_paused = False
            self._transport.resume_reading()

    def _read(self, data: bytes) -> None:
        self._gathering = True
        try:
            for event in () if self._closing else self._h2.receive_data(data):
                if not self._closing:
                    self._on(event)
            if self._h2.in_a_frame():
                self._heard = time.monotonic()
        except ProtocolError as error:
            level = logging.WARNING if isinstance(error, DenialOfServiceError) else logging.DEBUG
            log.log(level, "%s: closed for an error of the protocol: %s", self._client, error)
            self._said_goodbye = True  # by h2, which says why
            self._close()
        except Exception:  # an odd client must not reach anything but its own connection
            log.exception("a connection of HTTP/2 failed")
            self.abort()
        finally:
            self._gathering = False
        self._flush()

    def eof_received(self) -> bool:
        """A client that says no more opens no windows either: it has left."""
        self.abort()
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        self._closing = True
        self._lose_all()
        self._server.leave(self)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._flush()

    # -- called by the server --------------------------------------------------------------------------------------

    def check_deadlines(self, now: float) -> None:
        """Close or reset what its client does not read, does not send, or does not use."""
        limits = self._server.limits
        if self._client_reads.has_stopped(self._transport.get_extra_info("socket"), now):
            log.debug("%s: closed, since the client does not read", self._client)
            self.abort()
        elif not self._streams:
            if now - self._since > limits.keep_alive_seconds:
                self._close()
        else:
            self._gathering = True  # all is said together, and no stream is over before
            for stream in list(self._streams.values()):
                self._check_stream(stream, now)
            self._gathering = False
            self._flush()

    def _check_stream(self, stream: Stream, now: float) -> None:
        limits = self._server.limits
        if self._write_paused:
            stream.moved = now  # nothing could be sent to it
        if stream.unsent_bytes and 0 < limits.send_seconds < now - stream.moved:
            self.reset(stream, ErrorCodes.CANCEL)
        elif stream.waits_for_body():
            exchange, quiet = stream.exchange, now - max(stream.heard, self._heard)
            if exchange.answered:
                if quiet > limits.linger_seconds:
                    self.reset(stream, ErrorCodes.NO_ERROR)
            elif quiet > limits.body_pause_seconds:
                self._refuse_body(stream, f"nothing of the request's body came for {limits.body_pause_seconds:g} s")

    def _refuse_body(self, stream: Stream, reason: str) -> None:
        exchange = stream.exchange
        if exchange.head_sent:
            self.reset(stream, ErrorCodes.CANCEL)
            return
        exchange.say_error(408, reason)
        exchange.leave(lost=True)
        exchange.answered = True
        stream.answered(exchange)

    def stop_when_idle(self, now: float) -> None:
        """Take no more streams; close if there was none for LEAVE_SECONDS.

        GOAWAY waits for the streams, since clients that are made with h2 (httpx) read nothing behind it.
        """
        self._leaving = True
        if not self._streams:
            self._say_goodbye()
            if now - self._since > LEAVE_SECONDS:
                self._close()

    def give_up(self) -> None:
        """Tell the client that its answers will not come, and close."""
        self._gathering = True  # all is said together, and no stream is over before
        for stream in list(self._streams.values()):
            exchange = stream.exchange
            if exchange.answered:
                continue
            if not exchange.head_sent:
                exchange.say_error(503, "the server stopped before the answer was there")
            elif exchange.say_last_words():
                stream.answered(exchange)
            else:
                stream.cut_off(exchange)
        self._close()

    def abort(self) -> None:
        """Close at once; what was not sent is lost."""
        self._closing = True
        self._lose_all()
        self._transport.abort()

    # -- called by streams -----------------------------------------------------------------------------------------

    def put_head(self, stream: Stream, fields: Fields) -> None:
        with suppress(StreamClosedError):  # the client has reset it in the packet that is being read
            self._put(self._h2.headers_frame(stream.id, fields, end_stream=False))

    def say_continue(self, stream: Stream) -> None:
        with suppress(StreamClosedError):  # as above
            self._put(self._h2.continue_frame(stream.id))
            self._flush()

    def has_data(self, stream: Stream) -> None:
        if not stream.is_ready:
            stream.is_ready = True
            self._ready.append(stream)
        self._flush()

    def reset(self, stream: Stream, code: ErrorCodes) -> None:
        if self._closing:
            return
        with suppress(ProtocolError):  # as above
            self._h2.reset_stream(stream.id, code)
        self._forget(stream, lost=True)
        self._flush()

    def give_window(self, stream: Stream, nbytes: int) -> None:
        self._h2.acknowledge_received_data(nbytes, stream.id)
        self._flush()

    def date_line(self) -> bytes:
        return self._server.date_line()

    def stopping(self) -> bool:
        return self._server.stopping

    # -- in --------------------------------------------------------------------------------------------------------

    def _on(self, event: Event) -> None:
        match event:
            case DataReceived():
                self._on_data(event)
            case RequestReceived():
                self._on_request(event)
            case WindowUpdated():
                self._on_room(event.stream_id)
            case StreamEnded():
                if stream := self._streams.get(event.stream_id):
                    stream.exchange.body.complete = True
                    stream.exchange.arrived()
                    self._forget_if_over(stream)
            case StreamReset():
                if stream := self._streams.get(event.stream_id):
                    self._forget(stream, lost=True)
            case RemoteSettingsChanged():
                self._on_room(0)
            case ConnectionTerminated():  # for an error that it sees; after a GOAWAY in peace it still reads
                self.abort()

    def _on_data(self, event: DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif not stream.received(event.data, event.flow_controlled_length):
            self.reset(stream, ErrorCodes.NO_ERROR)

    def _on_request(self, event: RequestReceived) -> None:
        if self._leaving:  # sent before it read that
            self._h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
            return
        scope = self._scope(event.headers)
        length, expects_continue = None, False
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = int(value)
            elif name == b"expect":
                expects_continue = value.lower() == b"100-continue"
        stream = self._streams[event.stream_id] = Stream(self, event.stream_id)
        body = Body(length, self._server.limits.intake)
        stream.exchange = H2Exchange(self._server.app, stream, scope, body, True, expects_continue)
        if scope["path"].startswith(("/", "*")):
            self._server.spawn(stream.exchange.run)
        else:
            stream.exchange.say_error(400, "the :path must begin with a slash and be ASCII; percent-encode the rest")
            stream.exchange.answered = True

    def _scope(self, fields: list[Any]) -> dict[str, Any]:
        pseudo = {name: value for name, value in fields if name.startswith(b":")}
        headers = [(name, value) for name, value in fields if not name.startswith(b":")]
        authority = pseudo.get(b":authority")
        if authority is not None:
            headers = [(b"host", authority), *(field for field in headers if field[0] != b"host")]
        raw_path, _, query = pseudo.get(b":path", b"").partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "2",
            "method": pseudo[b":method"].decode("latin-1"),
            "scheme": "http",
            "path": unquote(raw_path.decode("ascii")) if raw_path.isascii() else "",
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": self._client,
            "server": self._address,
            "state": self._server.lifespan_state.copy(),
        }

    def _on_room(self, stream_id: int) -> None:
        """A window was opened: of a stream, or (0) of all."""
        for stream in self._streams.values() if stream_id == 0 else filter(None, [self._streams.get(stream_id)]):
            if stream.unsent_bytes and not stream.is_ready:
                stream.is_ready = True
                self._ready.append(stream)

    # -- out -------------------------------------------------------------------------------------------------------

    def _put(self, frame: bytes) -> None:
        self._put_own_frames()
        self._heads.append(frame)

    def _put_own_frames(self) -> None:
        """What h2 has to say was said before whatever is put behind it."""
        if data := self._h2.data_to_send():
            self._heads.append(data)

    def _flush(self) -> None:
        """Write what may be written now."""
        if not (self._closing or self._gathering):
            self._write()

    def _write(self) -> None:
        self._put_own_frames()
        out, self._heads = self._heads, []
        ready, size = self._ready, 0
        while ready and not self._write_paused:
            stream = ready.popleft()
            stream.is_ready = False
            if not (stream.id in self._streams and (sent := stream.put_frame(self._h2, out))):
                continue  # gone, or waits for its client
            if stream.done:
                self._forget_if_over(stream)
            else:
                stream.is_ready = True
                ready.append(stream)
            size += sent
            if size >= WRITE_BYTES:
                self._transport.write(b"".join(out))
                out, size = [], 0
        if out:
            self._transport.write(b"".join(out))

    # -- ends ------------------------------------------------------------------------------------------------------

    def _forget_if_over(self, stream: Stream) -> None:
        if stream.done and stream.exchange.body.complete:
            self._forget(stream, lost=False)

    def _forget(self, stream: Stream, *, lost: bool) -> None:
        del self._streams[stream.id]
        self._since = time.monotonic()
        if lost:
            stream.lose()
        del stream.exchange  # it knows the stream: without the cycle both are freed at once

    def _lose_all(self) -> None:
        for stream in list(self._streams.values()):
            self._forget(stream, lost=True)

    def _say_goodbye(self, code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        if not (self._said_goodbye or self._closing):
            self._said_goodbye = True
            self._put(goaway_frame(self._h2.highest_inbound_stream_id, code))
            self._flush()

    def _close(self, code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Close after what was written."""
        if not self._closing:
            self._write()
            self._say_goodbye(code)  # last: see stop_when_idle
            self._write()
            self._closing = True
            self._lose_all()
            self._transport.close()
