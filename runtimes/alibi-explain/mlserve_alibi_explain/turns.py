"""Runs explanations in threads, one at a time, so that the worker's event loop serves the model that they ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

__all__ = ["in_turn"]

T = TypeVar("T")
# Of this event loop: explainers draw from the process's random numbers, whichever model they belong to.
_locks: anyio.lowlevel.RunVar[anyio.Lock] = anyio.lowlevel.RunVar("mlserve_alibi_explain_lock")


async def in_turn(function: Callable[[], T]) -> T:
    """What the function gives, in a thread. Cancelled, it ends at its next call into the event loop, before this does.

    The worker cancels the task of a call, which a thread does not see; it sees the cancel scope of the task group here.
    """
    outcome: list[T] = []
    failure: list[Exception] = []

    async def work() -> None:
        try:
            outcome.append(await anyio.to_thread.run_sync(function))
        except Exception as error:  # as it is, not in a group
            failure.append(error)

    async with _lock(), anyio.create_task_group() as tasks:
        tasks.start_soon(work)
    if failure:
        raise failure[0]
    return outcome[0]


def _lock() -> anyio.Lock:
    try:
        return _locks.get()
    except LookupError:
        lock = anyio.Lock()
        _locks.set(lock)
        return lock
