"""The figures that Prometheus scrapes: MLServer's series, counted in plain Python, put into words at the scrape.

Hot calls add to counters of their own instead of prometheus_client's: the event loop is the only thread that counts,
so a lock for each of some eight numbers of a request would buy nothing. A collector hands the sums to
prometheus_client when somebody asks. Names and labels are MLServer's; where its documentation spells a name
otherwise than its server, the same figures appear a second time under that name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, choose_encoder
from prometheus_client.registry import Collector

from mlserve.batch_metrics import BATCH_SERIES, Batched, collect_batches
from mlserve.model_values import ModelValues
from mlserve.stream_metrics import STREAM_SERIES, Flow, StreamMetrics
from mlserve.tally import COMMON, SECONDS, Tally

__all__ = ["SERIES", "Metrics"]

logger = logging.getLogger("mlserve.metrics")

# Every series that the server makes itself, and what it says; `rest_server` stands for the configured prefix.
SERIES: dict[str, str] = {
    "model_infer_request_success": "Inference requests that got an answer.",
    "model_infer_request_failure": "Inference requests that failed.",
    "model_infer_request_duration": "Seconds that inference requests took.",
    "batch_request_queue": "Requests that waited for a batch when another one came.",
    "parallel_request_queue": "Calls that waited for a worker process when another one came.",
    "worker_restarts": "Worker processes that ended and were started again.",
    "rest_server_requests": "REST requests, by path and status.",
    "rest_server_request_duration_seconds": "Seconds that REST requests took.",
    "rest_server_requests_duration_seconds": "Seconds that REST requests took (the documented spelling).",
    "rest_server_requests_in_progress": "REST requests that are being answered.",
    "grpc_server_started": "gRPC calls begun.",
    "grpc_server_handled": "gRPC calls ended, by code.",
    "grpc_server_handling_seconds": "Seconds that gRPC calls took.",
    "grpc_server_msg_received": "Messages that came in on gRPC streams.",
    "grpc_server_msg_sent": "Messages that went out on gRPC streams.",
    **STREAM_SERIES,
    **BATCH_SERIES,
}

_MODEL = ("model", "version")
_MODEL_LONG = ("model_name", "model_version")
_REST = ("app_name", "method", "path", "status_code")
_GRPC = ("grpc_type", "grpc_service", "grpc_method")

_DEPTHS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_REST_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))

_GrpcKey = tuple[str, str, str]


class _Answers:
    """What became of one model's requests."""

    __slots__ = ("failed", "ok", "seconds")

    def __init__(self) -> None:
        self.ok = self.failed = 0
        self.seconds = 0.0


class _Calls:
    """What became of the calls of one gRPC method."""

    __slots__ = ("codes", "received", "seconds", "sent", "started")

    def __init__(self) -> None:
        self.started = self.received = self.sent = 0
        self.codes: dict[str, int] = {}
        self.seconds = Tally(SECONDS)


class _Page(NamedTuple):
    """What prometheus_client writes as text."""

    families: Iterator[Metric]

    def collect(self) -> Iterator[Metric]:
        return self.families


class _Custom:
    """One metric that a model's code made."""

    __slots__ = ("description", "tallies")

    def __init__(self, description: str) -> None:
        self.description = description
        self.tallies: dict[tuple[str, str], Tally] = {}


class Metrics(Collector):
    """The figures of one server. Not for use from several threads; never raises on what a model sends.

    `registry` is the server's own: other rooms may register further collectors there, nothing is global.
    """

    def __init__(self, app_name: str = "mlserve", rest_prefix: str = "rest_server") -> None:
        self.app_name = app_name
        self.rest_prefix = rest_prefix
        self.registry = CollectorRegistry(auto_describe=False)
        self.model_values = ModelValues()
        self.batched: Callable[[], Iterable[tuple[str, str, Batched]]] = (
            tuple  # models with batching: set by the server
        )
        self._models: dict[tuple[str, str], _Answers] = {}
        self._answers: dict[tuple[str, str | None], _Answers] = {}  # The same ones, by what was asked for.
        self._batches: dict[tuple[str, str], Tally] = {}
        self._parallel = Tally(_DEPTHS)
        self._streams = StreamMetrics()
        self._restarts: dict[tuple[str, str], int] = {}
        self._rest: dict[tuple[str, str, int], Tally] = {}
        self._in_progress: dict[str, int] = {}
        self._grpc: dict[_GrpcKey, _Calls] = {}
        self._custom: dict[str, _Custom] = {}
        self._refused: set[str] = set()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    # -- models -------------------------------------------------------------------------------------------------------

    def infer_done(self, model: str, version: str | None, seconds: float, ok: bool) -> None:
        """Counts one inference. `version` is the one that was asked for: None shows as `None`, as on MLServer."""
        answers = self._answers.get((model, version))
        if answers is None:
            answers = self._models.setdefault((model, str(version)), _Answers())
            self._answers[model, version] = answers
        if ok:
            answers.ok += 1
        else:
            answers.failed += 1
        answers.seconds += seconds

    def batch_queue(self, model: str, version: str | None, depth: int) -> None:
        """Notes how many requests of a model wait to be batched."""
        key = (model, version or "")
        tally = self._batches.get(key)
        if tally is None:
            tally = self._batches[key] = Tally(_DEPTHS)
        tally.add(depth)

    def parallel_queue(self, depth: int) -> None:
        """Notes how many calls wait for a worker process."""
        self._parallel.add(depth)

    def stream_opened(self, model: str, version: str | None, began: float | None = None) -> Flow:
        """Begins to count one streamed call, beside `infer_done`; the `ended` of what it gives must follow."""
        return self._streams.opened(model, version, began)

    def worker_restarted(self, pool: str, reason: str) -> None:
        """Counts a worker process that ended: `died`, `stuck`, or whatever else led to it."""
        self._restarts[pool, reason] = self._restarts.get((pool, reason), 0) + 1

    # -- REST ---------------------------------------------------------------------------------------------------------

    def rest_started(self, method: str) -> None:
        """Counts a request as being answered; `rest_done` must follow."""
        if method in _REST_METHODS:
            self._in_progress[method] = self._in_progress.get(method, 0) + 1

    def rest_done(self, method: str, path: str, status: int, seconds: float) -> None:
        """Counts a request that was answered. `path` is the route's template, never what a client made up."""
        tally = self._rest.get((method, path, status))
        if tally is None:
            if method not in _REST_METHODS:
                return  # A label for each method that a client can think of would fill the memory.
            tally = self._rest[method, path, status] = Tally(SECONDS)
        tally.add(seconds)
        self._in_progress[method] -= 1

    # -- gRPC ---------------------------------------------------------------------------------------------------------

    def grpc_started(self, kind: str, service: str, method: str) -> None:
        """Counts a call of a method that exists. `kind` is UNARY, BIDI_STREAMING and so on."""
        self._grpc_calls((kind, service, method)).started += 1

    def grpc_done(self, kind: str, service: str, method: str, code: str, seconds: float) -> None:
        """Counts a call that ended, with its code by name, such as `NOT_FOUND`."""
        calls = self._grpc_calls((kind, service, method))
        calls.codes[code] = calls.codes.get(code, 0) + 1
        calls.seconds.add(seconds)

    def grpc_received(self, kind: str, service: str, method: str) -> None:
        """Counts one message that came in on a stream."""
        self._grpc_calls((kind, service, method)).received += 1

    def grpc_sent(self, kind: str, service: str, method: str) -> None:
        """Counts one message that went out on a stream."""
        self._grpc_calls((kind, service, method)).sent += 1

    def _grpc_calls(self, key: _GrpcKey) -> _Calls:
        calls = self._grpc.get(key)
        if calls is None:
            calls = self._grpc[key] = _Calls()
        return calls

    # -- metrics of the models' own -----------------------------------------------------------------------------------

    def register_custom(self, name: str, description: str) -> None:
        """Makes a model's own histogram known; a second description for the same name is ignored."""
        if name in self._custom or not self._is_free(name):
            return
        self._custom[name] = _Custom(description)

    def observe_custom(self, model_name: str, model_version: str, values: Mapping[str, float]) -> None:
        """Adds values to a model's own histograms, making those that are not known yet."""
        for name, value in values.items():
            custom = self._custom.get(name)
            if custom is None:
                self.register_custom(name, f"Custom metric {name}")
                custom = self._custom.get(name)
                if custom is None:
                    continue
            tally = custom.tallies.get((model_name, model_version))
            if tally is None:
                tally = custom.tallies[model_name, model_version] = Tally(COMMON)
            tally.add(value)

    def _is_free(self, name: str) -> bool:
        if name in self._refused:
            return False
        reason = ""
        if not _NAME.match(name):
            reason = "a name has letters, digits, underscores and colons, and does not start with a digit"
        elif name.removesuffix("_total") in {self._named(series) for series in SERIES}:
            reason = "the server has a series of that name"
        if reason:
            self._refused.add(name)  # One warning for each name, not one for each request.
            logger.warning("custom metric %r is left out: %s", name, reason)
        return not reason

    # -- the scrape ---------------------------------------------------------------------------------------------------

    def read(self) -> list[Metric]:
        """The server's own figures, as they are now."""
        return list(self.registry.collect())

    def write(self, own: list[Metric], accept: str = "") -> tuple[bytes, str]:
        """The page with these figures and those of the models, and its content type.

        Prometheus' text form, or OpenMetrics where the Accept header asks for it. It may take its time, in a thread of
        its own: models may have many series, and collectors that wait.
        """
        encode, content_type = choose_encoder(accept)
        page = _Page(self._families(own))
        if "openmetrics" in content_type:
            return encode(page), content_type
        return generate_latest(page), CONTENT_TYPE_LATEST

    def _families(self, own: list[Metric]) -> Iterator[Metric]:
        """All that is on the page: the server's own, then the models' that have other names."""
        yield from own
        taken = {family.name.removesuffix("_total") for family in own}
        for family in self.model_values.collect():
            if family.name.removesuffix("_total") not in taken:
                yield family
            elif family.name not in self._refused:
                self._refused.add(family.name)
                logger.warning("metric %r of a model is left out: the server has one of that name", family.name)

    def collect(self) -> Iterator[Metric]:
        """All families, as prometheus_client wants them."""
        yield from self._collect_models()
        yield from self._streams.collect()
        yield from collect_batches(self.batched())
        yield from self._collect_rest()
        yield from self._collect_grpc()
        for name, custom in list(self._custom.items()):
            family = HistogramMetricFamily(name, custom.description, labels=_MODEL_LONG)
            for labels, tally in custom.tallies.items():
                tally.into(family, labels)
            yield family

    def _named(self, series: str) -> str:
        return self.rest_prefix + series[len("rest_server") :] if series.startswith("rest_server") else series

    def _counter(self, series: str, labels: Sequence[str]) -> CounterMetricFamily:
        return CounterMetricFamily(self._named(series), SERIES[series], labels=labels)

    def _histogram(self, series: str, labels: Sequence[str]) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._named(series), SERIES[series], labels=labels)

    def _collect_models(self) -> Iterator[Metric]:
        success = self._counter("model_infer_request_success", _MODEL)
        failure = self._counter("model_infer_request_failure", _MODEL)
        name = "model_infer_request_duration"
        duration = SummaryMetricFamily(name, SERIES[name], labels=_MODEL)
        for labels, answers in self._models.items():
            success.add_metric(labels, answers.ok)
            failure.add_metric(labels, answers.failed)
            duration.add_metric(labels, answers.ok + answers.failed, answers.seconds)
        batches = self._histogram("batch_request_queue", _MODEL_LONG)
        for labels, tally in self._batches.items():
            tally.into(batches, labels)
        parallel = self._histogram("parallel_request_queue", ())
        self._parallel.into(parallel, ())
        restarts = self._counter("worker_restarts", ("pool", "reason"))
        for labels, count in self._restarts.items():
            restarts.add_metric(labels, count)
        yield from (success, failure, duration, batches, parallel, restarts)

    def _collect_rest(self) -> Iterator[Metric]:
        requests = self._counter("rest_server_requests", _REST)
        duration = self._histogram("rest_server_request_duration_seconds", _REST)
        documented = self._histogram("rest_server_requests_duration_seconds", _REST)
        for (method, path, status), tally in self._rest.items():
            labels = (self.app_name, method, path, str(status))
            requests.add_metric(labels, tally.count)
            tally.into(duration, labels)
            tally.into(documented, labels, buckets_only=True)  # The rest would be double in sums over `rest_server_.*`.
        name = "rest_server_requests_in_progress"
        in_progress = GaugeMetricFamily(self._named(name), SERIES[name], labels=("app_name", "method"))
        for method, count in self._in_progress.items():
            in_progress.add_metric((self.app_name, method), count)
        yield from (requests, duration, documented, in_progress)

    def _collect_grpc(self) -> Iterator[Metric]:
        started = self._counter("grpc_server_started", _GRPC)
        handled = self._counter("grpc_server_handled", (*_GRPC, "grpc_code"))
        seconds = self._histogram("grpc_server_handling_seconds", _GRPC)
        received = self._counter("grpc_server_msg_received", _GRPC)
        sent = self._counter("grpc_server_msg_sent", _GRPC)
        for labels, calls in self._grpc.items():
            started.add_metric(labels, calls.started)
            calls.seconds.into(seconds, labels)
            for code, count in calls.codes.items():
                handled.add_metric((*labels, code), count)
            if labels[0] != "UNARY":
                received.add_metric(labels, calls.received)
                sent.add_metric(labels, calls.sent)
        yield from (started, handled, seconds, received, sent)
