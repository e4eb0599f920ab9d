"""One request and its answer on an HTTP/1.1 connection: what the ASGI application receives and sends.

h2_exchange.py has the other answer, in HTTP/2's frames; all else is the same there.

Two halves that move on their own:

    request   ARRIVING ──end of body──▶ COMPLETE        (`body.complete`)
    answer    WAITING ──http.response.start──▶ STARTED ──first body──▶ HEAD SENT ──last body──▶ ANSWERED

The head waits for the first piece of the body, so that both go out in one write; every later piece is written at once.
The client may leave at any time: `client_left` is set when it closed its side (it may still read, so sending works on),
`lost` when nothing can be sent any more (sending raises ClientGone).

Two extensions of the scope save an application the queue and the task that plain ASGI would need:

    scope["extensions"]["mlserve.disconnect"](callback)     callback() is called once, from the event loop, when the
                                                            client leaves before the answer is complete; at once if it
                                                            has left already. None takes the callback back.
    await scope["extensions"]["mlserve.body"](limit_bytes)  the whole body, bytes or a bytearray that the caller owns;
                                                            BodyTooLarge as soon as length or content are over the
                                                            limit, ClientGone if the client leaves before the end.

And one of the message `http.response.start`: its "mlserve.last_words", bytes, end a body of unknown length that the
server has to break off, as when it stops. Without them the client sees that the answer is cut off.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import anyio

from mlserve.errors import BodyTooLarge
from mlserve.rest.h1_body import Body
from mlserve.rest.h1_response import ResponseHead, error_response, response_head

__all__ = [
    "BODY_EXTENSION",
    "DISCONNECT_EXTENSION",
    "LAST_WORDS",
    "Application",
    "ClientGone",
    "Exchange",
    "Link",
    "Message",
    "Receive",
    "Send",
]

BODY_EXTENSION = "mlserve.body"
DISCONNECT_EXTENSION = "mlserve.disconnect"
LAST_WORDS = "mlserve.last_words"

STREAM_AHEAD_BYTES = 256 * 1024  # of a body that the application takes piece by piece, so much is read ahead
COPY_BYTES = 64 * 1024  # up to here a body is copied behind its head to save a write

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)


class ClientGone(ConnectionError):
    """The client went away: its request will not be completed, or nobody reads the answer."""


class Link(Protocol):
    """What an exchange asks of its connection."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, in order; buffers what the client does not take yet."""

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written."""

    def body_wanted(self, exchange: Exchange, whole: bool) -> None:
        """The application asks for (more of) the body."""

    def answered(self, exchange: Exchange) -> None:
        """The answer is complete, and written."""

    def cut_off(self, exchange: Exchange) -> None:
        """The answer will never be complete."""

    def date_line(self) -> bytes:
        """The Date header, with its line break."""

    def stopping(self) -> bool:
        """Whether the connection shall close after this answer."""


class Exchange:
    """One request, its body and the answer to it; `run` calls the application."""

    __slots__ = (
        "_app",
        "_arrival",
        "_ended",
        "_expects_continue",
        "_framing",
        "_given_whole",
        "_left",
        "_link",
        "_on_leave",
        "_start",
        "answered",
        "body",
        "client_left",
        "keep_alive",
        "lost",
        "read_ahead",
        "scope",
    )

    def __init__(
        self, app: Application, link: Link, scope: dict[str, Any], body: Body, keep_alive: bool, expects_continue: bool
    ) -> None:
        self.scope = scope
        self.body = body
        self.keep_alive = keep_alive
        self.read_ahead = STREAM_AHEAD_BYTES  # the connection stops reading while more than this is buffered
        self.answered = False
        self.client_left = False
        self.lost = False
        self._app = app
        self._link = link
        self._expects_continue = expects_continue
        self._given_whole = False  # receive() gave out the message with more_body False
        self._arrival: anyio.Event | None = None  # set by the connection when something came or ended
        self._on_leave: Callable[[], None] | None = None
        self._start: Message | None = None
        self._framing: ResponseHead | None = None  # set once the head is sent
        self._ended = False  # the last piece of the body is written
        self._left: int | None = None  # bytes of body that the head promised and that were not sent yet
        scope["extensions"] = {DISCONNECT_EXTENSION: self.on_disconnect, BODY_EXTENSION: self.read_body}

    @property
    def head_sent(self) -> bool:
        return self._framing is not None

    async def run(self) -> None:
        """Call the application; whatever it does, the client gets an answer or sees that there is none."""
        try:
            await self._call_app()
        except Exception:  # an error of ours ends this exchange, not the task group of all
            log.exception("an exchange failed")
        finally:
            self.body.release()
            self.scope = {}  # its extensions lead back here: without the cycle all is freed at once, not by the gc

    async def _call_app(self) -> None:
        try:
            await self._app(self.scope, self.receive, self.send)
        except ClientGone:
            pass
        except Exception:
            level = logging.DEBUG if self.client_left else logging.ERROR
            log.log(level, "%s %s: the application failed", self.scope["method"], self.scope["path"], exc_info=True)
        finally:
            if not self.answered:
                self._give_up()

    # -- request ---------------------------------------------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        """ASGI's receive: what arrived of the body, then `http.disconnect` once client or answer are gone."""
        body = self.body
        while not (self.lost or self.answered):
            if body.refused:
                body.check()
            if body.buffered or (body.complete and not self._given_whole):
                self._given_whole = body.complete
                message = {"type": "http.request", "body": body.take(), "more_body": not body.complete}
                if not body.complete:
                    self._link.body_wanted(self, False)
                return message
            if self.client_left:
                break
            await self._wait_for_arrival()
        return {"type": "http.disconnect"}

    async def read_body(self, limit_bytes: int) -> bytes | bytearray:
        """The whole body, in the fewest copies (scope extension "mlserve.body")."""
        body = self.body
        if body.length is not None and body.length > limit_bytes:
            body.discard()
            raise BodyTooLarge(f"request body: {body.length} bytes are over the limit of {limit_bytes}")
        if not body.complete:
            self.read_ahead = limit_bytes
            self._link.body_wanted(self, True)
        while not (body.complete or body.refused) and body.buffered <= limit_bytes:
            if self.client_left:
                raise ClientGone("the client left before the end of its request")
            await self._wait_for_arrival()
        if body.refused:
            body.check()
        if body.buffered > limit_bytes:
            body.discard()
            raise BodyTooLarge(f"request body: more than the limit of {limit_bytes} bytes")
        self._given_whole = True
        return body.take()

    def on_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` when the client leaves early (scope extension "mlserve.disconnect")."""
        self._on_leave = callback
        if self.client_left and not self.answered:
            self._tell_leave()

    async def _wait_for_arrival(self) -> None:
        if self._expects_continue and not self.body.complete and not self.head_sent:
            self._expects_continue = False
            self._say_continue()
        if self._arrival is None:  # several tasks may wait
            self._arrival = anyio.Event()
        await self._arrival.wait()

    def _say_continue(self) -> None:
        self._link.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # -- told by the connection ------------------------------------------------------------------------------------

    def arrived(self) -> None:
        """Body arrived, or something ended: whoever waits looks again."""
        if self._arrival is not None:
            self._arrival.set()
            self._arrival = None

    def leave(self, *, lost: bool) -> None:
        """The client closed its side; `lost` if nothing can be sent to it either."""
        self.lost = self.lost or lost
        if not self.client_left:
            self.client_left = True
            if not self.answered:
                self._tell_leave()
        self.arrived()

    def _tell_leave(self) -> None:
        callback, self._on_leave = self._on_leave, None
        if callback is None:
            return
        try:
            callback()
        except Exception:
            log.exception("the callback for a client that left failed")

    # -- answer ----------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """ASGI's send; waits for a slow client. Raises ClientGone once nothing can be sent any more."""
        if self.lost:
            raise ClientGone("the client left before the end of its answer")
        kind = message["type"]
        start = self._start
        if kind == "http.response.body" and start is not None and not (self._ended or self.answered):
            last = not message.get("more_body", False)
            self._send_body(start, message.get("body", b""), last)
            self._ended = last
            await self._link.drain()
            if last and not self.lost:
                self._finish()
        elif kind == "http.response.start" and start is None:
            self._start = message
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r} {self._progress()}")

    def _send_body(self, start: Message, body: bytes | bytearray | memoryview, last: bool) -> None:
        if not isinstance(body, (bytes, bytearray)):
            body = memoryview(body).cast("B")
        framing = self._framing
        head = b""
        if framing is None:
            framing = self._make_head(start, len(body) if last else None)
            head = framing.data
        size = len(body)
        tail = b""
        if framing.bodiless:
            body = b""
        elif framing.chunked:
            if size:
                head += b"%x\r\n" % size
                tail = b"\r\n"
            if last:
                tail += b"0\r\n\r\n"
        elif self._left is not None:
            if size > self._left:
                raise RuntimeError(f"the body is longer than its Content-Length: {size - self._left} bytes too many")
            self._left -= size
        self._framing = framing  # only now: up to here the application may have made an error that is a 500
        self._write(head, body, tail)

    def _make_head(self, start: Message, whole_body_bytes: int | None) -> ResponseHead:
        # A body that is not read to its end would be taken for the next request.
        reusable = self.keep_alive and self.body.complete and not self._link.stopping()
        framing = response_head(
            start,
            method=self.scope["method"],
            http_version=self.scope["http_version"],
            whole_body_bytes=whole_body_bytes,
            keep_alive=reusable,
            date_line=self._link.date_line(),
        )
        self.keep_alive = framing.keep_alive
        self._left = framing.body_bytes
        return framing

    def _write(self, head: bytes, body: bytes | bytearray | memoryview, tail: bytes) -> None:
        if len(body) <= COPY_BYTES:
            data = b"".join((head, body, tail)) if body or tail else head
            if data:
                self._link.write(data)
            return
        if head:
            self._link.write(head)
        self._link.write(body)
        if tail:
            self._link.write(tail)

    def _finish(self) -> None:
        if self._left:
            self._give_up()  # shorter than promised: the client must see that something is missing
        else:
            self.answered = True
            self.arrived()
            self._link.answered(self)

    def _give_up(self) -> None:
        """End an exchange whose answer is not complete: with a 500 where nothing was sent, else cut off."""
        self.answered = True
        self.keep_alive = False
        self.arrived()
        if self.head_sent or self.client_left:
            if self._link.stopping() and self.say_last_words():
                self._link.answered(self)
            else:
                self._link.cut_off(self)
            return
        if self._link.stopping():
            self.say_error(503, "the server stopped before the answer was there")
        else:
            self.say_error(500, "the application gave no answer; the server's log says why")
        self._link.answered(self)

    def say_last_words(self) -> bool:
        """Ends a body that is under way with what its application gave for this case; False if it gave nothing."""
        words = b"" if self._start is None else self._start.get(LAST_WORDS, b"")
        framing = self._framing
        if not words or framing is None or framing.bodiless or self._ended or self.lost or self._left is not None:
            return False
        self._ended = True
        if framing.chunked:
            self._write(b"%x\r\n" % len(words), words, b"\r\n0\r\n\r\n")
        else:
            self._write(b"", words, b"")
        return True

    def say_error(self, status: int, reason: str) -> None:
        """Sends a whole answer of the server's own, where nothing was sent before."""
        with_body = self.scope["method"] != "HEAD"
        self._link.write(error_response(status, reason, date_line=self._link.date_line(), with_body=with_body))

    def _progress(self) -> str:
        if self._ended or self.answered:
            return "after the end of the answer"
        return "before http.response.start" if self._start is None else "after http.response.start"
