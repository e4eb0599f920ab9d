"""The metrics that models make with prometheus_client, of all workers, put together at the scrape.

Counters, histograms and summaries are sums over workers, those that have ended included. Of a gauge its
`multiprocess_mode` decides, as prometheus_client has it: by default each worker's value, labelled with its `pid`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from math import inf
from typing import Any

from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, REGISTRY
from prometheus_client.core import Metric

from mlserve.counted import Series

__all__ = ["ModelValues", "WorkerValues"]

_logger = logging.getLogger("mlserve.metrics")
_MOST_ENDED = 65536  # series of workers that have ended: labels whose values never end must not fill the memory

_Reading = tuple[float, float]  # a value, and when it was set where that matters
_Key = tuple[str, str, tuple[tuple[str, str], ...]]  # of one sample: family, name, labels

_TOGETHER: dict[str, Callable[[_Reading, _Reading], _Reading]] = {
    "": lambda one, other: (one[0] + other[0], 0.0),
    "sum": lambda one, other: (one[0] + other[0], 0.0),
    "min": min,
    "max": max,
    "mostrecent": lambda one, other: max(one, other, key=lambda reading: reading[1]),
    "all": lambda one, other: other,
}


class _Totals:
    """Values by what they count, as many as there may be."""

    def __init__(self, most: float = inf) -> None:
        self.values: dict[_Key, tuple[Series, _Reading]] = {}
        self._most = most
        self._has_warned = False

    def add(self, key: _Key, series: Series, reading: _Reading) -> None:
        known = self.values.get(key)
        if known is not None:
            reading = _TOGETHER[series.mode.removeprefix("live")](known[1], reading)
        elif len(self.values) >= self._most:
            self._warn(series)
            return
        self.values[key] = series, reading

    def _warn(self, series: Series) -> None:
        if not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "workers that have ended leave more than %d series of models' metrics: what %s and others counted with "
                "further labels is not kept; give labels few values",
                self._most,
                series.family,
            )


class WorkerValues:
    """The values of one worker. `close` it at the worker's end; the memory may go then."""

    def __init__(self, owner: ModelValues, pid: int, memory: Any) -> None:
        self._owner = owner
        self._pid = pid
        self._cells = memoryview(memory).cast("B").cast("d")
        self._series: list[tuple[_Key, Series, int]] = []

    def add(self, cell: int, series: Series) -> None:
        """Takes what a worker says of one of its cells."""
        labels = dict(series.labels)
        if series.mode in ("all", "liveall"):
            labels["pid"] = str(self._pid)
        self._series.append(((series.family, series.name, tuple(labels.items())), series, cell))

    def into(self, totals: _Totals, *, ended: bool = False) -> None:
        """Adds its values. Of a worker that has ended, gauges of live processes are left out, and those with a pid."""
        for key, series, cell in list(self._series):
            if not (ended and (series.mode.startswith("live") or series.mode == "all")):
                at = self._cells[cell + 1] if series.is_timed else 0.0
                totals.add(key, series, (self._cells[cell], at))

    def close(self) -> None:
        """The worker has ended."""
        self._owner.ended(self)
        self._cells.release()


class ModelValues:
    """The metrics of one server's models. `collect` may run in another thread than the rest."""

    def __init__(self) -> None:
        self.in_process: Callable[[], bool] = lambda: False  # whether models run in this process: set by the server
        self._workers: list[WorkerValues] = []
        self._ended = _Totals(_MOST_ENDED)
        self._lock = threading.Lock()  # held while cells are read, and while they go

    def of_worker(self, pid: int, memory: Any) -> WorkerValues:
        """The place of a worker that has just been started."""
        values = WorkerValues(self, pid, memory)
        self._workers.append(values)
        return values

    def ended(self, worker: WorkerValues) -> None:
        """Keeps what a worker has counted."""
        with self._lock:
            self._workers.remove(worker)
            worker.into(self._ended, ended=True)

    def collect(self) -> Iterator[Metric]:
        """All families, as prometheus_client wants them."""
        totals = _Totals()
        with self._lock:
            totals.values.update(self._ended.values)
            for worker in list(self._workers):
                worker.into(totals)
        found = _families(totals.values.items())
        for family in _of_this_process() if self.in_process() else ():
            found[family.name] = _merged(found[family.name], family) if family.name in found else family
        yield from found.values()


def _families(values: Iterable[tuple[_Key, tuple[Series, _Reading]]]) -> dict[str, Metric]:
    kinds: dict[str, Series] = {}
    groups: dict[str, dict[frozenset[tuple[str, str]], list[tuple[str, dict[str, str], float]]]] = {}
    for (family, name, labels), (series, (value, _)) in values:
        if kinds.setdefault(family, series).kind != series.kind:
            continue  # a model has changed its mind, and is in workers with both
        own = frozenset(label for label in labels if label[0] != "le")
        groups.setdefault(family, {}).setdefault(own, []).append((name, dict(labels), value))
    return {family: _family(kinds[family], groups[family].values()) for family in groups}


def _family(first: Series, groups: Iterable[list[tuple[str, dict[str, str], float]]]) -> Metric:
    family = Metric(first.family, first.description, first.kind)
    for group in groups:
        for sample in _cumulative(first.family, group) if first.kind == "histogram" else group:
            family.add_sample(*sample)
    return family


def _cumulative(
    family: str, group: list[tuple[str, dict[str, str], float]]
) -> Iterator[tuple[str, dict[str, str], float]]:
    """One histogram: its buckets in order, each with those below it, and what follows from them."""
    buckets = sorted((one for one in group if "le" in one[1]), key=lambda one: float(one[1]["le"]))
    count = 0.0
    for name, labels, value in buckets:
        count += value
        yield name, labels, count
    own = {name: value for name, value in group[0][1].items() if name != "le"}
    yield f"{family}_count", own, count
    yield from (one for one in group if "le" not in one[1])


# -- models that run in the server's process ---------------------------------------------------------------------------


@cache
def _of_every_process() -> frozenset[str]:
    """Families that the server has in a registry of its own."""
    collectors = (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR)
    return frozenset(family.name for collector in collectors for family in collector.collect())


def _of_this_process() -> list[Metric]:
    """What is in prometheus_client's own registry. Collectors in it are code of models, and may fail."""
    try:
        return [family for family in REGISTRY.collect() if family.name not in _of_every_process()]
    except Exception:
        _logger.exception("the metrics that models have made with prometheus_client are left out: a collector failed")
        return []


def _merged(family: Metric, other: Metric) -> Metric:
    """The same metric, of worker processes and of this one."""
    merged = Metric(family.name, family.documentation, family.type)
    values = {(one.name, tuple(sorted(one.labels.items()))): one for one in family.samples}
    for one in other.samples:
        key = (one.name, tuple(sorted(one.labels.items())))
        known = values.get(key)
        values[key] = one if known is None or family.type == "gauge" else one._replace(value=known.value + one.value)
    merged.samples = [one for one in values.values() if not one.name.endswith("_created")]
    return merged
