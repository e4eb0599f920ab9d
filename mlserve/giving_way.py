"""Tells the moment in which something that is awaited first gives way, before anything else can run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

__all__ = ["noting_first"]


def noting_first(work: Awaitable[Any], note: Callable[[], None]) -> Awaitable[Any]:
    """The same work; `note` is called when it first gives way, if it does so. Only coroutines can be watched."""
    return _Noting(work, note) if isinstance(work, Coroutine) else work


class _Noting:
    __slots__ = ("_note", "_work")

    def __init__(self, work: Coroutine[Any, Any, Any], note: Callable[[], None]) -> None:
        self._work = work
        self._note = note

    def __await__(self) -> Generator[Any, Any, Any]:
        work = self._work
        try:
            awaited = work.send(None)
            self._note()
            while True:  # as `yield from` does it
                try:
                    found = yield awaited
                except GeneratorExit:
                    work.close()
                    raise
                except BaseException as error:
                    awaited = work.throw(error)
                else:
                    awaited = work.send(found)
        except StopIteration as end:
            return end.value
