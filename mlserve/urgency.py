"""Which of the calls that wait for company has to begin first, since its time would be over otherwise."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from mlserve.calls import Call

_STALE = 64  # entries of calls that are gone, beyond as many as wait; so that removing takes no time


class Urgency:
    """The waiting calls of one line that have a deadline, the one first that has to begin first."""

    __slots__ = ("_calls", "_heap", "_last", "_numbers")

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}  # those that wait, by a number of their own
        self._numbers: dict[Call, int] = {}
        self._heap: list[tuple[float, int]] = []  # when each has to begin, also of calls that are gone
        self._last = 0

    def add(self, call: Call, expected_seconds: float | None) -> None:
        """A call with a deadline has come; `expected_seconds` is what it will take, if that is known.

        It is to begin when half of its time is over, at the latest: the rest is for running.
        """
        assert call.deadline is not None
        latest = (call.arrived_at + call.deadline) / 2
        if expected_seconds is not None:
            latest = max(call.arrived_at, min(latest, call.deadline - expected_seconds))
        self._last += 1
        self._calls[self._last] = call
        self._numbers[call] = self._last
        heappush(self._heap, (latest, self._last))

    def discard(self, call: Call) -> None:
        """A call waits no more; nothing of it is kept."""
        number = self._numbers.pop(call, None)
        if number is None:
            return
        del self._calls[number]
        if not self._calls:
            self._heap.clear()
        elif len(self._heap) > 2 * len(self._calls) + _STALE:
            self._heap = [one for one in self._heap if one[1] in self._calls]
            heapify(self._heap)

    def first(self, now: float) -> tuple[float, Call] | None:
        """Until when the most urgent call can wait, and the call; None where none has a deadline still to come."""
        heap = self._heap
        while heap:
            latest, number = heap[0]
            call = self._calls.get(number)
            if call is not None and call.deadline is not None and call.deadline > now:
                return latest, call
            heappop(heap)
        return None
