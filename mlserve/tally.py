"""A histogram in the making: plain counts, put into Prometheus' words when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from prometheus_client.core import HistogramMetricFamily

__all__ = ["COMMON", "SECONDS", "Tally"]

# prometheus_client's own bounds, and finer ones below: a small request takes less than a millisecond here.
COMMON = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
SECONDS = (0.0005, 0.001, 0.0025, *COMMON)


class Tally:
    """How many values fell under each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def into(self, family: HistogramMetricFamily, labels: Sequence[str], *, buckets_only: bool = False) -> None:
        buckets, seen = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts):
            seen += count
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), float(seen)))
        family.add_metric(labels, buckets, None if buckets_only else self.total)
