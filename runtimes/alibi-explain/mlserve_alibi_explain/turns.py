"""Runs explanations in threads, one at a time, so that the worker's event loop serves the model that they ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

__all__ = ["ask", "in_turn"]

T = TypeVar("T")
# Of this event loop: explainers draw from the process's random numbers, whichever model they belong to.
_locks: anyio.lowlevel.RunVar[anyio.Lock] = anyio.lowlevel.RunVar("mlserve_alibi_explain_lock")


async def in_turn(function: Callable[[], T]) -> T:
    """What the function gives, in a thread. Cancelled, it ends with the question that it asks or at its next one, and
    this ends after it.

    The worker cancels the task of a call, which a thread does not see; the task beside it here does.
    """
    outcome: list[T] = []
    failure: list[Exception] = []
    turn = _Turn()

    async def work() -> None:
        _turns.set(turn)  # for the thread, which has a copy of this task's context
        try:
            outcome.append(await anyio.to_thread.run_sync(function))
        except _CallerHasLeft:
            pass  # and what cancelled it is raised where this group ends
        except Exception as error:  # as it is, not in a group
            failure.append(error)
        finally:
            turn.is_over.set()

    async with _lock(), anyio.create_task_group() as tasks:
        tasks.start_soon(turn.watch)
        tasks.start_soon(work)
    if failure:
        raise failure[0]
    return outcome[0]


def ask(question: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """What the question gives, in the event loop; called by the function of a turn, in its thread.

    Where the caller of the turn has left, this ends the function at once, by what is no Exception: explainers catch
    those of their models.
    """
    return anyio.from_thread.run(_turns.get().answer, question, *arguments)


class _CallerHasLeft(BaseException):
    """Ends the function of a turn."""


class _Turn:
    """One explanation, and the question that it waits for.

    A call into the loop that begins after the task of its thread was cancelled is never told so by anyio. So questions
    are shielded from that, and ended here.
    """

    def __init__(self) -> None:
        self.is_over = anyio.Event()
        self._has_left = False
        self._scope: anyio.CancelScope | None = None  # of the question that is being answered

    async def watch(self) -> None:
        """Until the turn is over, or its caller leaves."""
        try:
            await self.is_over.wait()
        finally:
            self._has_left = True
            if self._scope is not None:
                self._scope.cancel()

    async def answer(self, question: Callable[..., Awaitable[T]], *arguments: object) -> T:
        if self._has_left:
            raise _CallerHasLeft
        with anyio.CancelScope(shield=True) as self._scope:
            return await question(*arguments)
        raise _CallerHasLeft


_turns: ContextVar[_Turn] = ContextVar("mlserve_alibi_explain_turn")


def _lock() -> anyio.Lock:
    try:
        return _locks.get()
    except LookupError:
        lock = anyio.Lock()
        _locks.set(lock)
        return lock
