"""Finds out, from what it is told, how many rows shall run together and how long they wait, to hold a target latency.

Pure: no clock, no task. It is told of arrivals and of batches that ended, each with the time, and `decide` answers.
docs/batching.md explains the rules and where they come from.
"""

from __future__ import annotations

import math
from collections import deque

from mlserve.side_by_side import Flight, Turns

_SHARE = 0.9  # of the target is planned with: the way from and to the client is not measured
_SHARE_UNKNOWN = 0.25  # of the target, where not one batch has ended yet
_MOST_BESIDE = 0.5  # of the target is the most that calls wait for the end of batches that await something
_DEVIATIONS = 2.0  # mean deviations above the mean: what a batch hardly exceeds
_NEARLY = 0.9  # so much of the most rows per second is as good
_WORTH = 1.1  # so many times the rows per second of single rows make it worth to wait for company
_WEIGHT = 0.1  # of a new measurement, once there are some
_PAUSE_WEIGHT = 0.02
_LEAST_DISTANCE = 0.1  # of two sizes, in logarithms: 32768 and 32769 rows say nothing about 65536
_STEEPEST = 2.0  # beyond what was tried: twice the rows take four times as long at most
_FAMILIAR = 5  # measurements after which a size is known well
_FORGET_SECONDS = 60.0  # a size that was not used for so long is as if never tried
_RATE_SECONDS = 1.0  # of arrivals that the rate remembers, about
_LATE_SHARE = 0.01  # of the calls may be late: the target is meant for 99 of 100
_VERDICT_CALLS = 200  # whether it is held is said after so many calls
_VERDICT_SECONDS = 5.0  # and so much time


class _Size:
    """What is known of batches of about one size, in logarithms, so that one outlier moves a mean by little."""

    __slots__ = ("at_least", "count", "lately", "rows", "seconds", "seen_at")

    def __init__(self, rows: float, seconds: float) -> None:
        self.count = 0
        self.rows = rows
        self.seconds = seconds
        self.seen_at = 0.0
        self.lately: deque[float] = deque(maxlen=_FAMILIAR)  # when the last ones were measured
        self.at_least = -math.inf  # what smaller sizes take

    def likely(self, doubt_seconds: float) -> float:
        """The seconds, less what a pause may have had of them while there are few measurements."""
        if self.count >= _FAMILIAR or not doubt_seconds:
            return max(self.seconds, self.at_least)
        return max(math.log(max(math.exp(self.seconds) - doubt_seconds, 1e-6)), self.at_least)


class Cost:
    """Seconds that a batch takes in a worker, by its rows: what was measured for each power of two, lines between."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}
        self._points: list[_Size] = []  # the same, smallest first
        self._deviation = 0.0  # mean distance of what was measured from what was expected
        self._doubt_seconds = 0.0  # the most that familiar sizes took longer than expected, lately
        self.pause_seconds = 0.0  # that the machine takes in the middle of a batch, whatever its size; a mean

    @property
    def tried_rows(self) -> int:
        """About the largest size that is known; 0 without any."""
        return round(math.exp(self._points[-1].rows)) if self._points else 0

    def learn(self, now: float, rows: int, seconds: float) -> None:
        """A batch of so many rows took so long."""
        x, y = math.log(rows), math.log(max(seconds, 1e-6))
        size = self._sizes.setdefault((rows - 1).bit_length(), _Size(x, y))
        if self._points:
            expected = self._expected(x)
            surprise = min(max(y - expected, -1.0), 1.0)
            self._deviation += _WEIGHT * (abs(surprise) - self._deviation)
            if size.count >= _FAMILIAR:  # a pause of the machine is no news about this size
                pause = max(0.0, seconds - math.exp(expected + surprise))  # what is quicker than ever had none
                self.pause_seconds += _PAUSE_WEIGHT * (pause - self.pause_seconds)
                self._doubt_seconds = max(0.99 * self._doubt_seconds, seconds - math.exp(expected))
            y = expected + surprise
        size.count += 1
        size.seen_at = now
        size.lately.append(now)
        weight = max(1 / size.count, _WEIGHT)
        size.rows += weight * (x - size.rows)
        size.seconds += weight * (y - size.seconds)
        smallest = min(self._sizes)
        fresh = now - _FORGET_SECONDS
        self._sizes = {key: one for key, one in self._sizes.items() if one.seen_at > fresh or key == smallest}
        self._points = sorted(self._sizes.values(), key=lambda one: one.rows)
        self._correct_smaller(size)
        at_least = -math.inf
        for one in self._points:
            one.at_least = at_least
            if one.count >= _FAMILIAR:
                at_least = max(at_least, one.seconds)

    def _correct_smaller(self, size: _Size) -> None:
        """Fewer rows take no longer: what was measured of them before is out of date, such as a slow spell's."""
        if size.count >= _FAMILIAR:
            for one in self._points:
                if one.rows < size.rows and one.seen_at < size.lately[0]:
                    one.seconds = min(one.seconds, size.seconds)

    def seconds(self, rows: float) -> float:
        """What is to be expected. Beyond what was tried it goes on as before; below, as if nothing were saved."""
        return math.exp(self._expected(math.log(rows)))

    def at_worst(self, rows: float) -> float:
        """What a batch hardly exceeds."""
        return self.seconds(rows) * math.exp(_DEVIATIONS * self._deviation)

    def at_best(self, rows: float) -> float:
        """What it may turn out to be: sizes that were tried seldom have the benefit of the doubt."""
        return math.exp(self._expected(math.log(rows), self._doubt_seconds))

    def _expected(self, x: float, doubt: float = 0.0) -> float:
        points = self._points
        if x <= points[0].rows or len(points) == 1:
            return points[0].likely(doubt)
        after = next((place for place, one in enumerate(points) if one.rows >= x), len(points) - 1)
        left, right = points[after - 1], points[after]
        slope = (right.likely(doubt) - left.likely(doubt)) / max(right.rows - left.rows, _LEAST_DISTANCE)
        return right.likely(doubt) + (x - right.rows) * (slope if x <= right.rows else min(max(slope, 0.0), _STEEPEST))


class Auto:
    """Chooses the size of batches and the wait before them."""

    def __init__(self, target_seconds: float, most_rows: int = 0, *, patient: bool = False) -> None:
        self.target_seconds = target_seconds
        self.rows = 1  # so many run together at most
        self.wait_seconds = 0.0  # decided last
        self.calls = 0  # answered so far
        self.late_calls = 0  # of them later than the target
        self.is_held = True  # the last verdict
        self.cost = Cost()
        self.turns = Turns()  # whether batches of a model that awaits run side by side
        self._most_rows = most_rows or 1 << 30
        self._patient = patient
        self._room = _SHARE * target_seconds  # what is left of the target for waiting and running
        self._speeds = [(1, 0.0)]  # rows per second of all sizes up to `rows`, the smallest size first
        self._saves = False  # whether a large batch takes less time per row than a small one
        self._overhead = 0.0  # seconds between sending and answer that are not the worker's
        self._rate = 0.0  # rows per second that arrive
        self._arrived_at = -math.inf
        self._verdict = (0, 0, -math.inf)  # calls, late calls and time at the last one

    def __repr__(self) -> str:
        held = "held" if self.is_held else "not held"
        return f"<Auto {self.target_seconds:g} s {held}: up to {self.rows} rows, wait {self.wait_seconds:.4f} s>"

    @property
    def expected_seconds(self) -> float | None:
        """What a batch hardly exceeds, on its way to the worker and back included; None before the first one."""
        return self.cost.at_worst(self.rows) + self._overhead if self.cost.tried_rows else None

    # -- what happens -------------------------------------------------------------------------------------------------

    def arrived(self, now: float, rows: int) -> None:
        """A call has come."""
        self._rate = self.rate(now) + rows / _RATE_SECONDS
        self._arrived_at = now

    def rate(self, now: float) -> float:
        """Rows per second that arrive."""
        return self._rate * math.exp(min(0.0, self._arrived_at - now) / _RATE_SECONDS)

    def served(
        self,
        now: float,
        rows: int,
        busy_seconds: float,
        overhead_seconds: float,
        rest_seconds: float | None = None,
        passed_seconds: float = 0.0,
    ) -> None:
        """A batch has ended: the worker's time for it, and the other time between sending and answer.

        `rest_seconds`, if others of the model were ahead of it in the worker, is what those were to take yet; of them
        it passed some that take `passed_seconds`.
        """
        if rest_seconds is not None and self.cost.tried_rows:
            self.turns.ran_beside(busy_seconds, self.mean_seconds(rows), rest_seconds, passed_seconds)
            return  # part of what it took may be a wait for the others
        if self.cost.tried_rows:
            self.turns.ran_alone(now, busy_seconds, self.cost.seconds(rows))
        self.cost.learn(now, rows, busy_seconds)
        overhead = max(0.0, min(overhead_seconds, 2 * self._overhead + 0.001))  # the clocks are two
        self._overhead += _WEIGHT * (overhead - self._overhead)
        self._room = max(0.0, _SHARE * self.target_seconds - self._overhead)
        self._choose()

    def answered(self, now: float, calls: int, late_calls: int) -> None:
        """So many calls have their answers, of them so many later than the target."""
        self.calls += calls
        self.late_calls += late_calls
        calls_before, late_before, at = self._verdict
        if at == -math.inf:
            self._verdict = (0, 0, now)
        elif self.calls - calls_before >= _VERDICT_CALLS and now - at >= _VERDICT_SECONDS:
            self.is_held = self.late_calls - late_before <= _LATE_SHARE * (self.calls - calls_before)
            self._verdict = (self.calls, self.late_calls, now)

    def why_not_held(self, now: float, workers: int) -> str:
        """What is known, for somebody who can do something about it."""
        share = f"{100 * self.late_calls / max(1, self.calls):.0f} % of {self.calls} calls"
        return (
            f"the target of {self.target_seconds:g} s is not held ({share} were later): one row takes up to "
            f"{self.cost.at_worst(1):.3g} s, {self.rows} together {self.cost.seconds(self.rows):.3g} s, and "
            f"{self.rate(now):.3g} rows per second come for {workers} worker{'s' if workers > 1 else ''}"
        )

    # -- what follows -------------------------------------------------------------------------------------------------

    def decide(self, now: float, oldest_at: float, waiting_rows: int) -> tuple[int, float]:
        """How many rows may run together now, and how long the oldest call shall have waited before they do."""
        if not self.cost.tried_rows:
            return 1, 0.0
        rows = min(self.rows, waiting_rows)
        left = self._room - (now - oldest_at)
        if self.cost.at_worst(rows) > left:
            rows = self._in_time(rows, left)
        if self._patient:
            self.wait_seconds = self._wait(now)
        return rows, self.wait_seconds

    def mean_seconds(self, rows: int) -> float:
        """What batches of so many rows take alone on the average; 0 before anything is known."""
        return self.turns.mean(self.cost.seconds(rows)) if self.cost.tried_rows else 0.0

    def beside_at(self, now: float, ahead: Flight) -> float:
        """When the next batch goes to a worker that has others, which await something."""
        if not self.cost.tried_rows:
            return ahead.moved_at + _SHARE_UNKNOWN * self.target_seconds
        return self.turns.next_at(now, ahead, _MOST_BESIDE * self.target_seconds)

    def starts_after(self, now: float, ahead: Flight) -> float:
        """How long a batch is expected to wait in the worker for those ahead of it."""
        return self.turns.share * ahead.rest(now)

    def _in_time(self, rows: int, left: float) -> int:
        """Fewer rows, if with them the oldest call makes it yet, and the line gets hardly longer for it."""
        worth = _NEARLY * max(speed for _, speed in self._speeds)
        for fewer, speed in reversed(self._speeds):
            if speed < worth:
                break
            if fewer < rows and self.cost.at_worst(fewer) <= left:
                return fewer
        return rows

    def _wait(self, now: float) -> float:
        """Half of what the target leaves, if others are to be expected and it saves anything: the other half is for
        what comes between, such as a batch that is still running."""
        company = self.rate(now) * self._room
        if company < 1 or not self._saves:
            return 0.0
        return max(0.0, 0.5 * (self._room - self.cost.at_worst(min(1 + company, self.rows))))

    def _choose(self) -> None:
        """Looks at all sizes up to twice what has been tried: larger steps would be guesses."""
        each = self._overhead + self.cost.pause_seconds
        sizes = _sizes_up_to(min(2 * self.cost.tried_rows, self._most_rows))
        speeds = [(rows, rows / (self.cost.at_best(rows) + each)) for rows in sizes]
        best = max(speed for _, speed in speeds)
        self.rows = max(rows for rows, speed in speeds if speed >= _NEARLY * best)
        self._speeds = [one for one in speeds if one[0] <= self.rows]
        self._saves = best > _WORTH * speeds[0][1]


def _sizes_up_to(most: int) -> list[int]:
    """1, 2, 3, 4, 5, 7, 9, 12 and so on: enough to choose from."""
    sizes = [1]
    while sizes[-1] < most:
        sizes.append(min(sizes[-1] + (sizes[-1] + 3) // 4, most))
    return sizes
