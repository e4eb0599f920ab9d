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
        while (await receive())["type"] != "http.disconnect":
            pass
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel_when_gone)
        try:
            results.append(await work())
        except Exception as error:
            errors.append(error)
        tasks.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if not results:
        raise CallerLeft("the client left before its answer was there")
    return results[0]
