"""AsyncClient: the operations of the protocol with deadlines and retries, over either transport."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import anyio

from mlserve.client.address import Address
from mlserve.client.checking import check_headers, check_text, limit_of
from mlserve.client.grpc import GrpcTransport
from mlserve.client.loops import Transports
from mlserve.client.payload import make_request
from mlserve.client.rest import RestTransport
from mlserve.client.result import InferResult
from mlserve.client.retrying import pause_before_retry
from mlserve.client.transport import Transport
from mlserve.errors import DeadlineExceeded, MLServeError, ModelNotFound
from mlserve.types import (
    InferenceRequest,
    MetadataModelResponse,
    MetadataServerResponse,
    RepositoryIndexResponseItem,
    RequestOutput,
)

__all__ = ["AsyncClient"]

T = TypeVar("T")
_Answers = AsyncGenerator[InferResult, None]


class AsyncClient:
    """A client of one server. Use it as a context manager, or close it with `aclose`; each event loop that it is used
    in has connections of its own, which close with the loop.

    `address` is http://HOST:PORT (with a prefix, if the server has one), https, grpc://HOST:PORT or grpcs. `binary`
    sends and asks for tensors as bytes: without it REST is JSON, and gRPC is bytes in any case but for `binary=False`.
    `timeout_seconds` is the time for each call but streams, all tries together; None, or infinity, is no limit.
    `retries` is how often a call is sent again that cannot have reached a model; with `may_run_twice` also one that was
    lost on the way, when its worker died or its connection broke. `headers` go with every call, as metadata over gRPC.

    Every method raises an MLServeError: those of `mlserve.errors` by the server's status, DeadlineExceeded when the
    time is over, ClientError when the connection (or the address) is the trouble, InvalidRequest and CodecError for
    what cannot be sent.
    """

    def __init__(
        self,
        address: str,
        *,
        binary: bool | None = None,
        timeout_seconds: float | None = 60.0,
        retries: int = 2,
        may_run_twice: bool = False,
        headers: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        max_connections: int = 100,
    ) -> None:
        where = Address.parse(address)
        self.address = str(where)
        self.timeout_seconds = timeout_seconds
        self.retries = retries
        self.may_run_twice = may_run_twice
        given = check_headers(headers, is_grpc=where.is_grpc)
        limit_of(timeout_seconds)
        self._is_grpc = where.is_grpc
        context = where.ssl_context(ssl_context)
        make: Callable[[], Transport]
        if where.is_grpc:
            make = partial(GrpcTransport, where, given, binary is not False, context)
        else:
            make = partial(RestTransport, where, given, bool(binary), context, max_connections)
        self._transports = Transports(make)

    # -- inference ----------------------------------------------------------------------------------------------------

    async def infer(
        self,
        model: str,
        payload: Any,
        *,
        version: str | None = None,
        outputs: Sequence[str | RequestOutput] | None = None,
        parameters: Mapping[str, Any] | None = None,
        id: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> InferResult:
        """The answer of a model to a payload: an array, a frame, a list of text, a dict of them by the names of the
        inputs, or an InferenceRequest. A CodecError comes before anything is sent."""
        request, asked = make_request(payload, request_id=id, parameters=parameters, outputs=outputs)
        sent = self._check(model, version, asked, headers, timeout_seconds)
        limit = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        return await self._call(
            lambda transport, left: transport.infer(request, model, version, sent, left), limit, self.may_run_twice
        )

    def stream(
        self,
        model: str,
        payload: Any,
        *,
        version: str | None = None,
        outputs: Sequence[str | RequestOutput] | None = None,
        parameters: Mapping[str, Any] | None = None,
        id: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[InferResult, None]:
        """The answers of a model, as they come. Without `timeout_seconds` there is no limit to the time.

        Whoever stops before the end closes it (`async with aclosing(...)`): that cancels the call on the server.
        """
        request, asked = make_request(payload, request_id=id, parameters=parameters, outputs=outputs)
        sent = self._check(model, version, asked, headers, timeout_seconds)
        return self._stream(request, model, version, sent, timeout_seconds)

    def _check(
        self,
        model: str,
        version: str | None,
        asked: Mapping[str, str],
        headers: Mapping[str, str] | None,
        timeout_seconds: float | None,
    ) -> dict[str, str]:
        """The headers of a call: those that the payload asks for, and those that are given. InvalidRequest."""
        check_text("model", model)
        check_text("version", version, optional=True)
        limit_of(timeout_seconds)
        of_payload = check_headers(asked, is_grpc=self._is_grpc)
        return {**of_payload, **check_headers(headers, is_grpc=self._is_grpc)}

    async def _stream(
        self,
        request: InferenceRequest,
        model: str,
        version: str | None,
        headers: Mapping[str, str],
        timeout_seconds: float | None,
    ) -> AsyncGenerator[InferResult, None]:
        limit = limit_of(timeout_seconds)
        end = _end(limit)

        async def begin(transport: Transport, left: float | None) -> tuple[_Answers, InferResult | None]:
            answers = transport.stream(request, model, version, headers, left)
            return answers, await anext(answers, None)

        # From its first answer on nothing is retried.
        answers, answer = await self._call(begin, timeout_seconds, self.may_run_twice)
        async with aclosing(answers):
            while answer is not None:
                yield answer
                answer = await self._in_time(lambda: anext(answers, None), end, limit)

    # -- health and metadata ------------------------------------------------------------------------------------------

    async def server_live(self) -> bool:
        """Whether the server's process answers. ClientError if nothing answers at all."""
        return await self._call(lambda transport, _: transport.server_live(), self.timeout_seconds)

    async def server_ready(self) -> bool:
        """Whether the server takes calls. ClientError if nothing answers at all."""
        return await self._call(lambda transport, _: transport.server_ready(), self.timeout_seconds)

    async def model_ready(self, model: str, *, version: str | None = None) -> bool:
        """Whether a model takes calls; one that the server does not have does not. ClientError if nothing answers."""
        check_text("model", model)
        check_text("version", version, optional=True)
        try:
            return await self._call(lambda transport, _: transport.model_ready(model, version), self.timeout_seconds)
        except ModelNotFound:
            return False

    async def server_metadata(self) -> MetadataServerResponse:
        """Name, version and extensions of the server."""
        return await self._call(lambda transport, _: transport.server_metadata(), self.timeout_seconds)

    async def model_metadata(self, model: str, *, version: str | None = None) -> MetadataModelResponse:
        """Versions, platform, inputs and outputs of a model. ModelNotFound."""
        check_text("model", model)
        check_text("version", version, optional=True)
        return await self._call(lambda transport, _: transport.model_metadata(model, version), self.timeout_seconds)

    # -- the repository -----------------------------------------------------------------------------------------------

    async def repository_index(self, *, ready: bool = False) -> list[RepositoryIndexResponseItem]:
        """The models in the repository with their states; with `ready` only those that are ready."""
        return await self._call(lambda transport, _: transport.repository_index(ready), self.timeout_seconds)

    async def repository_load(self, model: str, *, timeout_seconds: float | None = None) -> None:
        """Loads a model, or loads it again. ModelNotFound, ModelLoadError."""
        check_text("model", model)
        limit = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        await self._call(lambda transport, _: transport.repository_load(model), limit)

    async def repository_unload(self, model: str, *, timeout_seconds: float | None = None) -> None:
        """Unloads a model. ModelNotFound."""
        check_text("model", model)
        limit = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        await self._call(lambda transport, _: transport.repository_unload(model), limit)

    # -- deadlines and retries ----------------------------------------------------------------------------------------

    async def _call(
        self,
        attempt: Callable[[Transport, float | None], Awaitable[T]],
        timeout_seconds: float | None,
        may_run_twice: bool = True,  # as what only asks, and as loading and unloading
    ) -> T:
        """What an attempt gives, or a later one where another is safe. `attempt` gets the time that is left."""
        limit = limit_of(timeout_seconds)
        transport = await self._transports.here()
        end = _end(limit)
        tries = 0
        while True:
            left = None if limit is None else end - anyio.current_time()
            tries += 1
            try:
                return await self._in_time(lambda left=left: attempt(transport, left), end, limit)  # type: ignore[misc]
            except MLServeError as error:
                pause = pause_before_retry(error, tries, self.retries, may_run_twice=may_run_twice)
                if pause is None or anyio.current_time() + pause >= end:
                    raise
            await anyio.sleep(pause)

    async def _in_time(self, work: Callable[[], Awaitable[T]], end: float, limit: float | None) -> T:
        """What the work gives. DeadlineExceeded if it takes longer; then it has been cancelled."""
        with anyio.CancelScope(deadline=end):
            return await work()
        raise DeadlineExceeded(f"{self.address} gave no answer within {limit:g} s")

    # -- closing ------------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Closes the connections. Another call opens new ones."""
        await self._transports.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"


def _end(limit: float | None) -> float:
    """When the time is over, on the event loop's clock."""
    return float("inf") if limit is None else anyio.current_time() + limit
