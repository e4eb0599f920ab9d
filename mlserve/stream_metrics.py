"""What is counted of streamed calls, per model: those that are open, their chunks, the time to the first one."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from mlserve.tally import SECONDS, Tally

__all__ = ["STREAM_SERIES", "Flow", "StreamMetrics"]

STREAM_SERIES = {
    "model_stream_open": "Streamed calls that are under way.",
    "model_stream_chunks": "Chunks that streamed calls gave.",
    "model_stream_first_chunk_seconds": "Seconds from a streamed call to its first chunk.",
}
_MODEL = ("model", "version")


class _Streams:
    """The streams of one model."""

    __slots__ = ("chunks", "first_chunk", "open")

    def __init__(self) -> None:
        self.open = self.chunks = 0
        self.first_chunk = Tally(SECONDS)


class Flow:
    """One streamed call. `ended` must follow."""

    __slots__ = ("_began", "_streams")

    def __init__(self, streams: _Streams, began: float) -> None:
        self._streams = streams
        self._began: float | None = began  # None once the first chunk has come
        streams.open += 1

    def came(self, chunks: int) -> None:
        """Counts chunks that came together."""
        self._streams.chunks += chunks
        if self._began is not None:
            self._streams.first_chunk.add(time.perf_counter() - self._began)
            self._began = None

    def ended(self) -> None:
        """The call is over, one way or another."""
        self._streams.open -= 1


class StreamMetrics:
    """The figures of all streams. Models are named as their callers named them, as in the series of unary calls."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], _Streams] = {}

    def opened(self, model: str, version: str | None, began: float | None = None) -> Flow:
        """Begins to count one streamed call, which began just now unless it is said when."""
        streams = self._models.setdefault((model, str(version or None)), _Streams())
        return Flow(streams, time.perf_counter() if began is None else began)

    def collect(self) -> Iterator[Metric]:
        """The families, as prometheus_client wants them."""
        opened, chunks, first = STREAM_SERIES
        gauge = GaugeMetricFamily(opened, STREAM_SERIES[opened], labels=_MODEL)
        counter = CounterMetricFamily(chunks, STREAM_SERIES[chunks], labels=_MODEL)
        histogram = HistogramMetricFamily(first, STREAM_SERIES[first], labels=_MODEL)
        for labels, streams in self._models.items():
            gauge.add_metric(labels, streams.open)
            counter.add_metric(labels, streams.chunks)
            streams.first_chunk.into(histogram, labels)
        yield from (gauge, counter, histogram)
