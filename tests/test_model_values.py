"""What models count with prometheus_client: of several workers one page, of which Prometheus reads every line."""

from __future__ import annotations

import logging
import struct

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from mlserve import model_values
from mlserve.counted import Series
from mlserve.metrics import Metrics
from mlserve.model_values import WorkerValues
from tests.test_metrics import samples_of, types_of, value_of

HITS = Series("counter", "hits", "hits_total", {"model": "m"}, "Hits.")


def gauge(mode: str, name: str = "level") -> Series:
    return Series("gauge", name, name, {}, "How high.", mode)


class Worker:
    """A worker's end of it: cells, and what is said of them."""

    def __init__(self, metrics: Metrics, pid: int) -> None:
        self.cells = bytearray(8 * 64)
        self.values: WorkerValues = metrics.model_values.of_worker(pid, self.cells)
        self._used = 0

    def has(self, series: Series, value: float, at: float = 0.0) -> None:
        struct.pack_into("dd", self.cells, 8 * self._used, value, at)
        self.values.add(self._used, series)
        self._used += 2


def test_counters_are_sums_over_workers_and_outlive_them() -> None:
    metrics = Metrics()
    one, two = Worker(metrics, 1), Worker(metrics, 2)
    one.has(HITS, 3)
    two.has(HITS, 4)
    assert value_of(metrics, "hits_total", model="m") == 7
    one.values.close()
    struct.pack_into("d", one.cells, 0, 100)
    assert value_of(metrics, "hits_total", model="m") == 7
    again = Worker(metrics, 3)
    again.has(HITS, 2)
    assert value_of(metrics, "hits_total", model="m") == 9
    for worker in (two, again):
        worker.values.close()
    assert value_of(metrics, "hits_total", model="m") == 9
    assert types_of(metrics)["hits_total"] == "counter"


def test_known_series_go_on_where_ended_workers_have_left_too_many(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model_values, "_MOST_ENDED", 2)
    metrics = Metrics()
    for pid in range(4):
        worker = Worker(metrics, pid)
        worker.has(HITS, 5)
        worker.has(Series("counter", "hits", "hits_total", {"model": f"user-{pid}"}, "Hits."), 1)
        worker.values.close()
    assert value_of(metrics, "hits_total", model="m") == 20
    assert value_of(metrics, "hits_total", model="user-0") == 1
    assert len([record for record in caplog.records if "give labels few values" in record.message]) == 1


@pytest.mark.parametrize(
    ("mode", "of_both", "of_the_dead"),
    [
        ("all", {"1": 5, "2": 3}, {"2": 3}),
        ("liveall", {"1": 5, "2": 3}, {"2": 3}),
        ("sum", 8, 8),
        ("livesum", 8, 3),
        ("max", 5, 5),
        ("livemax", 5, 3),
        ("min", 3, 3),
        ("mostrecent", 5, 5),
        ("livemostrecent", 5, 3),
    ],
)
def test_gauges_become_one_as_they_say(mode: str, of_both: object, of_the_dead: object) -> None:
    def shown() -> object:
        found = {dict(key[1]).get("pid"): value for key, value in samples_of(metrics).items() if key[0] == "level"}
        return found.get(None, found)

    metrics = Metrics()
    one, two = Worker(metrics, 1), Worker(metrics, 2)
    one.has(gauge(mode), 5, at=20)
    two.has(gauge(mode), 3, at=10)
    assert shown() == of_both
    one.values.close()
    assert shown() == of_the_dead


def test_histograms_add_up_bucket_by_bucket() -> None:
    metrics = Metrics()
    for pid, values in ((1, (1, 2, 0)), (2, (0, 1, 5))):
        worker = Worker(metrics, pid)
        worker.has(Series("histogram", "spent", "spent_sum", {"model": "m"}, "Seconds."), 0.5)
        for bound, value in zip(("0.5", "10.0", "+Inf"), values):
            worker.has(Series("histogram", "spent", "spent_bucket", {"model": "m", "le": bound}, "Seconds."), value)
    buckets = [value_of(metrics, "spent_bucket", model="m", le=bound) for bound in ("0.5", "10.0", "+Inf")]
    assert buckets == [1, 4, 9]
    assert value_of(metrics, "spent_count", model="m") == 9
    assert value_of(metrics, "spent_sum", model="m") == 1
    families = {
        family.name: family
        for family in parse_openmetrics(metrics.write(metrics.read(), "application/openmetrics-text")[0].decode())
    }
    assert families["spent"].type == "histogram"


def test_a_name_of_the_server_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    metrics.register_custom("rows", "Rows, by mlserve.log")
    worker = Worker(metrics, 1)
    for name in ("process_cpu_seconds", "rest_server_requests", "rows"):
        worker.has(Series("counter", name, f"{name}_total", {}, "Of the model."), 1)
    worker.has(HITS, 1)
    with caplog.at_level(logging.WARNING):
        pages = [metrics.write(metrics.read())[0].decode() for _ in range(2)]
    assert "Of the model." not in pages[1] and "hits_total" in pages[1]
    assert len(caplog.records) == 3
    assert "metric 'rest_server_requests' of a model is left out" in caplog.text


def test_a_metric_that_is_of_two_kinds_does_not_break_the_page() -> None:
    metrics = Metrics()
    Worker(metrics, 1).has(gauge("sum"), 1)
    Worker(metrics, 2).has(Series("counter", "level", "level_total", {}, "How high."), 1)
    assert types_of(metrics)["level"] == "gauge"
    assert value_of(metrics, "level") == 1
