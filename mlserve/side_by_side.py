"""Whether batches of a model that awaits run side by side or one after the other: seen from what they take together.

A batch that is sent beside others waits for them, if the model has a lock or one thread; if what it awaits takes any
number, it does not. Nobody says which it is. So each one is compared with what it was expected to take alone: of the
time that those ahead of it were expected to take yet, what share did it wait?

Pure: no clock, no task. `Flight` is what one worker has of a model, `Turns` what is known of the model.
"""

from __future__ import annotations

from collections.abc import Hashable

_WEIGHT = 0.05  # of a new measurement
_FILL = 0.5  # of as many batches as would run side by side are sent at once
_LEAST = 1e-4  # the smallest share: thousands side by side
_FEW_ALONE = 5  # batches, before which nothing is believed
_FEW = 4.0  # times what a batch takes, that batches were to wait in all: after so much a try is seldom worth it
_TRY_AFTER_FEW = 2  # batches that ran alone before one is sent early, to see whether it waits
_TRY_AFTER = (8, 128)  # the same later: twice as many each time that it did
_EARLY = 0.25  # of the time of the batch before
_ALONE_TIMES = 50.0  # what a batch takes without one alone, after which one is waited for: it tells what they take
_ALONE_SECONDS = 20.0  # at most
_MOST_PATIENT = 3
_FAR_OUTLIER = 10.0
_OUTLIER = 1.5  # times what could be expected: more says nothing


class Flight:
    """The batches of one model that a worker has, in the order of sending, with what each is expected to take."""

    __slots__ = ("_batches", "_head_since", "_seconds", "last_seconds", "moved_at")

    def __init__(self) -> None:
        self._batches: dict[Hashable, float] = {}
        self._seconds = 0.0  # of all of them
        self._head_since = 0.0  # since when the first one has the model for itself, if they take turns
        self.last_seconds = 0.0  # of the one that was sent last
        self.moved_at = 0.0  # when one was sent, or the first one ended, last

    def __len__(self) -> int:
        return len(self._batches)

    def rest(self, now: float) -> float:
        """How long they take yet, if they take turns."""
        if not self._batches:
            return 0.0
        head = next(iter(self._batches.values()))
        return max(0.0, self._seconds - min(head, now - self._head_since))

    def sent(self, batch: Hashable, now: float, seconds: float) -> None:
        """One more, that is expected to take so long alone."""
        if not self._batches:
            self._head_since = now
        self._batches[batch] = self.last_seconds = seconds
        self._seconds += seconds
        self.moved_at = now

    def ended(self, batch: Hashable, now: float) -> float:
        """One is answered; those before it that are not, do not hold up others and count no more.

        What they were expected to take, since it did not wait for that.
        """
        seconds = 0.0
        if batch in self._batches:
            while (first := next(iter(self._batches))) is not batch:
                seconds += self._batches[first]
                self.drop(first)
            self.drop(batch)
            self._head_since = self.moved_at = now
        return seconds

    def drop(self, batch: Hashable) -> None:
        """One is taken back, or counts no more."""
        seconds = self._batches.pop(batch, 0.0)
        self._seconds = self._seconds - seconds if self._batches else 0.0


class Turns:
    """What is known of a model: how much batches beside others wait for those."""

    def __init__(self) -> None:
        self._expected = 0.0  # seconds that batches would have waited, if they took turns; decaying sums
        self._waited = 0.0  # and that they did
        self._mean = 1.0  # of what batches take alone, by what is typical: times that scatter have a long tail
        self._alone_count = 0  # since one beside others told something
        self._alone_few = 0  # in all, up to a few
        self._try_after = _TRY_AFTER[0]
        self._beside_count = 0  # since one ran alone
        self._alone_at = 0.0

    @property
    def share(self) -> float:
        """1: they take turns. 0: they run side by side. 0.25: as if four of them did."""
        if self._alone_few < _FEW_ALONE or not self._expected:
            return 1.0
        return min(1.0, max(_LEAST, self._waited / self._expected))

    def mean(self, typical_seconds: float) -> float:
        """What a batch takes on the average, where so long is typical."""
        return typical_seconds * self._mean

    def ran_alone(self, now: float, seconds: float, typical_seconds: float) -> None:
        """A batch took so long without others beside it."""
        self._alone_count += 1
        self._alone_few = min(self._alone_few + 1, _FEW_ALONE)
        self._beside_count = 0
        self._alone_at = now
        self._mean += _WEIGHT * (min(seconds / typical_seconds, _FAR_OUTLIER) - self._mean)

    def ran_beside(
        self, seconds: float, alone_seconds: float, rest_seconds: float, passed_seconds: float = 0.0
    ) -> None:
        """A batch took so long, and alone it had been so long. Those ahead of it had so much to do yet; of that
        it did not wait for what it passed.
        """
        self._beside_count = min(self._beside_count + 1, _MOST_PATIENT)
        if rest_seconds <= _EARLY * alone_seconds:
            return  # there was nothing to wait for
        self._alone_count = 0
        if not self._expected:
            self._expected = self._waited = alone_seconds  # they take turns, until something else is seen
        most = (
            max(0.0, rest_seconds - passed_seconds) if passed_seconds else _OUTLIER * max(rest_seconds, alone_seconds)
        )
        waited = min(seconds - alone_seconds, most)
        self._try_after = min(2 * self._try_after, _TRY_AFTER[1]) if waited > 0.5 * rest_seconds else _TRY_AFTER[0]
        self._expected += rest_seconds - _WEIGHT * self._expected
        self._waited += waited - _WEIGHT * self._waited

    def next_at(self, now: float, flight: Flight, most_seconds: float) -> float:
        """When the next batch goes beside those that a worker has; their end may come first.

        At once, where it will hardly wait for them. Else when nothing has moved for as long as it should, but no longer
        than `most_seconds`: then those ahead take longer than others, and may not be what others wait for.
        """
        if not flight:
            return now
        share, seconds = self.share, flight.last_seconds
        sees_alone = now - self._alone_at < min(max(1.0, _ALONE_TIMES * seconds), _ALONE_SECONDS)
        if sees_alone and len(flight) < _FILL / share:
            return now
        try_after = self._try_after if self._expected > _FEW * seconds else _TRY_AFTER_FEW
        if len(flight) == 1 and self._alone_count >= try_after:
            seconds *= _EARLY
        elif sees_alone:
            seconds *= share
        patience = len(flight) + self._beside_count  # what they take may be more by now, which only one alone tells
        return flight.moved_at + patience * min(seconds, most_seconds)
