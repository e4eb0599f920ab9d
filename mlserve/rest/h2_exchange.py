"""One request and its answer on an HTTP/2 connection: the exchange, and the stream that its answer leaves by.

A stream owns what its application has said and the client has not taken. An application that says more than a little
waits until that is nearly gone; whatever cancels it there cancels its waiting, and no frame that has begun.

    OPEN ──`answered`──▶ ENDING ──the last frame is written──▶ DONE
      └──cut off, reset by the client, connection lost──────────▲
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable
from typing import Protocol

import anyio
from h2.errors import ErrorCodes

from mlserve.http2 import ServerConnection
from mlserve.rest.h1_exchange import Exchange, Message
from mlserve.rest.h1_response import ResponseHead

__all__ = ["Connection", "H2Exchange", "Stream"]

Fields = list[tuple[str | bytes, str | bytes]]

UNSENT_BYTES = 32 * 1024  # of a stream, up to which its application goes on
FRAME_BYTES = 64 * 1024  # larger frames would hold other streams up
DROPPED_BYTES = 64 * 1024 * 1024  # after the answer, so that a client in the midst of its upload sees it
# What is of one connection in HTTP/1.1, and must not be in HTTP/2.
_NOT_SENT = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))


class Connection(Protocol):
    """What a stream asks of its connection."""

    def put_head(self, stream: Stream, fields: Fields) -> None:
        """Send the head of an answer, before anything that is put in later."""

    def say_continue(self, stream: Stream) -> None:
        """Tell the client to send its body."""

    def has_data(self, stream: Stream) -> None:
        """The stream has something to send, or has said all."""

    def reset(self, stream: Stream, code: ErrorCodes) -> None:
        """End a stream in both directions."""

    def give_window(self, stream: Stream, nbytes: int) -> None:
        """The client may send so many bytes more on this stream."""

    def date_line(self) -> bytes:
        """The Date header, with its line break."""

    def stopping(self) -> bool:
        """Whether the server ends."""


class Stream:
    """What is sent on one stream and given back of its window; the Link of its exchange, known until it ends."""

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self.id = stream_id
        self.exchange: H2Exchange
        self.unsent_bytes = 0
        self.done = False  # nothing of the answer is to come any more
        self.is_ready = False  # the connection will look at it
        self.moved = self.heard = (
            time.monotonic()
        )  # when the client took, or got, something to take; and sent something
        self._connection = connection
        self._unsent: deque[memoryview] = deque()
        self._ending = False  # the last frame is the end of the stream
        self._owed = 0  # bytes of the window that are given back when the application wants more
        self._dropped = 0
        self._room: anyio.Event | None = None

    # -- Link ----------------------------------------------------------------------------------------------------------

    def put_head(self, fields: Fields) -> None:
        """Send the head of the answer; with what follows, if that is written at once."""
        if not self.done:
            self._connection.put_head(self, fields)

    def say_continue(self) -> None:
        if not self.done:
            self._connection.say_continue(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.put(memoryview(data), last=False)

    def put(self, data: memoryview, *, last: bool) -> None:
        """Send a piece of the body; `last` ends the stream behind it."""
        if self.done:
            return
        if not self.unsent_bytes:
            self.moved = time.monotonic()
        if data:
            self._unsent.append(data)
            self.unsent_bytes += len(data)
        self._ending = self._ending or last
        self._connection.has_data(self)

    async def drain(self) -> None:
        while self.unsent_bytes > UNSENT_BYTES:
            if self._room is None:
                self._room = anyio.Event()
            await self._room.wait()

    def body_wanted(self, exchange: Exchange, whole: bool) -> None:
        self.heard = time.monotonic()
        self._give_back(exchange)

    def answered(self, exchange: Exchange) -> None:
        if not exchange.body.complete:
            exchange.body.discard()
            self._give_back(exchange)
        if not self._ending:
            self.put(memoryview(b""), last=True)

    def cut_off(self, exchange: Exchange) -> None:
        if not self.done:
            self._connection.reset(self, ErrorCodes.INTERNAL_ERROR)

    def date_line(self) -> bytes:
        return self._connection.date_line()

    def stopping(self) -> bool:
        return self._connection.stopping()

    # -- called by the connection --------------------------------------------------------------------------------------

    def put_frame(self, h2: ServerConnection, out: list[bytes | memoryview]) -> int:
        """Puts the next frame into `out`, as large as the client takes; its size. 0: nothing can be sent now."""
        room = h2.room(self.id)
        if room is None:
            return 0
        size = min(self.unsent_bytes, room, h2.max_outbound_frame_size, FRAME_BYTES)
        last = self._ending and size == self.unsent_bytes
        if not (size or last):
            return 0
        out.append(h2.data_head(self.id, size, end_stream=last))
        self._take(size, out)
        self.moved = time.monotonic()
        if last:
            self.done = True
        if self.unsent_bytes <= UNSENT_BYTES:
            self._wake()
        return max(size, 1)

    def _take(self, size: int, out: list[bytes | memoryview]) -> None:
        self.unsent_bytes -= size
        while size:
            piece = self._unsent.popleft()
            if len(piece) > size:
                self._unsent.appendleft(piece[size:])
                piece = piece[:size]
            size -= len(piece)
            out.append(piece)

    def received(self, data: bytes, window_bytes: int) -> bool:
        """Takes a piece of the request's body; False if its client sends too much that nobody wants."""
        self.heard = time.monotonic()
        self._owed += window_bytes
        exchange = self.exchange
        if exchange.answered:
            self._dropped += window_bytes
        elif data:
            exchange.body.add(data)
            exchange.arrived()
        self._give_back(exchange)
        return self._dropped <= DROPPED_BYTES

    def waits_for_body(self) -> bool:
        """Whether the client may send more of its request, and has not sent all."""
        return not (self.exchange.body.complete or self._owed)

    def lose(self) -> None:
        """The client has left, or is left: nothing more can be sent."""
        self.done = True
        self._unsent.clear()
        self.unsent_bytes = self._owed = 0
        self._wake()
        self.exchange.leave(lost=True)

    def _wake(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    def _give_back(self, exchange: Exchange) -> None:
        """Gives back the window for what has arrived, unless the application is to read first."""
        if self._owed and exchange.body.buffered <= exchange.read_ahead:
            owed, self._owed = self._owed, 0
            self._connection.give_window(self, owed)


class H2Exchange(Exchange):
    """An exchange whose answer are the frames of a stream."""

    __slots__ = ()
    _link: Stream

    def _send_body(self, start: Message, body: bytes | bytearray | memoryview, last: bool) -> None:
        data = memoryview(body).cast("B")
        fields: Fields | None = None
        framing, left = self._framing, self._left
        if framing is None:
            date = self._link.date_line()
            fields, framing = _head(start, self.scope["method"], len(data) if last else None, date)
            left = framing.body_bytes
        if framing.bodiless:
            data = data[:0]
        elif left is not None:
            if len(data) > left:
                raise RuntimeError(f"the body is longer than its Content-Length: {len(data) - left} bytes too many")
            left -= len(data)
        self._framing, self._left = framing, left  # only now: up to here there may have been an error that is a 500
        if fields is not None:
            self._link.put_head(fields)
        self._link.put(data, last=last and not left)

    def _say_continue(self) -> None:
        self._link.say_continue()

    def say_error(self, status: int, reason: str) -> None:
        start = {"status": status, "headers": [(b"content-type", b"application/json")]}
        self._send_body(start, json.dumps({"error": reason}).encode(), True)


def _head(start: Message, method: str, whole_body_bytes: int | None, date_line: bytes) -> tuple[Fields, ResponseHead]:
    """The fields of an answer's head, and what they promise. ValueError for headers that cannot be sent."""
    status = start["status"]
    if not 200 <= status <= 999:
        raise ValueError(f"status {status}: a final answer needs one from 200 on")
    bodiless = method == "HEAD" or status in (204, 304)
    fields: Fields = [(":status", str(status))]
    length = _copy_headers(start.get("headers", ()), fields)
    if length is None and not bodiless:
        length = whole_body_bytes
    if length is not None and status != 204:
        fields.append((b"content-length", b"%d" % length))
    fields.append((b"date", date_line[len(b"date: ") : -len(b"\r\n")]))
    return fields, ResponseHead(b"", 0 if bodiless else length, False, bodiless, True)


def _copy_headers(headers: Iterable[tuple[bytes, bytes]], fields: Fields) -> int | None:
    """Appends the fields of `headers` but for those about framing; Content-Length."""
    length: int | None = None
    for raw_name, value in headers:
        name = bytes(raw_name).lower()
        if any(sign in name + value for sign in (b"\r", b"\n", b"\0")):
            raise ValueError("a header of the response contains a line break or NUL")
        if name == b"content-length":
            if length is not None and length != int(value):
                raise ValueError(f"two Content-Length headers, {length} and {int(value)}")
            length = int(value)
        elif name not in _NOT_SENT:
            fields.append((name, bytes(value)))
    return length
