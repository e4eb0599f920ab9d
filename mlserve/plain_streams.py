"""Plain generators among asynchronous ones: their steps may block, so each runs in a thread.

A stream has its own limit of threads, not a share of a common one: many generators may wait for their clients'
next requests for as long as these like, and none of them keeps another from running.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, Generic, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread

__all__ = ["EitherWay", "in_thread"]

T = TypeVar("T")
_END: Any = object()


async def in_thread(steps: Iterator[T]) -> AsyncGenerator[T, None]:
    """What a plain generator gives. Closing this closes it, after the step that it is in."""
    limiter = anyio.CapacityLimiter(2)  # the step that nobody awaits any more, and who waits to close it
    one_at_a_time = threading.Lock()

    def step() -> T:
        with one_at_a_time:
            return next(steps, _END)

    def close() -> None:
        with one_at_a_time:
            steps.close()  # type: ignore[attr-defined]  # asked for below

    try:
        while (found := await anyio.to_thread.run_sync(step, limiter=limiter)) is not _END:
            yield found
    finally:
        if hasattr(steps, "close"):
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(close, limiter=limiter)


class EitherWay(Generic[T]):
    """An asynchronous iterator that a plain generator in a thread may iterate over too."""

    def __init__(self, values: AsyncIterator[T]) -> None:
        self._values = values

    def __aiter__(self) -> EitherWay[T]:
        return self

    async def __anext__(self) -> T:
        return await anext(self._values)

    def __iter__(self) -> EitherWay[T]:
        return self

    def __next__(self) -> T:
        value: T = anyio.from_thread.run(self._following)
        if value is _END:
            raise StopIteration
        return value

    async def _following(self) -> T:
        with anyio.CancelScope(shield=True):  # whoever cancels a stream ends its requests, which ends this wait
            value: T = await anext(self._values, _END)
        return value
