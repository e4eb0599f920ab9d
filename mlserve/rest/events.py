"""The answer to a streamed call as Server-Sent Events: one for each chunk, comments while there is none.

    WAITING ──first chunk──▶ EVENTS ──end of the chunks──▶ done
       │ └──silence──▶ status and comment ──▶ EVENTS   │
       └──error: an ordinary answer                    └──error: an event of the type `error`, the last one

The status goes out with the first event, so that a call that fails before it has the status of its error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress

import anyio
import msgspec

from mlserve.errors import MLServeError
from mlserve.rest.h1_exchange import LAST_WORDS
from mlserve.rest.replies import error_reply
from mlserve.rest.requests import Request
from mlserve.types import InferenceResponse
from mlserve.unsent import Unsent
from mlserve.wire.v2json import encode_json, encode_response

__all__ = ["EventStream"]

Answers = AsyncGenerator[list[InferenceResponse], None]

_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8")]
_COMMENT = b": still there\n\n"


class EventStream:
    """Sends the chunks of one call to its client; a slow client slows whoever makes them."""

    def __init__(self, http: Request, keep_alive_seconds: float, unsent: Unsent) -> None:
        self._http = http
        self._keep_alive_seconds = keep_alive_seconds
        self._unsent = unsent
        self._started = False
        self._silent = True  # nothing was sent since the keep-alive looked last
        self._sending = False  # an event is on its way, maybe in pieces: no comment may come between them
        self._comment_left: anyio.Event | None = None  # while a comment is on its way, which events wait for

    async def send(self, answers: Answers, request_id: str | None) -> None:
        """Sends everything. Raises what goes wrong before anything was sent; after that it is the last event."""
        failure = await (self._send_beside_comments(answers) if self._keep_alive_seconds else self._send(answers))
        try:
            if failure is not None:
                if not self._started or isinstance(failure, ConnectionError):
                    raise failure
                await self._put(_error(failure, request_id))
        finally:
            del failure  # a circle with its traceback
        await self._put(b"", more=False)  # no comment may come behind it

    async def _send_beside_comments(self, answers: Answers) -> Exception | None:
        comments = anyio.CancelScope(shield=True)  # a task that its group cancels leaves a circle behind, on asyncio
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_alive, comments)
            try:
                failure = await self._send(answers)
            finally:
                comments.cancel()
        try:
            return failure
        finally:
            del failure  # a circle with its traceback, whose frames keep this one

    async def _send(self, answers: Answers) -> Exception | None:
        """Sends the chunks; what went wrong is returned, since a task group would wrap it."""
        try:
            async for chunks in answers:
                data = _events(chunks)
                with self._unsent.holding(len(data)):
                    await self._put(data)
        except Exception as error:
            return error
        return None

    async def _put(self, data: bytes, *, more: bool = True) -> None:
        """Sends events, in the one task that has them."""
        if self._comment_left is not None:
            await self._comment_left.wait()
        self._sending = True
        await self._write(data, more)
        self._silent = self._sending = False

    async def _write(self, data: bytes, more: bool) -> None:
        if not self._started:
            self._started = True
            await self._http.send(
                {"type": "http.response.start", "status": 200, "headers": _HEADERS, LAST_WORDS: _STOPPED}
            )
            if not data and not more:  # a stream of nothing is a stream all the same, not a body of known length
                await self._http.send({"type": "http.response.body", "body": b"", "more_body": True})
        await self._http.send({"type": "http.response.body", "body": data, "more_body": more})

    async def _keep_alive(self, scope: anyio.CancelScope) -> None:
        """Sends comments so that there is no silence longer than this: proxies take silence for death."""
        with scope, suppress(ConnectionError):  # whoever sends the chunks will see that too
            while True:
                self._silent = True
                await anyio.sleep(self._keep_alive_seconds / 2)
                if self._silent and not self._sending:
                    await self._write_comment()

    async def _write_comment(self) -> None:
        self._comment_left = anyio.Event()
        try:
            await self._write(_COMMENT, more=True)
        finally:
            self._comment_left.set()
            self._comment_left = None


def _events(chunks: Iterable[InferenceResponse]) -> bytes:
    """Chunks that came together leave together. Headers stay in them: those of the answer are sent long before."""
    return b"".join(_framed(b"data: ", b"".join(encode_response(chunk, binary=False)[0])) for chunk in chunks)


def _error(error: Exception, request_id: str | None) -> bytes:
    reply = error_reply(error, request_id)
    told = {**msgspec.json.decode(reply.chunks[0]), "status": reply.status}
    return _framed(b"event: error\ndata: ", encode_json(told))


def _framed(head: bytes, text: bytes) -> bytes:
    """An event of one line: JSON that came from a client may have line breaks between its values."""
    if b"\n" in text or b"\r" in text:
        text = text.replace(b"\n", b" ").replace(b"\r", b" ")
    return head + text + b"\n\n"


_STOPPED = _error(MLServeError("the server stopped before the end of the stream", 503), None)
