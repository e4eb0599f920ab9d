"""One HTTP request: its headers, its body however the server hands it over, and whether its client is still there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import anyio
from starlette.types import Message, Receive, Scope, Send

from mlserve.errors import BodyTooLarge, CallerLeft, DeadlineExceeded
from mlserve.intake import COUNTED_FROM_BYTES, Intake, Share
from mlserve.leaving import while_connected
from mlserve.rest.h1_exchange import BODY_EXTENSION, DISCONNECT_EXTENSION, ClientGone
from mlserve.rest.headers import check_content_type, read_headers
from mlserve.rest.packing import THREAD_BYTES, unpack_in_thread, unpacker
from mlserve.types import InferenceRequest

__all__ = ["ClientGone", "Request", "patient_send"]

Buffer = bytes | bytearray | memoryview
PIECE_BYTES = 64 * 1024
T = TypeVar("T")


class Request:
    """What an endpoint sees of a request. `params` are the parts of its path that have names.

    `send` is for endpoints that send their answer themselves; `inference` is set once the body has been read as one.
    Whoever made it closes its `share`, if it has one, when it is answered. `unpacked_seconds` is what unpacking took of
    the caller's time, where that was long enough to count.
    """

    __slots__ = ("_intake", "_receive", "headers", "inference", "params", "scope", "send", "share", "unpacked_seconds")

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, params: dict[str, Any], intake: Intake | None = None
    ) -> None:
        self.scope = scope
        self.headers = read_headers(scope["headers"])
        self.params = params
        self.send = send
        self.inference: InferenceRequest | None = None
        self.share: Share | None = None  # of the memory for bodies, beyond what the edge below counts itself
        self.unpacked_seconds = 0.0
        self._intake = intake
        self._receive = receive

    @property
    def model(self) -> tuple[str, str | None]:
        """Name and version in the path."""
        return self.params["model_name"], self.params.get("model_version")

    async def json_body(self, limit_bytes: int, seconds: float | None = None) -> Buffer:
        """The body, unpacked within so many seconds, that may hold JSON by its headers.

        InvalidRequest (415) for other content types, BodyTooLarge where it is, packed or unpacked, over the limit,
        Overloaded if there is no memory for it, DeadlineExceeded, ClientGone if the client leaves meanwhile.
        """
        headers = self.headers
        check_content_type(headers)
        read = (self.scope.get("extensions") or {}).get(BODY_EXTENSION)
        body: Buffer = await (self._read(limit_bytes) if read is None else read(limit_bytes))
        coding = headers.get("content-encoding")
        return body if coding is None else await self._unpack(body, coding, limit_bytes, seconds)

    async def _unpack(self, body: Buffer, coding: str, limit_bytes: int, seconds: float | None) -> Buffer:
        """A small body at once; a large one in a thread, for as long as its client waits."""
        work = unpacker(body, coding, limit_bytes, self._shared())
        if work is None:
            return body
        if work.step(THREAD_BYTES):
            return work.result()
        started = anyio.current_time()
        with anyio.move_on_after(seconds):
            unpacked = await self.while_connected(partial(unpack_in_thread, work))
            self.unpacked_seconds = anyio.current_time() - started
            return unpacked
        raise DeadlineExceeded(f"the call's time of {seconds:g} s was over before its body was unpacked")

    def _shared(self) -> Share:
        if self.share is None:
            self.share = Share(self._intake or Intake())
        return self.share

    async def _read(self, limit_bytes: int) -> bytes:
        """The body from a server below that does not count bodies itself."""
        announced = self.headers.get("content-length", "")
        if announced.isdigit() and int(announced[:20]) > limit_bytes:
            raise BodyTooLarge(f"request body: {announced} bytes are over the limit of {limit_bytes}")
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client left before the end of its request")
            piece = message.get("body", b"")
            size += len(piece)
            if size > limit_bytes:
                raise BodyTooLarge(f"request body: more than the limit of {limit_bytes} bytes")
            if size > COUNTED_FROM_BYTES:
                share = self._shared()
                share.take(size - share.held_bytes)
            if piece:
                pieces.append(piece)
            if not message.get("more_body", False):
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @property
    def on_leave(self) -> Callable[[Callable[[], None] | None], None] | None:
        """Takes what shall be called when the client leaves; None without our own HTTP edge below."""
        found: Callable[[Callable[[], None] | None], None] | None
        found = (self.scope.get("extensions") or {}).get(DISCONNECT_EXTENSION)
        return found

    async def while_connected(self, work: Callable[[], Awaitable[T]]) -> T:
        """Awaits `work()`; if the client leaves first, that is cancelled and ClientGone raised.

        The body must have been read.
        """
        register = self.on_leave
        if register is None:
            try:
                return await while_connected(self._receive, work)
            except CallerLeft as error:
                raise ClientGone(error.message) from None
        with anyio.CancelScope() as cancel:
            register(cancel.cancel)
            try:
                return await work()
            finally:
                register(None)
        raise ClientGone("the client left before its answer was there")


def patient_send(send: Send, seconds: float) -> Send:
    """ASGI's send for a server below that waits for ever: ClientGone if the client takes no piece in so many seconds.

    Only a client that takes nothing at all is given up, since large bodies go out piece by piece. 0 is for ever.
    """

    async def send_patiently(message: Message) -> None:
        body = message.get("body", b"")
        if len(body) <= PIECE_BYTES:
            await send_piece(message)
            return
        view = memoryview(body).cast("B")
        last = (len(view) - 1) // PIECE_BYTES * PIECE_BYTES
        for at in range(0, last, PIECE_BYTES):
            await send_piece({**message, "body": bytes(view[at : at + PIECE_BYTES]), "more_body": True})
        await send_piece({**message, "body": bytes(view[last:])})

    async def send_piece(message: Message) -> None:
        with anyio.move_on_after(seconds or None):
            await send(message)
            return
        raise ClientGone("the client does not read its answer")

    return send_patiently
