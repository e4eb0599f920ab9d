"""Answers: status, headers and body in pieces; errors as the protocol's `{"error": "..."}`; packed and sent."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException

from mlserve.errors import MLServeError
from mlserve.rest.headers import accepts_gzip
from mlserve.rest.packing import MINIMUM_BYTES, pack
from mlserve.rest.requests import Request
from mlserve.unsent import COUNTED_FROM_BYTES, Unsent
from mlserve.wire.v2json import encode_json

__all__ = ["CLIENT_GONE", "JSON", "Reply", "error_reply", "json_reply", "send_reply"]

Buffer = bytes | bytearray | memoryview

JSON = (b"content-type", b"application/json")
CLIENT_GONE = 499  # nginx's number for a client that left before its answer; only metrics ever see it

logger = logging.getLogger("mlserve.rest")


class Reply:
    """One answer. `headers` are without what follows from the body: its length and how it is packed."""

    __slots__ = ("chunks", "headers", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], chunks: Sequence[Buffer] = ()) -> None:
        self.status = status
        self.headers = headers
        self.chunks = chunks


def json_reply(value: Any, status: int = 200) -> Reply:
    """An answer with a JSON body."""
    return Reply(status, [JSON], [encode_json(value)])


def error_reply(
    error: BaseException, request_id: str | None = None, error_codes: Mapping[str, str] | None = None
) -> Reply:
    """The answer to a request that failed. What nobody raised on purpose is logged, and only named to the client.

    `error_codes`, by HTTP status, are for a path whose clients look for `error_code` and `message`.
    """
    reply, message = _told(error, request_id)
    body = {"error": message}
    if error_codes:
        code = error_codes.get(str(reply.status)) or error_codes.get(f"{reply.status // 100}00", "")
        body = {"error_code": code, "message": message, **body}
    reply.chunks = [encode_json(body)]
    return reply


def _told(error: BaseException, request_id: str | None) -> tuple[Reply, str]:
    """The answer without its body, and the message in it."""
    if isinstance(error, MLServeError):
        status, message = error.http_status, str(error)
        if not isinstance(status, int) or not 400 <= status <= 599:
            status = 500  # A model may raise any number.
        reply = Reply(status, [JSON])
        if error.retryable:  # not what a model raised, with whatever status: then it has run
            seconds = math.ceil(getattr(error, "retry_after_seconds", 1.0))
            reply.headers.append((b"retry-after", b"%d" % max(seconds, 1)))
        return reply, message
    if isinstance(error, HTTPException):
        reply = Reply(error.status_code, [JSON])
        reply.headers += [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in (error.headers or {}).items()]
        return reply, _words(error)
    about = f"request {request_id}: " if request_id else ""
    logger.error("%san unexpected %s", about, type(error).__name__, exc_info=error)
    where = f"; the server's log has the details under the request id {request_id}" if request_id else ""
    return Reply(500, [JSON]), f"the server failed unexpectedly ({type(error).__name__}){where}"


def _words(error: HTTPException) -> str:
    """What Starlette says, unless that is only the status once more."""
    if error.status_code == 404 and error.detail == HTTPStatus.NOT_FOUND.phrase:
        return "there is nothing at this path; GET /v2/docs lists what there is"
    if error.status_code == 405 and error.headers:
        allowed = sorted(error.headers.get("Allow", "another method").split(", "))  # a set was joined
        return f"this path takes {', '.join(allowed)} only"
    return error.detail


async def send_reply(reply: Reply, request: Request, unsent: Unsent, *, may_pack: bool) -> None:
    """Sends an answer, packed if the client takes that, it is large enough, and packing is switched on."""
    chunks = reply.chunks
    headers = reply.headers
    size = len(chunks[0]) if len(chunks) == 1 else sum(map(len, chunks))
    held = size if size >= COUNTED_FROM_BYTES else 0
    if held:
        unsent.hold(held)
    try:
        if may_pack and size >= MINIMUM_BYTES:
            headers.append((b"vary", b"Accept-Encoding"))
            if accepts_gzip(request.headers.get("accept-encoding", "")):
                chunks = [await pack(chunks, size)]
                size = len(chunks[0])
                headers.append((b"content-encoding", b"gzip"))
        headers.append((b"content-length", b"%d" % size))
        send = request.send
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        for chunk in chunks[:-1]:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": chunks[-1] if chunks else b"", "more_body": False})
    finally:
        if held:
            unsent.give(held)
