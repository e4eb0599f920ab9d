"""Memory that a pool shares with one worker: which calls have begun, which one runs, and which were taken back.

Numbers of calls, which rise in the order of sending: the last that has begun, the last that was taken back, and the one
whose code has the worker's thread at this moment. Frames say so too, but not from a worker that is blocked or dead.
Each word is written by one side only, in one piece (a memoryview copies a native word at once), and stays readable
when the other process has died or is busy.

The worker writes what it begins before it reads what was taken back; the pool writes what it takes back, waits a moment
(`taking_back.py`), and reads what has begun. So whatever the order, a call that the worker runs is seen to have begun.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any

_BEGUN, _TAKEN_BACK, _RUNS = 0, 1, 2
SIZE_BYTES = 8 * 3
LOADING = 2**64 - 1  # stands for a load or an unload where the number of a call is expected


class Progress:
    """One end of it."""

    __slots__ = ("_words",)

    def __init__(self, memory: Any) -> None:
        self._words = memoryview(memory).cast("B")[:SIZE_BYTES].cast("Q")

    @property
    def begun(self) -> int:
        """The number of the last call that the worker has begun."""
        return self._words[_BEGUN]

    @property
    def runs(self) -> int:
        """The number of the call that the worker runs now, of a batch its last, or LOADING; 0: none that is known."""
        return self._words[_RUNS]

    def begin(self, call: int) -> bool:
        """Notes that all calls up to this one have begun, and that this one runs. False, and it must not run, if the
        pool has taken it back.
        """
        words = self._words
        if call > words[_BEGUN]:  # else one of a batch, which runs again alone
            words[_BEGUN] = call
            if call <= words[_TAKEN_BACK]:
                return False
        words[_RUNS] = call
        return True

    def run(self, call: int) -> None:
        """Notes which call runs from now on; 0: none."""
        self._words[_RUNS] = call

    def noting(self, call: int, work: Awaitable[Any]) -> Awaitable[Any]:
        """The same work; it counts as this call's whenever it goes on, and as nobody's while it awaits something."""
        return _Noting(self, call, work)

    def take_back(self, call: int) -> None:
        """Asks the worker not to begin the calls up to this one that it has not begun."""
        self._words[_TAKEN_BACK] = call

    def close(self) -> None:
        """Lets go of the memory; what it said last can still be read."""
        words, self._words = self._words, memoryview(self._words.tobytes()).cast("Q")
        words.release()


class _Noting:
    __slots__ = ("_call", "_progress", "_work")

    def __init__(self, progress: Progress, call: int, work: Awaitable[Any]) -> None:
        self._progress = progress
        self._call = call
        self._work = work

    def __await__(self) -> Generator[Any, Any, Any]:
        run, call = self._progress.run, self._call
        run(call)
        steps: Any = self._work.__await__()
        try:
            awaited = next(steps)
            while True:  # as `yield from` does it
                run(0)
                try:
                    found = yield awaited
                except GeneratorExit:
                    steps.close()
                    raise
                except BaseException as error:
                    run(call)
                    awaited = steps.throw(error)
                else:
                    run(call)
                    awaited = next(steps) if found is None else steps.send(found)
        except StopIteration as end:
            return end.value
