"""The endpoints that run models: infer and generate, and both as a stream of Server-Sent Events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

from mlserve.errors import CallerLeft
from mlserve.rest.headers import json_length, timeout_seconds, write_headers
from mlserve.rest.replies import JSON, Reply, error_reply
from mlserve.rest.requests import ClientGone, Request
from mlserve.settings import Settings
from mlserve.types import InferenceRequest, InferenceResponse, Parameters
from mlserve.wire.v2json import decode_request, encode_response

__all__ = ["InferEndpoints", "Infers"]

_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]
_BINARY = (b"content-type", b"application/octet-stream")


class Infers(Protocol):
    """What these endpoints need of the data plane."""

    async def infer(
        self,
        request: InferenceRequest,
        name: str,
        version: str | None = ...,
        *,
        timeout_seconds: float | None = ...,
        on_leave: Callable[[Callable[[], None] | None], None] | None = ...,
    ) -> InferenceResponse: ...

    def infer_stream(
        self,
        requests: AsyncIterator[InferenceRequest],
        name: str,
        version: str | None = ...,
        *,
        timeout_seconds: float | None = ...,
    ) -> AsyncGenerator[InferenceResponse, None]: ...


class InferEndpoints:
    """Reads requests, has them answered by the data plane for as long as the client waits, and writes the answers."""

    def __init__(self, dataplane: Infers, settings: Settings) -> None:
        self._dataplane = dataplane
        self._limit_bytes = settings.max_body_bytes

    async def unary(self, http: Request) -> Reply:
        """The answer to one request. Any MLServeError; ClientGone, which also cancels the call."""
        timeout = timeout_seconds(http.headers)
        request = await self._read(http)
        infer = partial(self._dataplane.infer, request, *http.model, timeout_seconds=timeout)
        on_leave = http.on_leave
        if on_leave is None:
            return _reply(await http.while_connected(infer))
        try:
            return _reply(await infer(on_leave=on_leave))
        except CallerLeft as error:
            raise ClientGone(error.message) from None

    async def stream(self, http: Request) -> None:
        """Sends the answers as events. Any MLServeError before the first event; ClientGone.

        An error after that is an event of the type `error`, the last one: the status has been sent by then.
        """
        timeout = timeout_seconds(http.headers)
        request = await self._read(http)

        async def events() -> None:
            answers = self._dataplane.infer_stream(_Only(request), *http.model, timeout_seconds=timeout)
            async with aclosing(answers):
                event = await _next_event(answers)
                await http.send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
                await http.send(_piece(event))  # Also if empty: from here on it is a stream.
                while event:
                    try:
                        event = await _next_event(answers)
                    except Exception as error:
                        await http.send(_piece(_error_event(error, request.id)))
                        break
                    if event:
                        await http.send(_piece(event))
            await http.send(_piece(b"", more=False))

        await http.while_connected(events)

    async def _read(self, http: Request) -> InferenceRequest:
        """The request in the body, with the headers as the model will see them."""
        header_length = json_length(http.headers)
        http.inference = request = decode_request(await http.json_body(self._limit_bytes), header_length)
        if request.parameters is None:
            request.parameters = Parameters()
        request.parameters["headers"] = http.headers  # Not what the client put there: it speaks for itself in HTTP.
        return request


class _Only:
    """The one request of a stream over REST. No async generator: whoever stops early need not close this."""

    def __init__(self, request: InferenceRequest) -> None:
        self._requests = [request]

    def __aiter__(self) -> _Only:
        return self

    async def __anext__(self) -> InferenceRequest:
        if not self._requests:
            raise StopAsyncIteration
        return self._requests.pop()


def _reply(response: InferenceResponse) -> Reply:
    values = None if response.parameters is None else response.parameters.pop("headers", None)
    chunks, header_length = encode_response(response)
    if header_length is None:
        headers = [JSON]
    else:
        headers = [_BINARY, (b"inference-header-content-length", b"%d" % header_length)]
    if values:
        write_headers(values, headers)
    return Reply(200, headers, chunks)


async def _next_event(answers: AsyncGenerator[InferenceResponse, None]) -> bytes:
    """The next chunk of the stream, b"" at its end. Headers stay in it: the answer's own go out before it is made."""
    response = await anext(answers, None)
    if response is None:
        return b""
    chunks, _ = encode_response(response, binary=False)
    return _framed(b"data: ", b"".join(chunks))


def _error_event(error: Exception, request_id: str | None) -> bytes:
    return _framed(b"event: error\ndata: ", bytes(error_reply(error, request_id).chunks[0]))


def _piece(data: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def _framed(head: bytes, text: bytes) -> bytes:
    """An event of one line: JSON that came from a client may have line breaks between its values."""
    if b"\n" in text or b"\r" in text:
        text = text.replace(b"\n", b" ").replace(b"\r", b" ")
    return head + text + b"\n\n"
