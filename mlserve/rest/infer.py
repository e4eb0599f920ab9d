"""The endpoints that run models: infer and generate, and both as a stream of Server-Sent Events."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Protocol

import anyio

from mlserve.errors import CallerLeft
from mlserve.rest.events import EventStream
from mlserve.rest.headers import json_length, timeout_seconds, write_headers
from mlserve.rest.replies import JSON, Reply
from mlserve.rest.requests import ClientGone, Request
from mlserve.sealed import read_or_seal
from mlserve.settings import Settings
from mlserve.types import InferenceRequest, InferenceResponse, Parameters
from mlserve.unsent import Unsent
from mlserve.wire.v2json import encode_response

__all__ = ["InferEndpoints", "Infers"]

_READ_GRACE_SECONDS = 0.5  # a client that has not read the end of its stream so long after its deadline is cut off
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
    ) -> AsyncGenerator[list[InferenceResponse], None]: ...

    def stream_seconds(self, name: str, version: str | None, asked: float | None) -> float | None: ...


class InferEndpoints:
    """Reads requests, has them answered by the data plane for as long as the client waits, and writes the answers."""

    def __init__(self, dataplane: Infers, settings: Settings, unsent: Unsent) -> None:
        self._dataplane = dataplane
        self._unsent = unsent
        self._limit_bytes = settings.max_body_bytes
        self._keep_alive_seconds = settings.stream_keep_alive_seconds or 0.0

    async def unary(self, http: Request) -> Reply:
        """The answer to one request. Any MLServeError; ClientGone, which also cancels the call."""
        request, timeout = await self._read(http)
        infer = partial(self._dataplane.infer, request, *http.model, timeout_seconds=timeout)
        on_leave = http.on_leave
        if on_leave is None:
            return _reply(await http.while_connected(infer))
        try:
            return _reply(await infer(on_leave=on_leave))
        except CallerLeft as error:
            raise ClientGone(error.message) from None

    async def stream(self, http: Request) -> None:
        """Sends the answers as events. Any MLServeError before the first event; ClientGone."""
        request, timeout = await self._read(http)
        if request.id is None:  # over gRPC a stream's requests stay without, as MLServer has it
            request.id = str(uuid.uuid4())

        async def events() -> None:
            limit = self._dataplane.stream_seconds(*http.model, timeout)
            with anyio.move_on_after(None if limit is None else limit + _READ_GRACE_SECONDS):
                answers = self._dataplane.infer_stream(_Only(request), *http.model, timeout_seconds=timeout)
                async with aclosing(answers):
                    await EventStream(http, self._keep_alive_seconds, self._unsent).send(answers, request.id)
                return
            raise ClientGone("the client did not read its answer in time")

        await http.while_connected(events)

    async def _read(self, http: Request) -> tuple[InferenceRequest, float | None]:
        """The request in the body, with the headers as the model will see them; how much time its caller gives."""
        timeout = timeout_seconds(http.headers)
        header_length = json_length(http.headers)
        http.inference = request = read_or_seal(await http.json_body(self._limit_bytes, timeout), header_length)
        if request.parameters is None:
            request.parameters = Parameters()
        request.parameters["headers"] = http.headers  # Not what the client put there: it speaks for itself in HTTP.
        if timeout is not None:
            timeout = max(0.0, timeout - http.unpacked_seconds)
        return request, timeout


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
    values = None if response.parameters is None else dict.pop(response.parameters, "headers", None)
    chunks, header_length = encode_response(response)
    if header_length is None:
        headers = [JSON]
    else:
        headers = [_BINARY, (b"inference-header-content-length", b"%d" % header_length)]
    if values:
        write_headers(values, headers)
    return Reply(200, headers, chunks)
