"""One round of load on one server, and what rounds add up to.

Rounds of different servers alternate, so that a busy minute of the machine hits all alike. Figures are medians over a
server's rounds; a ratio is the median of the ratios between rounds that ran next to each other.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from load import Load, LoadError, Outcome, Plan
from oip import Call
from servers import Server

__all__ = ["Cell", "Sample", "measure", "take_turns"]

_IDLE_SHARE = 0.03  # of a processor: what a server that nobody asks may take before it is worth a word


@dataclass(frozen=True)
class Sample:
    """One round."""

    rps: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float  # per call, of the server's whole process tree
    main_cpu_ms: float  # the part of the process that was started: the rest is workers
    calls: int
    client_share: float  # of one processor, by the load generator: near 1 means that it was the limit


@dataclass
class Cell:
    """All rounds of one kind of call, by server."""

    title: tuple[str, ...]
    samples: dict[str, list[Sample]]

    def median(self, key: str, figure: str) -> float:
        """Over the rounds of one server."""
        return statistics.median(self._figures(key, figure))

    def spread(self, key: str, figure: str) -> float:
        """Half the distance between the best and the worst round, as a share of the median."""
        values = self._figures(key, figure)
        return (max(values) - min(values)) / 2 / self.median(key, figure)

    def ratio(self, ours: str, theirs: str, figure: str) -> float:
        """Our figure divided by theirs, median over pairs of neighbouring rounds."""
        pairs = zip(self._figures(ours, figure), self._figures(theirs, figure), strict=True)
        return statistics.median(our / max(their, 1e-9) for our, their in pairs)

    def _figures(self, key: str, figure: str) -> list[float]:
        return [float(getattr(sample, figure)) for sample in self.samples[key]]

    def as_dict(self) -> dict[str, Any]:
        """For the results file."""
        return {
            "title": list(self.title),
            "rounds": {key: [asdict(sample) for sample in samples] for key, samples in self.samples.items()},
        }


def measure(
    server: Server,
    call: Call,
    *,
    idle: Sequence[Server] = (),
    connections: int = 1,
    streams: int = 1,
    seconds: float = 2.0,
    least_calls: int = 0,
) -> Sample:
    """One round. `idle` are the servers that are up but not asked; LoadError if an answer is wrong."""
    plan = Plan(server.call(call), server.port(call.transport), connections, streams, seconds, least_calls=least_calls)
    try:
        outcome, main_cpu, cpu = _loaded(server, plan, idle)
    except LoadError as error:
        raise LoadError(f"{server.peer.label}, {call.path}: {error}") from None
    return Sample(
        rps=outcome.calls / outcome.elapsed_seconds,
        p50_ms=outcome.p50_ms,
        p99_ms=outcome.p99_ms,
        cpu_ms=cpu * 1e3 / outcome.calls,
        main_cpu_ms=main_cpu * 1e3 / outcome.calls,
        calls=outcome.calls,
        client_share=outcome.client_cpu_seconds / outcome.elapsed_seconds,
    )


def _loaded(server: Server, plan: Plan, idle: Sequence[Server]) -> tuple[Outcome, float, float]:
    """What the load found, and the processor seconds of the server's main process and of its tree meanwhile."""
    with Load(plan) as load:
        idle_before, began = [other.cpu_seconds() for other in idle], time.perf_counter()
        main_before, before = server.main_cpu_seconds(), server.cpu_seconds()
        outcome = load.go()
        cpu, main_cpu = server.cpu_seconds() - before, server.main_cpu_seconds() - main_before
        _warn_of_idlers(idle, idle_before, time.perf_counter() - began)
    return outcome, main_cpu, cpu


def take_turns(
    titles: Sequence[tuple[str, ...]],
    keys: Callable[[tuple[str, ...]], Sequence[str]],
    one_round: Callable[[tuple[str, ...], str], Sample],
    rounds: int,
) -> list[Cell]:
    """Measure every server in every cell, A B then B A, `rounds` times."""
    cells = [Cell(title, {key: [] for key in keys(title)}) for title in titles]
    for number in range(rounds):
        for cell in cells:
            print(f"round {number + 1}/{rounds}: {' '.join(cell.title)}", file=sys.stderr, flush=True)
            order = list(cell.samples)
            for key in order if number % 2 == 0 else reversed(order):
                cell.samples[key].append(one_round(cell.title, key))
    return cells


def _warn_of_idlers(idle: Sequence[Server], before: Sequence[float], seconds: float) -> None:
    for server, cpu in zip(idle, before, strict=True):
        share = (server.cpu_seconds() - cpu) / seconds
        if share > _IDLE_SHARE:
            print(f"note: {server.peer.label} was not asked and used {share:.0%} of a processor", file=sys.stderr)
