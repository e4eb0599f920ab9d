"""Runner: an event loop in a thread of its own, where what code that does not await asks for is done.

All of it are tasks of one group, which the thread's first task owns: a call is one task, and a stream is one from its
first answer to its end, so that whoever stops waiting (Ctrl+C), leaves a stream or forgets it only has to say so, and
need not wait until the loop has cleaned up. Closing cancels the tasks, waits for them, and closes the client.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextlib import aclosing, suppress
from contextvars import Context
from functools import partial
from typing import Any, TypeVar

import anyio

from mlserve.client.async_client import AsyncClient
from mlserve.client.faults import ClientError
from mlserve.client.result import InferResult

__all__ = ["AnswerStream", "Runner"]

_LEAVE_SECONDS = 5.0  # for the last words to servers when the program ends

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, None]]


class Runner:
    """An event loop in a daemon thread, and the client that lives there. Any thread may ask it for something."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self._pid = os.getpid()
        self._posting = threading.RLock()  # a collected stream may post while its thread posts something else
        self._is_over = False  # Invariant: once it is, nothing is posted any more.
        self._wanted: asyncio.Queue[tuple[Work | None, Callable[[], object]]] = asyncio.Queue()  # None is the end
        self._scopes: dict[Future[Any], anyio.CancelScope] = {}  # of the calls that run
        # Not asyncio.new_event_loop(), which other libraries exchange: trio_asyncio's does not run in a thread.
        self._loop = asyncio.SelectorEventLoop()
        # Before anything that is posted; in a context of its own, as that.
        self._root = Context().run(self._loop.create_task, self._live())
        self._thread = threading.Thread(target=self._serve, name="mlserve-client", daemon=True)
        self._thread.start()
        atexit.register(self._leave)

    # -- for all threads ----------------------------------------------------------------------------------------------

    def wait(self, call: Callable[[], Awaitable[T]]) -> T:
        """What a call gives. ClientError if the client is closed meanwhile.

        If the waiting is interrupted (Ctrl+C), the call is cancelled.
        """
        reply: Future[T] = Future()
        try:
            self.ask(self._start, call, reply)
            return reply.result()
        except BaseException:
            if reply.cancel():
                self.post(self._cancel, reply)
            raise
        finally:
            del reply  # An error that it holds refers to this frame.

    def ask(self, work: Callable[..., object], *args: Any) -> None:
        """Posts what somebody will wait for. ClientError if that would be for ever."""
        if threading.current_thread() is self._thread or not self.post(work, *args):
            raise self.closed()

    def post(self, work: Callable[..., object], *args: Any) -> bool:
        """Has the loop call something soon; False if it has ended, or lives in the process before a fork.

        In a context of its own: the caller's may say that this is trio, or another loop's task.
        """
        if not self.is_here:
            return False
        with self._posting:
            if not self._is_over:
                self._loop.call_soon_threadsafe(work, *args, context=Context())
            return not self._is_over

    def end(self) -> None:
        """Has the loop cancel what runs, close the client and stop; does not wait."""
        self.post(self._end)

    def join(self) -> None:
        """Waits for the thread's end."""
        if self.is_here and threading.current_thread() is not self._thread:
            self._thread.join()

    def _leave(self) -> None:
        """At the end of the program: the interpreter stops daemon threads wherever they are, also with a lock held."""
        self.end()
        if self.is_here:
            self._thread.join(_LEAVE_SECONDS)

    @property
    def is_here(self) -> bool:
        """Whether its thread is in this process: a fork leaves it behind."""
        return self._pid == os.getpid()

    def closed(self) -> ClientError:
        """The error of what cannot be answered any more."""
        address = self.client.address
        return ClientError(f"the client of {address} was closed before the answer was there", address, arrived=True)

    # -- in the loop's thread -----------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            self._loop.run_until_complete(self._root)
        finally:
            with self._posting:
                self._is_over = True
            self._loop.run_until_complete(asyncio.sleep(0))  # What was posted before that is called now.
            while not self._wanted.empty():
                _, refuse = self._wanted.get_nowait()
                refuse()
            self._loop.close()
            atexit.unregister(self._leave)

    async def _live(self) -> None:
        async with self.client, anyio.create_task_group() as tasks:
            while (wanted := (await self._wanted.get())[0]) is not None:
                tasks.start_soon(wanted)
            tasks.cancel_scope.cancel()

    def _end(self) -> None:
        self._wanted.put_nowait((None, lambda: None))

    def spawn(self, work: Work, refuse: Callable[[], object]) -> None:
        """Starts a task, on the loop; `refuse` is called if it is too late for that."""
        self._wanted.put_nowait((work, refuse))

    def _start(self, call: Callable[[], Awaitable[T]], reply: Future[T]) -> None:
        self.spawn(partial(self._run, call, reply), lambda: _fail(reply, self.closed()))

    async def _run(self, call: Callable[[], Awaitable[T]], reply: Future[T]) -> None:
        if reply.cancelled():
            return
        with anyio.CancelScope() as scope:
            self._scopes[reply] = scope
            try:
                await self.answer(call, reply)
            finally:
                del self._scopes[reply]

    async def answer(self, call: Callable[[], Awaitable[T]], reply: Future[T]) -> T | None:
        """Does what was asked for; what comes of it goes to the thread that waits, and back; None is an error."""
        try:
            result = await call()
        except Exception as error:
            _fail(reply, error)
            del reply  # It holds the error, which refers to this frame.
            return None
        except BaseException:  # cancelled: by that thread, which has left, or since the client is closed
            _fail(reply, self.closed())
            raise
        with suppress(InvalidStateError):
            reply.set_result(result)
        return result

    def _cancel(self, reply: Future[Any]) -> None:
        scope = self._scopes.get(reply)  # None if it has ended; or has not begun, and then it will not
        if scope is not None:
            scope.cancel()


class AnswerStream:
    """The answers of one call, which a thread takes one by one; a task on the loop owns the call and closes it."""

    def __init__(self, runner: Runner, answers: AsyncGenerator[InferResult, None]) -> None:
        self._runner = runner
        self._answers = answers
        self._asked: asyncio.Queue[Future[InferResult | None]] = asyncio.Queue()
        self._scope: anyio.CancelScope | None = None
        self._has_begun = False
        self._is_over = False  # Invariant: then nothing is in _asked, and nothing comes there any more.

    def next(self) -> InferResult | None:
        """The next answer; None at the end. Raises what AsyncClient.stream raises."""
        reply: Future[InferResult | None] = Future()
        self._runner.ask(self._ask, reply)
        return reply.result()

    def close(self) -> None:
        """Ends the call; from any thread at any time, since the garbage collector may do so. Does not wait."""
        self._runner.post(self._close)

    # -- in the loop's thread -----------------------------------------------------------------------------------------

    def _ask(self, reply: Future[InferResult | None]) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._runner.spawn(self._run, self._end)
        if self._is_over:
            _fail(reply, self._runner.closed())
        else:
            self._asked.put_nowait(reply)

    async def _run(self) -> None:
        try:
            with anyio.CancelScope() as self._scope:
                async with aclosing(self._answers):
                    while not self._is_over:
                        reply = await self._asked.get()
                        if await self._runner.answer(self._next, reply) is None:
                            break
        finally:
            self._end()

    async def _next(self) -> InferResult | None:
        return await anext(self._answers, None)

    def _close(self) -> None:
        self._end()
        if self._scope is not None:
            self._scope.cancel()

    def _end(self) -> None:
        self._is_over = True
        while not self._asked.empty():
            _fail(self._asked.get_nowait(), self._runner.closed())


def _fail(reply: Future[Any], error: BaseException) -> None:
    with suppress(InvalidStateError):  # who waited has left
        reply.set_exception(error)
