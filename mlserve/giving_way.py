"""Tells when something that is awaited gives way, and when it goes on, before anything else can run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

__all__ = ["noting"]


def noting(work: Awaitable[Any], note: Callable[[bool], None]) -> Awaitable[Any]:
    """The same work; `note(True)` is called whenever it gives way, and at its end, `note(False)` when it goes on."""
    if isinstance(work, asyncio.Future):  # a task too: what it does meanwhile is not seen
        if not work.done():
            note(True)
        return work
    return _Noting(work, note) if isinstance(work, Coroutine) else work


class _Noting:
    __slots__ = ("_note", "_work")

    def __init__(self, work: Coroutine[Any, Any, Any], note: Callable[[bool], None]) -> None:
        self._work = work
        self._note = note

    def __await__(self) -> Generator[Any, Any, Any]:
        work, note = self._work, self._note
        try:
            awaited = work.send(None)
            while True:  # as `yield from` does it
                note(True)
                try:
                    found = yield awaited
                except GeneratorExit:
                    work.close()
                    raise
                except BaseException as error:
                    note(False)
                    awaited = work.throw(error)
                else:
                    note(False)
                    awaited = work.send(found)
        except StopIteration as end:
            return end.value
        finally:
            note(True)
