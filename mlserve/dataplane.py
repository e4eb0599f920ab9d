"""Admits a request, finds its model, and waits for the answer within its deadline. What every transport calls."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TypeVar

import anyio

from mlserve.cloudevents import CloudEvents
from mlserve.custom_routes import Contested, CustomRoute, ErrorCodes, custom_routes
from mlserve.errors import DeadlineExceeded, MLServeError, ModelNotFound, Overloaded
from mlserve.frames import Handle, Handled, Piece
from mlserve.metrics import Metrics
from mlserve.models import Model, Models
from mlserve.pool import OnLeave
from mlserve.settings import Settings
from mlserve.stream_metrics import Flow
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataServerResponse,
    Parameters,
    RepositoryIndexRequest,
    RepositoryIndexResponseItem,
)

T = TypeVar("T")


class DataPlane:
    """The protocol's operations, free of any transport."""

    def __init__(self, settings: Settings, models: Models, metrics: Metrics) -> None:
        self.settings = settings
        self.models = models
        self._metrics = metrics
        self._events = CloudEvents(settings.server_name)
        self.in_flight = 0  # calls under way
        self.admitted = 0  # calls since the start
        self.started = False  # all models of the start-up have been tried
        self.draining = False  # the server is about to stop: no longer ready, but whatever still comes is answered

    # -- health and metadata ------------------------------------------------------------------------------------------

    def server_live(self) -> bool:
        """Whether the process answers at all."""
        return True

    def server_ready(self) -> bool:
        """Whether calls are welcome: every model is ready, or with `readiness: partial` at least one."""
        if not self.started or self.draining:
            return False
        if self.settings.readiness == "partial":
            return self.models.any_ready()
        return self.models.all_ready()

    def server_metadata(self) -> MetadataServerResponse:
        settings = self.settings
        return MetadataServerResponse(
            name=settings.server_name, version=settings.server_version, extensions=settings.extensions
        )

    def model_ready(self, name: str, version: str | None = None) -> bool:
        """Whether a model takes calls. ModelNotFound if there is none of that name and version."""
        return self.models.find(name, version).serves

    def model_metadata(self, name: str, version: str | None = None) -> MetadataModelResponse:
        """What the model says of itself. ModelNotFound."""
        return self.models.find(name, version).metadata

    # -- inference ----------------------------------------------------------------------------------------------------

    async def infer(
        self,
        request: InferenceRequest,
        name: str,
        version: str | None = None,
        *,
        form: str = "json",
        timeout_seconds: float | None = None,
        on_leave: OnLeave | None = None,
    ) -> InferenceResponse:
        """Runs one call; the data of the response comes in `form`, "json", "raw" or "contents".

        With "json", outputs for which the request asks binary data come as "raw". `request.parameters.headers` are
        the request's headers; those of the response come in its own. Cancelling the waiting task cancels the call;
        so does what `on_leave` is given, which costs less than a cancel scope. Any MLServeError.
        """
        model = self._admit(name, version)
        self._prepare(request, model)
        self._metrics.parallel_queue(model.pool.waiting_for(model.number))
        if model.batched:
            self._metrics.batch_queue(name, version, model.pool.waiting_for(model.number))
        timeout = self.timeout_of(model, timeout_seconds)
        started = time.perf_counter()
        succeeded = False
        self.in_flight += 1
        self.admitted += 1
        try:
            with model.in_use():
                if timeout is None:
                    response = await model.pool.infer(model.number, request, form, on_leave)
                else:
                    with anyio.move_on_after(timeout) as scope:
                        response = await model.pool.infer(model.number, request, form, on_leave, timeout)
                    if scope.cancelled_caught:
                        raise _too_late(model, timeout)
            succeeded = True
        finally:
            self.in_flight -= 1
            self._metrics.infer_done(name, version, time.perf_counter() - started, succeeded)
        return self._finish(response, model, request.id)

    async def infer_stream(
        self,
        requests: AsyncIterator[InferenceRequest],
        name: str,
        version: str | None = None,
        *,
        form: str = "json",
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[list[InferenceResponse], None]:
        """Runs one streamed call; gives the chunks that have come, together, whenever there are some.

        Close the generator to end the call early. Any MLServeError, also in mid-stream. Chunks carry the id of the
        request that the model took last, if it has one. The time is only looked at while the caller waits for chunks:
        one that may be held up between them, as by a client that does not read, has to look itself (`stream_seconds`).
        """
        model = self._admit(name, version)
        timeout = self.timeout_of(model, timeout_seconds)
        deadline = None if timeout is None else anyio.current_time() + timeout
        started = time.perf_counter()
        succeeded = False

        async def prepared() -> AsyncIterator[InferenceRequest]:
            async for request in requests:
                self._add_headers(request, model)
                yield request

        self.in_flight += 1
        self.admitted += 1
        flow = self._metrics.stream_opened(name, version)
        try:
            with model.in_use():
                async with aclosing(model.pool.stream(model.number, prepared(), form, timeout)) as answers:
                    while chunks := await _next(answers, model, timeout, deadline):
                        flow.came(len(chunks))
                        yield [self._finish(chunk, model, None) for chunk in chunks]
            succeeded = True
        finally:
            self.in_flight -= 1
            flow.ended()
            self._metrics.infer_done(name, version, time.perf_counter() - started, succeeded)

    def stream_seconds(self, name: str, version: str | None, asked: float | None) -> float | None:
        """How long a streamed call may take in all; None: as long as it likes.

        Where there is no such model, what was asked: `infer_stream` refuses the call, as it does any other.
        """
        try:
            model = self.models.find(name, version)
        except ModelNotFound:
            return asked
        return self.timeout_of(model, asked)

    def streams(self, name: str, version: str | None) -> bool:
        """Whether the model may give several answers to one request: it has a `predict_stream` of its own."""
        try:
            return bool(self.models.find(name, version).details.get("streams"))
        except ModelNotFound:
            return False

    async def handle(
        self, model: Model, frame: Handle, timeout_seconds: float | None, on_leave: OnLeave | None
    ) -> AsyncGenerator[list[Handled | Piece], None]:
        """Runs one call of a custom handler, within the limits of an inference call. Any MLServeError.

        Gives what has come of the answer, and ends with the call: what a handler does after its answer is under way
        like everything else. An answer in several pieces counts as a stream. Close the generator to end it early.
        """
        self._check_queue(model)
        timeout = self.timeout_of(model, timeout_seconds)
        deadline = None if timeout is None else anyio.current_time() + timeout
        flow: Flow | None = None
        began = time.perf_counter()
        self.in_flight += 1
        self.admitted += 1
        try:
            with model.in_use():
                async with aclosing(model.pool.handle(frame, on_leave, timeout)) as answers:
                    while pieces := await _next(answers, model, timeout, deadline):
                        is_whole = not pieces[-1].more
                        if flow is None and not (is_whole and len(pieces) == 1):
                            flow = self._metrics.stream_opened(model.name, model.version, began)
                        if flow is not None:
                            flow.came(len(pieces))
                        yield pieces
                        if is_whole:
                            deadline = None
        finally:
            self.in_flight -= 1
            if flow is not None:
                flow.ended()

    def _admit(self, name: str, version: str | None) -> Model:
        """The model for a new call, if it may be called now."""
        model = self.models.ready(name, version)
        self._check_queue(model)
        return model

    def _check_queue(self, model: Model) -> None:
        """Overloaded if as many calls wait for the model as may."""
        limit = self.settings.max_queue_size if model.settings.max_queue_size is None else model.settings.max_queue_size
        if model.pool.waiting_for(model.number) >= limit > 0:
            raise Overloaded(f"{limit} calls wait for model '{model.name}' already; try again in a moment")

    def _prepare(self, request: InferenceRequest, model: Model) -> None:
        """Gives the request an id and the headers of its event."""
        if request.id is None:
            request.id = str(uuid.uuid4())
        self._add_headers(request, model)

    def _add_headers(self, request: InferenceRequest, model: Model) -> None:
        if request.parameters is None:
            request.parameters = Parameters()
        headers = request.parameters.headers
        events = self._events.request_headers(model.name, request.id)
        request.parameters.headers = {**headers, **events} if headers else events

    def _finish(self, response: InferenceResponse, model: Model, request_id: str | None) -> InferenceResponse:
        """Fills what the model left out, and adds the headers of the event."""
        if response.id is None:
            response.id = request_id
        if response.parameters is None:
            response.parameters = Parameters()
        given = response.parameters.headers
        response.parameters.headers = self._events.response_headers(model.name, response.id, given)
        return response

    def timeout_of(self, model: Model, asked: float | None) -> float | None:
        """The shortest of what the caller, the model's and the server's settings allow."""
        limits = (asked, model.settings.request_timeout_seconds, self.settings.request_timeout_seconds)
        known = [limit for limit in limits if limit is not None]
        return min(known) if known else None

    def custom_routes(self) -> list[tuple[str, str, CustomRoute | Contested, ErrorCodes]]:
        """The REST paths that models bring along: path, method, ASGI application, and codes of errors by status."""
        return list(custom_routes(self))

    # -- the repository -----------------------------------------------------------------------------------------------

    async def repository_index(self, request: RepositoryIndexRequest) -> list[RepositoryIndexResponseItem]:
        """All models on disk and in memory, with their states."""
        return await self.models.index(bool(request.ready))

    async def repository_load(self, name: str) -> None:
        """Loads a model, or loads it again, from disk. ModelNotFound, ModelLoadError."""
        await self.models.load(name)

    async def repository_unload(self, name: str) -> None:
        """Unloads a model. ModelNotFound."""
        await self.models.unload(name)


async def _next(
    answers: AsyncGenerator[list[T], None], model: Model, timeout: float | None, deadline: float | None
) -> list[T]:
    """The chunks that come next, none at the end. DeadlineExceeded."""
    if timeout is None or deadline is None:
        return await anext(answers, [])
    with anyio.CancelScope(deadline=deadline):
        return await anext(answers, [])
    raise _too_late(model, timeout)


def _too_late(model: Model, timeout_seconds: float) -> MLServeError:
    return DeadlineExceeded(f"model '{model.name}' gave no answer within {timeout_seconds:g} s")
