"""Counts the answers of one round of load, and says when to stop asking."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

__all__ = ["Tally"]

_MAX_ERRORS = 100  # past it the round ends: nobody reads the figures of such a run


class Tally:
    """One round: latencies and errors of all connections, until the deadline and the least number of calls."""

    def __init__(self) -> None:
        self.latencies: list[float] = []  # seconds
        self.errors: Counter[str] = Counter()
        self.elapsed = 0.0  # seconds from `begin` to the last answer
        self._began = self._deadline = 0.0
        self._least_calls = 0
        self._asking = 0  # callers that still have a call under way
        self._finished: asyncio.Future[None] | None = None

    def begin(self, seconds: float, least_calls: int, callers: int) -> None:
        """Start a round of that many callers, each with one call under way at a time. Keeps the errors."""
        self.latencies = []
        self._began = time.perf_counter()
        self._deadline = self._began + seconds
        self._least_calls = least_calls
        self._asking = callers
        self._finished = asyncio.get_running_loop().create_future()

    def answered(self, started: float, error: str | None) -> bool:
        """Count the answer to a call that was sent at `started`. Returns whether its caller shall send another one."""
        now = time.perf_counter()
        if error is None:
            self.latencies.append(now - started)
        else:
            self.errors[error] += 1
        if (now < self._deadline or len(self.latencies) < self._least_calls) and not self._hopeless():
            return True
        self._leave(1)
        return False

    def lost(self, callers: int, error: str) -> None:
        """Count callers that get no answer any more: their connection is gone."""
        self.errors[error] += max(callers, 1)
        self._leave(callers)

    async def finish(self, timeout_seconds: float) -> None:
        """Wait until every caller has its last answer; callers without one by then are counted as errors."""
        assert self._finished is not None
        try:
            await asyncio.wait_for(self._finished, timeout_seconds)
        except asyncio.TimeoutError:  # on Python 3.10 not the built-in one
            self.errors[f"no answer within {timeout_seconds:.0f} s"] += self._asking
        self.elapsed = time.perf_counter() - self._began

    def _hopeless(self) -> bool:
        return self.errors.total() >= _MAX_ERRORS

    def _leave(self, callers: int) -> None:
        self._asking -= callers
        if self._asking <= 0 and self._finished is not None and not self._finished.done():
            self._finished.set_result(None)
