"""Which of the calls that wait for company has to begin first, since its time would be over otherwise."""

from __future__ import annotations

from collections.abc import Container
from heapq import heapify, heappop, heappush

from mlserve.calls import Call

_STALE = 64  # entries of calls that are gone, beyond as many as wait; so that removing takes no time


class Urgency:
    """The calls of one line that have a deadline, the one first that has to begin first."""

    __slots__ = ("_heap", "_number", "_waiting")

    def __init__(self, waiting: Container[Call]) -> None:
        self._waiting = waiting
        self._heap: list[tuple[float, int, Call]] = []
        self._number = 0  # so that no two calls are compared

    def add(self, call: Call, expected_seconds: float | None) -> None:
        """A call with a deadline has come; `expected_seconds` is what it will take, if that is known.

        It is to begin when half of its time is over, at the latest: the rest is for running.
        """
        assert call.deadline is not None
        latest = (call.arrived_at + call.deadline) / 2
        if expected_seconds is not None:
            latest = max(call.arrived_at, min(latest, call.deadline - expected_seconds))
        self._number += 1
        heappush(self._heap, (latest, self._number, call))

    def first(self, now: float) -> tuple[float, Call] | None:
        """Until when the most urgent call can wait, and the call; None where none has a deadline still to come."""
        heap = self._heap
        while heap:
            latest, _, call = heap[0]
            if call in self._waiting and call.deadline is not None and call.deadline > now:
                return latest, call
            heappop(heap)
        return None

    def tidy(self, waiting: int) -> None:
        """Forgets calls that are gone, if there are many."""
        if len(self._heap) > 2 * waiting + _STALE:
            self._heap = [one for one in self._heap if one[2] in self._waiting]
            heapify(self._heap)
