"""The worker's end of one streamed call: requests in, credit for chunks, and how it is cancelled."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import anyio

from mlserve import execute
from mlserve.errors import MLServeError
from mlserve.eventloop import FutureWaiter, Waiter
from mlserve.types import InferenceRequest

__all__ = ["Cancelled", "Stream"]


class Cancelled(Exception):
    """Nobody waits for this call any more."""


class Stream:
    """The worker's end of one streamed call."""

    def __init__(self, call: int, credit: int) -> None:
        self.call = call
        self.credit = credit  # chunks are sent while some is left, until the client has taken some
        self.request_id: str | None = None  # of the last request that has one
        self.task: asyncio.Task[Any] | None = None  # while it can be cancelled
        self._again: asyncio.TimerHandle | None = None
        self._credit_came: Waiter | None = None
        # The pool bounds how many requests wait here.
        self._incoming, self.requests = anyio.create_memory_object_stream[InferenceRequest | MLServeError](float("inf"))

    def add_credit(self, credit: int) -> None:
        """The client has taken some chunks."""
        self.credit += credit
        if self._credit_came is not None:
            self._credit_came.set()

    async def until_credit(self) -> None:
        """Waits until another chunk may be sent: a slow client slows its generator, nothing else."""
        while self.credit <= 0:
            self._credit_came = FutureWaiter()
            await self._credit_came.wait()
        self._credit_came = None

    def add(self, request: InferenceRequest | MLServeError) -> None:
        """Another request has come, or one that cannot be read; dropped if nobody waits for it any more."""
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._incoming.send_nowait(request)

    def close_requests(self) -> None:
        """There are no more requests."""
        self._incoming.close()

    def cancel(self) -> None:
        """Nobody waits for it any more. A thread that waits for the next request learns it by there being none.

        By the task and once, not by a scope, in which no `finally` could await anything. Again after a while: one that
        takes too long is broken off, and a model may have swallowed it.

        A task that reads of this itself, while it asks for a slot for a chunk, looks afterwards whether it has: another
        cancellation would break off the `finally` blocks that it comes to by then, or end who awaits it.
        """
        self.close_requests()
        if self.task is None:
            return
        if self.task is not asyncio.current_task():
            self.task.cancel()
        self._again = asyncio.get_running_loop().call_later(execute.CLOSE_SECONDS, self.cancel)

    def settle(self) -> None:
        """Its task has come to the end: there is nothing to cancel any more. Its requests end if a thread asks."""
        self.close_requests()
        self.task = None
        if self._again is not None:
            self._again.cancel()

    def close(self) -> None:
        self.settle()
        self.requests.close()
