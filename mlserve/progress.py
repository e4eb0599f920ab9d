"""Memory that a pool shares with one worker: which calls have begun, gave way, and were taken back.

Numbers of calls, which rise in the order of sending: the last that has begun, the last that was taken back, and whether
those that gave way to others still do, each at a place of its own. Frames say so too, but not from one that is blocked.
Each word is written by one side only, in one piece (a memoryview copies a native word at once), and stays readable
when the other process has died or is busy.

The worker writes what it begins before it reads what was taken back; the pool writes what it takes back, waits a moment
(`taking_back.py`), and reads what has begun. So whatever the order, a call that the worker runs is seen to have begun.
"""

from __future__ import annotations

from typing import Any

_BEGUN, _TAKEN_BACK, _GAVE_WAY = 0, 1, 2
_PLACES = 128  # more than can give way in one turn of a worker's loop, before the frames about it leave
SIZE_BYTES = 8 * (_GAVE_WAY + _PLACES)


class Progress:
    """One end of it."""

    __slots__ = ("_words",)

    def __init__(self, memory: Any) -> None:
        self._words = memoryview(memory).cast("B")[:SIZE_BYTES].cast("Q")

    @property
    def begun(self) -> int:
        """The number of the last call that the worker has begun."""
        return self._words[_BEGUN]

    def begin(self, call: int) -> bool:
        """Notes that all calls up to this one have begun. False if the pool has taken it back: it must not run."""
        words = self._words
        if call <= words[_BEGUN]:
            return True  # one of a batch, which runs again alone
        words[_BEGUN] = call
        return call > words[_TAKEN_BACK]

    def give_way(self, call: int, awaits: bool = True) -> None:
        """Notes that a call awaits something from now on, so that whatever runs is another one; or no longer."""
        self._words[_GAVE_WAY + call % _PLACES] = call << 1 | awaits

    def gave_way(self, call: int) -> bool | None:
        """Whether a call awaits something now; None if that is not known (any more)."""
        word = self._words[_GAVE_WAY + call % _PLACES]
        return bool(word & 1) if word >> 1 == call else None

    def take_back(self, call: int) -> None:
        """Asks the worker not to begin the calls up to this one that it has not begun."""
        self._words[_TAKEN_BACK] = call

    def close(self) -> None:
        """Lets go of the memory; what it said last can still be read."""
        words, self._words = self._words, memoryview(self._words.tobytes()).cast("Q")
        words.release()
