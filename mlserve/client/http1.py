"""HTTP/1.1 to one server: connections that are kept, requests in pieces, answers whole or as they come.

A connection is reused only if its last answer was read to the end, it has been idle for a few seconds at most (servers
close idle ones, uvicorn after 5 s), and nothing has come on it since: a request that meets a closing connection is
lost in a way that forbids sending it again.
"""

from __future__ import annotations

import select
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import httptools
from anyio.abc import SocketAttribute

from mlserve.client.address import Address
from mlserve.client.faults import CONNECT_SECONDS, ClientError, reason_of

__all__ = ["Answer", "Http1Pool"]

Buffer = bytes | bytearray | memoryview

_IDLE_SECONDS = 4.0
_LAST_WORDS_SECONDS = 1.0  # for the answer of a server that closed its side before it had the whole request
_READ_BYTES = 256 * 1024
_JOINED_BYTES = 64 * 1024  # up to here one copy is cheaper than one more write
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)


class _Parsed:
    """httptools' callbacks: what has been parsed of one answer."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.pieces: deque[bytes] = deque()
        self.has_head = False
        self.is_complete = False
        self.keeps_alive = False
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.has_head = self.parser.get_status_code() >= 200

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        if self.has_head:
            self.is_complete = True
            self.keeps_alive = self.parser.should_keep_alive()  # Afterwards the parser has forgotten.
        else:
            self.headers = {}  # of a 1xx, which precedes the answer


class Answer:
    """An answer whose head is there. `read` gives the rest piece by piece."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        self._parsed = _Parsed()

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(self._parsed.parser.get_status_code())

    @property
    def headers(self) -> dict[str, str]:
        """By name in lower case; of two with one name, the last."""
        return self._parsed.headers

    @property
    def may_be_reused(self) -> bool:
        """Whether the connection can carry another request: the answer has been read, and the server keeps it."""
        return self._parsed.keeps_alive and not self._parsed.pieces

    async def read_head(self) -> None:
        """Reads up to the end of the head. One of _BROKEN, or an HttpParserError."""
        while not self._parsed.has_head:
            self._parsed.parser.feed_data(await self._stream.receive(_READ_BYTES))

    async def read(self) -> bytes:
        """The next piece of the body, b"" at its end. One of _BROKEN if it breaks off, or an HttpParserError."""
        parsed = self._parsed
        while not parsed.pieces:
            if parsed.is_complete:
                return b""
            try:
                data = await self._stream.receive(_READ_BYTES)
            except anyio.EndOfStream:
                if "content-length" in parsed.headers or "transfer-encoding" in parsed.headers:
                    raise
                parsed.is_complete = True  # The end of the connection is the end of such a body; so it stays unused.
                return b""
            parsed.parser.feed_data(data)
        return parsed.pieces.popleft()


class Http1Pool:
    """The connections to one server; as many at once as `max_connections`, further requests wait for their turn."""

    def __init__(self, address: Address, context: ssl.SSLContext | None, max_connections: int) -> None:
        self._address = address
        self._context = context
        self._turns = anyio.Semaphore(max_connections)
        self._idle: list[tuple[anyio.abc.ByteStream, float]] = []  # with the time at which each became idle

    async def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        chunks: Sequence[Buffer] = (),
        *,
        arrives: bool = False,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the whole answer. ClientError; `arrives`: a model sees such a request."""
        async with self.open(method, path, headers, chunks, arrives=arrives) as answer:
            pieces = []
            while piece := await answer.read():
                pieces.append(piece)
        return answer.status, answer.headers, pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        chunks: Sequence[Buffer] = (),
        *,
        arrives: bool = False,
    ) -> AsyncIterator[Answer]:
        """Sends a request and gives the answer once its head is there. ClientError, also for what breaks inside.

        The connection is closed at the end unless the answer has been read completely.
        """
        head = self._head(method, path, headers, chunks)
        async with self._turns:
            stream = await self._take_idle() or await self._connect()
            is_kept = False
            try:
                answer = Answer(stream)
                await self._send(stream, answer, head, chunks)
                yield answer
                is_kept = answer.may_be_reused
            except _BROKEN as error:
                broke = "the connection broke before the answer was complete"
                raise ClientError(
                    f"{self._address}: {broke} ({reason_of(error)})", str(self._address), arrived=arrives
                ) from error
            except httptools.HttpParserError as error:
                hint = (
                    "is it a gRPC port? That would be grpc://"
                    if self._address.scheme == "http"
                    else "is it the right port?"
                )
                raise ClientError(
                    f"{self._address} does not answer in HTTP/1.1 ({error}); {hint}",
                    str(self._address),
                    arrived=arrives,
                ) from None
            finally:
                if is_kept:
                    self._idle.append((stream, time.monotonic()))
                else:
                    await anyio.aclose_forcefully(stream)

    async def _send(self, stream: anyio.abc.ByteStream, answer: Answer, head: bytes, chunks: Sequence[Buffer]) -> None:
        try:
            if chunks and len(chunks[0]) <= _JOINED_BYTES:
                head, chunks = head + chunks[0], chunks[1:]
            await stream.send(head)
            for chunk in chunks:
                await stream.send(chunk)  # type: ignore[arg-type]  # Every stream below takes any bytes-like object.
        except _BROKEN:
            with anyio.move_on_after(_LAST_WORDS_SECONDS):
                try:
                    await answer.read_head()  # Such as a 413.
                    return
                except _BROKEN:
                    pass
            raise
        await answer.read_head()

    def _head(self, method: str, path: str, headers: Mapping[str, str], chunks: Sequence[Buffer]) -> bytes:
        lines = [f"{method} {self._address.prefix}{path} HTTP/1.1", f"Host: {self._address.authority}"]
        for name, value in headers.items():
            lines.append(f"{name}: {value}")
        if method == "POST":
            lines.append(f"Content-Length: {sum(map(len, chunks))}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")  # checked by checking.py and address.py

    async def _take_idle(self) -> anyio.abc.ByteStream | None:
        now = time.monotonic()
        while self._idle:
            stream, since = self._idle.pop()
            if now - since < _IDLE_SECONDS and not _has_input(stream):
                return stream
            await anyio.aclose_forcefully(stream)
        return None

    async def _connect(self) -> anyio.abc.ByteStream:
        """A new connection. ClientError; nothing was sent then."""
        host, port = self._address.host, self._address.port
        reason = f"no answer within {CONNECT_SECONDS:g} s"
        with anyio.move_on_after(CONNECT_SECONDS):
            try:
                if self._context is None:
                    return await anyio.connect_tcp(host, port)
                return await anyio.connect_tcp(host, port, ssl_context=self._context, tls_standard_compatible=False)
            except (*_BROKEN, UnicodeError) as error:  # a host that cannot be a name is a UnicodeError
                reason = reason_of(error)
        raise ClientError(f"cannot connect to {self._address}: {reason}", str(self._address), arrived=False)

    async def aclose(self) -> None:
        """Closes the idle connections; those in use are closed by their users."""
        idle, self._idle = self._idle, []
        for stream, _ in idle:
            await anyio.aclose_forcefully(stream)


def _has_input(stream: anyio.abc.ByteStream) -> bool:
    """Whether something came unasked: the end of the connection, mostly. Nobody reads from an idle stream."""
    sock: Any = stream.extra(SocketAttribute.raw_socket)
    try:
        number = sock.fileno()
        if number < 0:
            return True
        poll = select.poll()
        poll.register(number, select.POLLIN)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True
