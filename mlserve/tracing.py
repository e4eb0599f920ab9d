"""Traces: one span for each call, sent to an OpenTelemetry collector. Only with the setting `tracing_server`.

A span continues the trace that the caller's `traceparent` names, and the model finds its own `traceparent` in
`parameters.headers`, so that spans which its code makes belong below it. The data plane without traces is untouched:
`TracedPlane` takes its place.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio

from mlserve.dataplane import DataPlane
from mlserve.errors import MLServeError, shown
from mlserve.metrics import Metrics
from mlserve.models import Models
from mlserve.settings import Settings
from mlserve.types import InferenceRequest, InferenceResponse, Parameters

__all__ = ["TracedPlane", "Tracing", "open_tracing"]

_logger = logging.getLogger("mlserve.tracing")
_LAST_SPANS_SECONDS = 2.5  # for the last spans, when the server ends
_CUT_OFF_SECONDS = 0.5  # for the exporter to give up a collector that does not answer
_LOOK_SECONDS = 0.02  # between two looks whether it is over


class Tracing:
    """Makes spans, and sends them in the background. `close` it."""

    def __init__(self, settings: Settings) -> None:
        """ImportError without the packages of the extra `tracing`."""
        from opentelemetry import propagate, trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._trace = trace
        self._propagate = propagate
        resource = Resource.create({"service.name": settings.server_name, "service.version": settings.server_version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._exporter = OTLPSpanExporter(endpoint=settings.tracing_server, insecure=True)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._server = settings.tracing_server
        self._tracer = self._provider.get_tracer("mlserve", settings.server_version)

    def span(self, operation: str, name: str, version: str | None, headers: dict[str, Any] | None) -> Span:
        """Begins the span of one call; `end` it."""
        name = shown(name)
        attributes = {"mlserve.model.name": name}
        if version:
            attributes["mlserve.model.version"] = shown(version)
        parent = self._propagate.extract(headers or {})
        kind = self._trace.SpanKind.SERVER
        return Span(self, self._tracer.start_span(f"{operation} {name}", parent, kind, attributes))

    def mark(self, request: InferenceRequest, span: Any) -> None:
        """Puts the span into the headers that the model sees."""
        if request.parameters is None:
            request.parameters = Parameters()
        headers = dict(request.parameters.headers or {})
        self._propagate.inject(headers, self._trace.set_span_in_context(span))
        request.parameters.headers = headers

    def failed(self, span: Any, error: BaseException) -> None:
        """Says in the span what went wrong."""
        name = type(error).__name__
        message = error.message if isinstance(error, MLServeError) else name
        span.set_attribute("error.type", getattr(error, "error_type", "") or name)
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, message))

    async def close(self) -> None:
        """Sends what is left, for a bounded time; then nothing runs any more that would hold the process up."""
        closing = threading.Thread(target=self._provider.shutdown, name="mlserve traces", daemon=True)
        closing.start()
        if not await _ends(closing, _LAST_SPANS_SECONDS):
            _logger.warning("the last spans did not reach %s within %g s", self._server, _LAST_SPANS_SECONDS)
            self._exporter.shutdown(timeout_millis=0)
            await _ends(closing, _CUT_OFF_SECONDS)


class Span:
    """The span of one call: a context that ends it, with the error that leaves it, if any."""

    def __init__(self, tracing: Tracing, span: Any) -> None:
        self._tracing = tracing
        self._span = span
        self._chunks = 0

    def __enter__(self) -> Span:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._chunks:
            self._span.set_attribute("mlserve.chunks", self._chunks)
        if error is not None and not isinstance(error, GeneratorExit):
            self._tracing.failed(self._span, error)
        self._span.end()

    def mark(self, request: InferenceRequest) -> None:
        """Puts the span into the headers that the model sees."""
        self._tracing.mark(request, self._span)

    def answered(self, request_id: str | None) -> None:
        """Names the request that the span was about."""
        if request_id:
            self._span.set_attribute("mlserve.request.id", request_id)

    def came(self, chunks: int) -> None:
        """Counts chunks of a stream; the first ones are an event of the span."""
        if not self._chunks:
            self._span.add_event("first chunk")
        self._chunks += chunks


class TracedPlane(DataPlane):
    """The data plane, with a span around each call."""

    def __init__(self, settings: Settings, models: Models, metrics: Metrics, tracing: Tracing) -> None:
        super().__init__(settings, models, metrics)
        self._tracing = tracing

    async def infer(
        self, request: InferenceRequest, name: str, version: str | None = None, **options: Any
    ) -> InferenceResponse:
        """See DataPlane."""
        with self._tracing.span("infer", name, version, _headers(request)) as span:
            span.mark(request)
            response = await super().infer(request, name, version, **options)
            span.answered(response.id)
            return response

    async def infer_stream(
        self, requests: AsyncIterator[InferenceRequest], name: str, version: str | None = None, **options: Any
    ) -> AsyncGenerator[list[InferenceResponse], None]:
        """See DataPlane. The first request says which trace the stream belongs to."""
        first = await anext(requests, None)
        with self._tracing.span("infer_stream", name, version, None if first is None else _headers(first)) as span:

            async def marked() -> AsyncIterator[InferenceRequest]:
                if first is None:
                    return
                span.mark(first)
                span.answered(first.id)
                yield first
                async for request in requests:
                    span.mark(request)
                    yield request

            async with aclosing(super().infer_stream(marked(), name, version, **options)) as answers:
                async for chunks in answers:
                    span.came(len(chunks))
                    yield chunks


def open_tracing(settings: Settings) -> Tracing | None:
    """The traces that the settings ask for. Without the packages it needs, a warning, and None."""
    if not settings.tracing_server:
        return None
    try:
        return Tracing(settings)
    except ImportError as error:
        _logger.warning(
            "no traces are sent to %s: %s. Install what they need: pip install 'mlserve-core[tracing]'",
            settings.tracing_server,
            error,
        )
        return None


async def _ends(thread: threading.Thread, seconds: float) -> bool:
    """Whether a thread ends within so many seconds."""
    with anyio.move_on_after(seconds, shield=True):
        while thread.is_alive():
            await anyio.sleep(_LOOK_SECONDS)
    return not thread.is_alive()


def _headers(request: InferenceRequest) -> dict[str, Any] | None:
    return None if request.parameters is None else request.parameters.headers
