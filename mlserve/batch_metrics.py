"""What is counted of batches, per model: their sizes, and what "auto" has found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from mlserve.auto_batching import Auto
from mlserve.tally import Tally

__all__ = ["BATCH_SERIES", "Batched", "collect_batches"]

BATCH_SERIES = {
    "batch_requests": "Requests that ran together.",
    "batch_auto_rows": "Rows that may run together, as found by measuring.",
    "batch_auto_wait_seconds": "Seconds that a request waits for others while a worker is idle, as found by measuring.",
    "batch_auto_held": "1 while target_latency_seconds is held by 99 of 100 requests, else 0.",
    "batch_auto_late": "Requests whose answers came later than target_latency_seconds.",
}
_MODEL = ("model_name", "model_version")


class Batched(Protocol):
    """The line of a model with batching."""

    @property
    def sizes(self) -> Tally: ...

    @property
    def auto(self) -> Auto | None: ...


def collect_batches(lines: Iterable[tuple[str, str, Batched]]) -> Iterator[Metric]:
    """The families, as prometheus_client wants them, for (model, version, its line)."""
    sizes = HistogramMetricFamily("batch_requests", BATCH_SERIES["batch_requests"], labels=_MODEL)
    late = CounterMetricFamily("batch_auto_late", BATCH_SERIES["batch_auto_late"], labels=_MODEL)
    names = ("batch_auto_rows", "batch_auto_wait_seconds", "batch_auto_held")
    gauges = [GaugeMetricFamily(name, BATCH_SERIES[name], labels=_MODEL) for name in names]
    for model, version, line in lines:
        labels = (model, version)
        line.sizes.into(sizes, labels)
        auto = line.auto
        if auto is not None:
            late.add_metric(labels, auto.late_calls)
            for gauge, value in zip(gauges, (auto.rows, auto.wait_seconds, float(auto.is_held))):
                gauge.add_metric(labels, value)
    yield from (sizes, *gauges, late)
