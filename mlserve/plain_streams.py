"""Plain generators among asynchronous ones: each runs in a thread of its own, since its steps may block.

One thread and one context (of `contextvars`) for each generator, from its first step to its close: what it opens or
enters there, it also uses, leaves and closes there, and no other code ever sees it. The thread ends with the generator.

The task that iterates gives the thread one order at a time and waits; a step that wants the client's next request asks
this task for it. Invariant: whatever becomes of the task, the thread closes the generator after the step that it is in.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar, copy_context
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import anyio
import anyio.from_thread
import sniffio

from mlserve.eventloop import soon_from_threads, waiter_type

__all__ = ["THREAD_NAME", "EitherWay", "PlainSteps", "in_thread", "noting_steps"]

T = TypeVar("T")
THREAD_NAME = "mlserve plain stream"
_END: Any = object()
_noted: ContextVar[list[PlainSteps] | None] = ContextVar("_noted", default=None)
_here = threading.local()  # `steps`: whose thread this is


def noting_steps() -> list[PlainSteps]:
    """The plain generators that this task will run in threads: filled as they begin."""
    steps: list[PlainSteps] = []
    _noted.set(steps)
    return steps


class PlainSteps:
    """A plain generator in its thread, which begins here; `close` it. A step may run on that nobody awaits any more."""

    def __init__(self, steps: Iterator[Any]) -> None:
        self._steps = steps
        self._failure: BaseException | None = None  # that has reached nobody yet
        self._left = False  # nobody awaits a step any more
        self._over = anyio.Event()
        self._soon = soon_from_threads()
        self._new_waiter = waiter_type()
        self._told = self._new_waiter()  # set when the thread has `_found` something or has a `_question`
        self._found: Any = None
        self._question: Callable[[], Awaitable[Any]] | None = None
        self._orders: SimpleQueue[bool] = SimpleQueue()  # True: another step. False: close
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        # A daemon: a step that never ends shall not hold the process up.
        threading.Thread(target=copy_context().run, args=(self._run,), name=THREAD_NAME, daemon=True).start()

    async def next(self) -> Any:
        """What the next step gives; _END behind the last."""
        self._told = self._new_waiter()
        self._orders.put(True)
        await self._told.wait()
        while self._question is not None:
            question, self._question, self._told = self._question, None, self._new_waiter()
            await self._answer(question)
            await self._told.wait()
        if self._failure is not None:  # raised here and not by the waiter: asyncio mistakes some for the task's own end
            failure, self._failure = self._failure, None
            raise failure
        return self._found

    async def close(self) -> None:
        """Closes the generator, after the step that still runs, and waits for that. Raises what has reached nobody.

        A second cancellation on asyncio, which no shield holds off, ends the wait, and nothing else.
        """
        with anyio.CancelScope(shield=True):
            failure = await self.over()
        if failure is not None:
            raise failure

    async def over(self) -> BaseException | None:
        """Closes the generator, unless that is under way, and waits until its thread has ended; what reached nobody."""
        self.leave()
        await self._over.wait()
        failure, self._failure = self._failure, None
        return failure

    def leave(self) -> None:
        """Closes the generator, after the step that still runs, and waits for nothing."""
        if not self._left:
            self._left = True
            self._orders.put(False)
            if self._question is not None:
                self._answers.put((_END, None))

    async def _answer(self, question: Callable[[], Awaitable[Any]]) -> None:
        answer: tuple[Any, BaseException | None] = (_END, None)
        try:
            answer = await question(), None
        except Exception as error:
            answer = None, error
        finally:
            self._answers.put(answer)

    def _tell(self, found: Any, question: Callable[[], Awaitable[Any]] | None) -> None:
        """In the loop: the thread has found something, or asks."""
        if question is not None and self._left:
            self._answers.put((_END, None))
            return
        self._found, self._question = found, question
        self._told.set()

    # -- in the thread ------------------------------------------------------------------------------------------------

    def ask(self, question: Callable[[], Awaitable[Any]]) -> Any:
        """What the stream's task awaits for the step; _END if it has left."""
        self._soon(self._tell, None, question)
        answer, failure = self._answers.get()
        if failure is not None:
            raise failure
        return answer

    def _run(self) -> None:
        sniffio.current_async_library_cvar.set(None)  # the context is a copy of the task's: no loop runs here
        _here.steps = self
        with suppress(RuntimeError):  # the loop has ended
            while self._orders.get():
                found = None if self._left else self._noting_failure(next, self._steps, _END)
                self._soon(self._tell, found, None)
        self._noting_failure(getattr(self._steps, "close", bool))
        with suppress(RuntimeError):
            self._soon(self._over.set)

    def _noting_failure(self, work: Callable[..., Any], *args: Any) -> Any:
        try:
            return work(*args)
        except BaseException as error:
            self._failure = error


async def in_thread(steps: Iterator[T], abandon: bool = False) -> AsyncGenerator[T, None]:
    """What a plain generator gives. Closing this closes it, after the step that it is in.

    With `abandon` nobody waits for that step, which may never end, and what it raises is lost.
    """
    plain = PlainSteps(steps)
    noted = _noted.get()
    if noted is not None:
        noted.append(plain)
    try:
        while (found := await plain.next()) is not _END:
            yield found
    finally:
        if abandon:
            plain.leave()
        else:
            await plain.close()
        if noted is not None:
            noted.remove(plain)  # nothing of it is left


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
        steps = getattr(_here, "steps", None)
        value: T = anyio.from_thread.run(self._following) if steps is None else steps.ask(self._following)
        if value is _END:
            raise StopIteration
        return value

    async def _following(self) -> T:
        value: T = await anext(self._values, _END)
        return value
