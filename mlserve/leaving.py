"""Work for a client that may leave before it is done, where ASGI's message is all that tells of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

from mlserve.errors import CallerLeft

__all__ = ["while_connected"]

T = TypeVar("T")


async def while_connected(receive: Callable[[], Awaitable[Any]], work: Callable[[], Awaitable[T]]) -> T:
    """Awaits `work()`; if the client leaves first, that is cancelled and CallerLeft raised.

    The body must have been read: a task beside `work` waits for the message that the client has left.
    """
    results: list[T] = []
    errors: list[Exception] = []  # Raised outside the task group, which would wrap them.

    async def cancel_when_gone() -> None:
        with watching:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

    watching = anyio.CancelScope(shield=True)  # a task that its group cancels leaves a circle behind, on asyncio
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel_when_gone)
        try:
            results.append(await work())
        except Exception as error:
            errors.append(error)
        finally:
            watching.cancel()
    if errors:
        raise errors.pop()  # kept here, it would be a circle with its traceback
    if not results:
        raise CallerLeft("the client left before its answer was there")
    return results[0]
