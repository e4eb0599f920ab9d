"""Plain generators among asynchronous ones: their steps may block, so each runs in a thread.

A stream has its own limit of threads, not a share of a common one: many generators may wait for their clients'
next requests for as long as these like, and none of them keeps another from running.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread

__all__ = ["EitherWay", "PlainSteps", "in_thread", "noting_steps"]

T = TypeVar("T")
_END: Any = object()
_noted: ContextVar[list[PlainSteps] | None] = ContextVar("_noted", default=None)


def noting_steps() -> list[PlainSteps]:
    """The plain generators that this task will run in threads: filled as they begin."""
    steps: list[PlainSteps] = []
    _noted.set(steps)
    return steps


class PlainSteps:
    """The steps of a plain generator, each in a thread. A step may run on when nobody awaits it any more.

    Invariant: one thread at most is inside the generator. One that still is when the stream ends closes it afterwards.
    """

    def __init__(self, steps: Iterator[Any]) -> None:
        self._steps = steps
        self._limiter = anyio.CapacityLimiter(1)
        self._failure: BaseException | None = None  # that may have reached nobody
        self._lock = threading.Lock()  # for what follows
        self._busy = False  # a thread is in the generator, or is about to close it
        self._left = False
        self._closing = False
        self._when_over: list[Callable[[], None]] = []

    async def next(self) -> Any:
        """What the next step gives; _END behind the last."""
        return await anyio.to_thread.run_sync(self._step, limiter=self._limiter)

    async def close(self) -> None:
        """Closes the generator: at once, or when the step is over that still runs in a thread, unawaited."""
        with self._lock:
            self._left = True
            if self._busy:
                return
            self._busy = True
        with anyio.CancelScope(shield=True):
            try:
                await anyio.to_thread.run_sync(self._close, limiter=self._limiter)
            except BaseException:
                if not self._closing:  # cancelled before its thread had begun
                    await anyio.to_thread.run_sync(self._close, limiter=self._limiter)
                raise

    async def over(self) -> BaseException | None:
        """Waits until no thread is in the generator any more; what it raised, maybe when nobody awaited it.

        For asyncio, where a cancelled task leaves its thread behind.
        """
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(over.set)

        with self._lock:
            busy = self._busy
            self._when_over.append(tell)
        if busy:
            await over.wait()
        return self._failure

    def _step(self) -> Any:
        with self._lock:
            if self._left:  # before its thread had begun
                return _END
            self._busy = True
        try:
            found = next(self._steps, _END)
        except BaseException as error:
            self._after_step(error)
            raise
        self._after_step(None)
        return found

    def _after_step(self, failure: BaseException | None) -> None:
        with self._lock:
            left = self._busy = self._left
        self._failure = failure
        if left:
            self._close()

    def _close(self) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
        try:
            if hasattr(self._steps, "close"):
                self._steps.close()
        except BaseException as error:
            self._failure = error
            raise
        finally:
            with self._lock:
                self._busy = False
            for tell in self._when_over:
                tell()


async def in_thread(steps: Iterator[T]) -> AsyncGenerator[T, None]:
    """What a plain generator gives. Closing this closes it, after the step that it is in."""
    plain = PlainSteps(steps)
    noted = _noted.get()
    if noted is not None:
        noted.append(plain)
    try:
        while (found := await plain.next()) is not _END:
            yield found
    finally:
        await plain.close()


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
