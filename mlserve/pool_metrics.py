"""The gauges of pools: workers that are up, calls that wait, shared memory. Read when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mlserve.pools import Pools

__all__ = ["PoolMetrics"]


class PoolMetrics(Collector):
    """Belongs in a server's registry."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def collect(self) -> Iterator[Metric]:
        """All families, as prometheus_client wants them."""
        workers = GaugeMetricFamily("workers_ready", "Worker processes that take calls.", labels=("pool",))
        waiting = GaugeMetricFamily("calls_waiting", "Calls that wait for a worker.", labels=("pool",))
        running = GaugeMetricFamily("calls_running", "Calls that workers have.", labels=("pool",))
        for pool in self._pools:
            workers.add_metric((pool.name,), len(pool.pids))
            waiting.add_metric((pool.name,), pool.waiting_count)
            running.add_metric((pool.name,), pool.running_count)
        memory = GaugeMetricFamily("slot_memory_bytes", "Shared memory for tensors.", labels=("state",))
        arena = self._pools.arena
        memory.add_metric(("lent",), arena.total_bytes - arena.free_bytes)
        memory.add_metric(("free",), arena.free_bytes)
        yield from (workers, waiting, running, memory)
