"""A simulated timeline: calls arrive, workers take batches from a real line, and each batch costs what a formula says."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from math import exp

from mlserve.batching import Line, Rule
from mlserve.calls import Batch, Call
from mlserve.types import InferenceRequest, RequestInput

OVERHEAD = 0.0004  # seconds between worker and server, for each batch

COSTS: dict[str, Callable[[int], float]] = {
    "constant": lambda rows: 0.010,
    "affine": lambda rows: 0.005 + 0.0005 * rows,
    "linear": lambda rows: 0.001 * rows,
    "root": lambda rows: 0.004 * rows**0.5,
    "knee": lambda rows: 0.005 + 0.0003 * rows + 0.00005 * max(0, rows - 32) ** 2,
}


class Outcome:
    """What became of the calls, in order of their answers."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.arrived: list[float] = []
        self.batches: list[int] = []  # rows of each
        self.busy_seconds = 0.0  # of all workers

    def quantile(self, share: float, since: int = 0) -> float:
        ordered = sorted(self.seconds[since:])
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def late(self, target: float) -> float:
        return sum(1 for one in self.seconds if one > target) / len(self.seconds)


def arrivals(rate: Callable[[float], float], seconds: float, seed: int = 2) -> list[tuple[float, int]]:
    """One row at a time, by chance, so many per second."""
    chance, now, found = random.Random(seed), 0.0, []
    while (now := now + chance.expovariate(max(rate(now), 0.01))) < seconds:
        found.append((now, 1))
    return found


def burst(at: float, calls: int) -> list[tuple[float, int]]:
    return [(at, 1)] * calls


def simulate(
    line: Line | Rule,
    coming: list[tuple[float, int]],
    cost: Callable[[int], float],
    workers: int = 1,
    pauses: float = 0.0,
    seed: int = 1,
) -> Outcome:
    """Lets the calls (when, rows) come. A share of `pauses` of the batches takes 0.2 s longer."""
    line = Line(line) if isinstance(line, Rule) else line
    chance, order, outcome = random.Random(seed), itertools.count(), Outcome()
    idle = workers
    events: list[tuple[float, int, object]] = [(at, next(order), _call(at, rows)) for at, rows in sorted(coming)]
    while events:
        now, _, what = heapq.heappop(events)
        if isinstance(what, Call):
            line.add(what)
        elif isinstance(what, Batch):
            idle += 1
            line.ended(what, now, workers)
            outcome.arrived += [call.arrived_at for call in what.calls]
            outcome.seconds += [now - call.arrived_at for call in what.calls]
        while idle and (calls := line.take(now)):
            batch = Batch(calls, now)
            rows = sum(call.request.inputs[0].shape[0] for call in calls)
            batch.busy_seconds = cost(rows) * exp(chance.gauss(0, 0.05)) + 0.2 * (chance.random() < pauses)
            heapq.heappush(events, (now + batch.busy_seconds + OVERHEAD, next(order), batch))
            idle -= 1
            outcome.busy_seconds += batch.busy_seconds
            outcome.batches.append(rows)
        if idle and line.look_again_at is not None:
            heapq.heappush(events, (line.look_again_at, next(order), None))
    assert not len(line) and len(outcome.seconds) == len(coming)
    return outcome


def simulate_awaiting(
    line: Line | Rule,
    coming: list[tuple[float, int]],
    cost: Callable[[int], float],
    side_by_side: int = 1,
    again_until: float = 0.0,
    seed: int = 1,
) -> Outcome:
    """The same with one worker that takes any number of batches, since its model awaits something.

    What it awaits runs so many batches `side_by_side`, the others wait in order. Until `again_until` each call that is
    answered is followed by another one, so that there are always as many clients.
    """
    line = Line(line) if isinstance(line, Rule) else line
    chance, order, outcome = random.Random(seed), itertools.count(), Outcome()
    inside: deque[Batch] = deque()  # in the worker, not begun
    running = 0
    sent: set[Batch] = set()
    events: list[tuple[float, int, object]] = [(at, next(order), _call(at, rows)) for at, rows in sorted(coming)]
    while events:
        now, _, what = heapq.heappop(events)
        if isinstance(what, Call):
            line.add(what)
        elif isinstance(what, Batch):
            running -= 1
            sent.discard(what)
            what.busy_seconds = now - what.sent_at
            line.ended(what, now, 1)
            outcome.arrived += [call.arrived_at for call in what.calls]
            outcome.seconds += [now - call.arrived_at for call in what.calls]
            if now < again_until:
                for call in what.calls:
                    at = now + 0.001 * chance.random()
                    heapq.heappush(events, (at, next(order), _call(at, call.rows)))
        while calls := line.take(now, outcome if sent else None):
            batch = calls[0].batch = Batch(calls, now)
            calls[0].waiting = True
            line.sent(calls, outcome)
            sent.add(batch)
            inside.append(batch)
            outcome.batches.append(batch.rows)
        while inside and running < side_by_side:
            batch = inside.popleft()
            running += 1
            seconds = cost(batch.rows) * exp(chance.gauss(0, 0.05))
            outcome.busy_seconds += seconds
            heapq.heappush(events, (now + seconds, next(order), batch))
        if line.look_again_at is not None:
            heapq.heappush(events, (line.look_again_at, next(order), None))
    assert not len(line) and not line._flights.get(outcome)
    return outcome


def _call(at: float, rows: int) -> Call:
    tensor = RequestInput(name="x", shape=[rows, 1], datatype="FP32", data=[])
    call = Call(1, InferenceRequest(inputs=[tensor]), "json", lambda: None)  # type: ignore[arg-type, return-value]
    call.arrived_at = at
    return call
