"""For tests of the HTTP edge: a server in a thread, an application that misbehaves on request, a client of raw bytes."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.from_thread

from mlserve.errors import BodyTooLarge
from mlserve.rest.h1_exchange import ClientGone
from mlserve.rest.serve import serve

KINDS = {
    "uvloop-fast": ("asyncio", {"use_uvloop": True}, True),
    "asyncio-fast": ("asyncio", {"use_uvloop": False}, True),
    "trio-fast": ("trio", {}, True),
    "uvloop-stock": ("asyncio", {"use_uvloop": True}, False),
    "trio-stock": ("trio", {}, False),
}
FAST = [kind for kind in KINDS if kind.endswith("fast")]
HOST = b"Host: a\r\n"
NEXT = b"GET /next HTTP/1.1\r\n" + HOST + b"\r\n"
PATIENCE = 60.0  # seconds until a test gives up on something that must come


def post(path: bytes, headers: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    """The bytes of a POST."""
    return b"POST " + path + b" HTTP/" + version + b"\r\n" + HOST + headers + b"\r\n" + body


@dataclass
class Edge:
    """A running server."""

    kind: str
    address: tuple[str, int]
    app: Application
    portal: anyio.from_thread.BlockingPortal
    stop: anyio.Event
    ended: Any  # the future of serve()

    @property
    def fast(self) -> bool:
        return self.kind.endswith("fast")

    def connect(self, receive_buffer: int | None = None) -> Client:
        return Client(self.address, receive_buffer)

    def shut_down(self) -> None:
        """Pull the trigger; does not wait."""
        self.portal.call(self.stop.set)


@contextmanager
def running(kind: str, app: Any = None, **options: Any) -> Iterator[Edge]:
    """A server of that kind, stopped at the end."""
    backend, backend_options, fast = KINDS[kind]
    app = app or Application()
    with anyio.from_thread.start_blocking_portal(backend, backend_options) as portal:

        async def make_event() -> anyio.Event:
            return anyio.Event()

        stop = portal.call(make_event)
        defaults: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "graceful_timeout": 2.0, "fast": fast}
        start = partial(serve, app, shutdown_trigger=stop.wait, **(defaults | options))
        ended, address = portal.start_task(start)
        try:
            yield Edge(kind, address, app, portal, stop, ended)
        finally:
            if not ended.done():
                portal.call(stop.set)
            if not ended.cancelled():
                ended.result(PATIENCE)


@dataclass
class Application:
    """ASGI; what it does follows from the path. What it saw is in `events`, what it waits for in `permits`."""

    events: queue.Queue[Any] = field(default_factory=queue.Queue)
    permits: queue.Queue[Any] = field(default_factory=queue.Queue)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif scope["type"] == "lifespan":
            raise RuntimeError("no lifespan here")
        else:
            action = getattr(self, "at_" + scope["path"].strip("/").replace("-", "_"), self.echo)
            try:
                await action(scope, receive, send)
            except Exception as error:
                self.events.put(type(error).__name__)
                raise

    def next_event(self) -> Any:
        return self.events.get(timeout=PATIENCE)

    async def permission(self) -> None:
        """Wait until the test puts something into `permits`."""
        while self.permits.empty():
            await anyio.sleep(0.005)
        self.permits.get()

    async def echo(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = await read_all(receive)
        if scope["path"] == "/slow":
            await anyio.sleep(0.05)
        await answer(send, f"{scope['method']} {scope['path']} {len(body)} ".encode() + body[:20])

    async def at_read_body(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        limit = int(scope["query_string"] or 1 << 30)
        read = scope["extensions"].get("mlserve.body")
        try:
            body = await (read(limit) if read else read_all(receive, limit))
        except BodyTooLarge as error:
            await answer(send, str(error).encode(), 413)
        else:
            await answer(send, b"%d %d" % (len(body), sum(body[::1000])))

    async def at_refuse(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, b"no", 413)

    async def at_boom(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        raise ValueError("boom")

    async def at_silent(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        pass

    async def at_inject(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, b"x", 200, (b"x", b"a\r\nb: c"))

    async def at_short(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, b"x", 200, (b"content-length", b"20"))

    async def at_long(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, b"too long", 200, (b"content-length", b"3"))

    async def at_chunked(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for chunk in (b"ab", b"cd", b""):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def at_half(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        raise ValueError("half")

    async def at_hold(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answers when permitted."""
        self.events.put("held")
        try:
            await self.permission()
        except BaseException:
            self.events.put("cancelled")
            raise
        await answer(send, b"released")

    async def at_receive_end(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Waits for the client to leave, as plain ASGI tells it."""
        await read_all(receive)
        self.events.put("waiting")
        self.events.put((await receive())["type"])

    async def at_callback(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Waits for the client to leave, as our extension tells it."""
        with anyio.CancelScope() as scope_of_call:
            scope["extensions"]["mlserve.disconnect"](scope_of_call.cancel)
            self.events.put("waiting")
            await anyio.sleep_forever()
        self.events.put("cancelled by callback")

    async def at_events(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Sends one event for each permission."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for number in range(3):
            await self.permission()
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def at_flood(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Sends 64 KiB pieces for as long as anybody takes them."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
            self.events.put("sent")
            await anyio.sleep(0)

    async def at_trickle(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Takes the body piece by piece, one for each permission."""
        total, more = 0, True
        while more:
            await self.permission()
            message = await receive()
            total += len(message["body"])
            more = message["more_body"]
            self.events.put(total)
        await answer(send, b"%d" % total)


async def read_all(receive: Any, limit: int = 1 << 30) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("left")
        body += message["body"]
        more = message["more_body"]
        if len(body) > limit:
            raise BodyTooLarge("too large")
    return body


async def answer(send: Any, body: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    if not any(name == b"content-length" for name, _ in headers):
        headers = (*headers, (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool  # False: the connection ended before the body did


class Client:
    """A connection that sends what it is told and takes answers apart by their framing."""

    def __init__(self, address: tuple[str, int], receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        try:
            self.sock.connect(address)
        except OSError:
            self.sock.close()
            raise
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, *parts: bytes) -> Client:
        for part in parts:
            self.sock.sendall(part)
        return self

    def get(self, path: str) -> Client:
        return self.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())

    def response(self, *, bodiless: bool = False) -> Response:
        """The next answer."""
        head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        if bodiless or status < 200 or status in (204, 304):
            return Response(status, headers, b"", True)
        try:
            return Response(status, headers, self._body(headers), True)
        except EOFError:
            return Response(status, headers, self.received, False)

    def _body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return self._exactly(int(headers["content-length"]))
        if "transfer-encoding" not in headers:
            return self._to_the_end()
        body = b""
        while size := int(self._until(b"\r\n"), 16):
            body += self._exactly(size)
            self._exactly(2)
        self._exactly(2)
        return body

    def _to_the_end(self) -> bytes:
        while data := self.sock.recv(1 << 20):
            self.received += data
        taken, self.received = self.received, b""
        return taken

    def _until(self, end: bytes) -> bytes:
        while end not in self.received:
            self._more()
        return self._exactly(self.received.index(end) + len(end))

    def _exactly(self, nbytes: int) -> bytes:
        while len(self.received) < nbytes:
            self._more()
        taken, self.received = self.received[:nbytes], self.received[nbytes:]
        return taken

    def _more(self) -> None:
        data = self.sock.recv(1 << 20)
        if not data:
            raise EOFError("the server closed the connection")
        self.received += data

    def closed(self) -> bool:
        """Whether the server has closed, or closes, without a further byte."""
        try:
            return not self.received and self.sock.recv(1) == b""
        except ConnectionError:
            return True

    def alive(self) -> bool:
        """Whether the server answers another request."""
        try:
            return self.get("/alive").response().body == b"GET /alive 0 "
        except (EOFError, ConnectionError):
            return False
