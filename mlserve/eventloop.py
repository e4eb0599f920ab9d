"""What differs between asyncio and trio on the request path: watching a socket, waking a waiter, calls from threads.

Both could be written with anyio alone, at about twice the cost of a call (see docs/decisions.md); everything else in
the core is anyio.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import sniffio


class Waiter(Protocol):
    """One task waits, somebody sets it, once."""

    def set(self) -> None: ...

    def wait(self) -> Any: ...


class FutureWaiter:
    """A native asyncio future: one turn of the loop between `set` and the waiter's next line."""

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def wait(self) -> asyncio.Future[None]:
        return self._future


def waiter_type() -> Callable[[], Waiter]:
    """What makes waiters on the running backend. Asked for once: finding out costs as much as waiting."""
    return FutureWaiter if on_asyncio() else anyio.Event


def clock_of() -> Callable[[], float]:
    """The clock that the running backend sleeps by; on trio it may be a virtual one."""
    return time.monotonic if on_asyncio() else anyio.current_time


def on_asyncio() -> bool:
    """Whether the running event loop is asyncio's."""
    return sniffio.current_async_library() == "asyncio"


def soon_from_threads() -> Callable[..., object]:
    """What calls a function in the running loop soon, from any thread. That raises RuntimeError once it has ended."""
    if on_asyncio():
        return asyncio.get_running_loop().call_soon_threadsafe
    import trio

    call: Callable[..., object] = trio.lowlevel.current_trio_token().run_sync_soon
    return call


async def watch(sock: Any, on_readable: Callable[[], bool]) -> None:
    """Calls `on_readable` whenever the socket (or descriptor) has something to read, until it returns False.

    What it raises ends the watch and is raised here, on every loop: asyncio alone would only log it, and go on.
    """
    if not on_asyncio():
        await anyio.wait_readable(sock)
        while on_readable():
            await anyio.wait_readable(sock)
        return
    loop = asyncio.get_running_loop()
    ended = FutureWaiter()
    failure: BaseException | None = None

    def ready() -> None:
        nonlocal failure
        try:
            if on_readable():
                return
        except BaseException as error:
            failure = error
        loop.remove_reader(sock)  # or the loop would spin on an end of file
        ended.set()

    loop.add_reader(sock, ready)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(sock)
    if failure is not None:
        raise failure
