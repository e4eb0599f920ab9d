"""The endpoints that run models: infer and generate, and both as a stream of Server-Sent Events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Protocol

from mlserve.rest.headers import json_length, timeout_seconds, write_headers
from mlserve.rest.replies import JSON, Reply, Send, error_reply
from mlserve.rest.requests import Request
from mlserve.settings import Settings
from mlserve.types import InferenceRequest, InferenceResponse, Parameters
from mlserve.wire.v2json import decode_request, encode_response

__all__ = ["InferEndpoints", "Infers"]

_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]
_BINARY = (b"content-type", b"application/octet-stream")


class Infers(Protocol):
    """What these endpoints need of the data plane."""

    async def infer(
        self, request: InferenceRequest, name: str, version: str | None = ..., *, timeout_seconds: float | None = ...
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

    async def unary(self, http: Request, name: str, version: str | None) -> Reply:
        """The answer to one request. Any MLServeError that reading it gives; ClientGone."""
        timeout = timeout_seconds(http.headers)
        request = await self._read(http)

        async def answer() -> Reply:
            try:
                response = await self._dataplane.infer(request, name, version, timeout_seconds=timeout)
                return _reply(response)
            except Exception as error:
                return error_reply(error, request.id)

        return await http.while_connected(answer)

    async def stream(self, http: Request, name: str, version: str | None, send: Send) -> Reply | None:
        """Sends the answers as events; returns the error to answer with if there was none before the first event.

        An error after that is an event of the type `error`, the last one: the status has been sent by then.
        """
        timeout = timeout_seconds(http.headers)
        request = await self._read(http)

        async def events() -> Reply | None:
            answers = self._dataplane.infer_stream(_only(request), name, version, timeout_seconds=timeout)
            async with aclosing(answers):
                try:
                    response = await anext(answers, None)
                    event = b"" if response is None else _event(response)
                except Exception as error:
                    return error_reply(error, request.id)
                await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
                while response is not None:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                    try:
                        response = await anext(answers, None)
                        event = b"" if response is None else _event(response)
                    except Exception as error:
                        reply = error_reply(error, request.id)
                        event, response = _framed(b"event: error\ndata: ", bytes(reply.chunks[0])), None
            await send({"type": "http.response.body", "body": event, "more_body": False})
            return None

        return await http.while_connected(events)

    async def _read(self, http: Request) -> InferenceRequest:
        """The request in the body, with the headers as the model will see them."""
        header_length = json_length(http.headers)
        request = decode_request(await http.json_body(self._limit_bytes), header_length)
        if request.parameters is None:
            request.parameters = Parameters()
        request.parameters["headers"] = http.headers  # Not what the client put there: it speaks for itself in HTTP.
        return request


async def _only(request: InferenceRequest) -> AsyncIterator[InferenceRequest]:
    yield request


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


def _event(response: InferenceResponse) -> bytes:
    """One chunk of the stream. Its headers stay in it: the answer's own have been sent by the time it is made."""
    chunks, _ = encode_response(response, binary=False)
    return _framed(b"data: ", b"".join(chunks))


def _framed(head: bytes, text: bytes) -> bytes:
    """An event of one line: JSON that came from a client may have line breaks between its values."""
    if b"\n" in text or b"\r" in text:
        text = text.replace(b"\n", b" ").replace(b"\r", b" ")
    return head + text + b"\n\n"
