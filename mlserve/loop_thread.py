"""An event loop of asyncio in a thread of its own, for other people's code that needs the same one at each call."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import wait
from typing import Any

__all__ = ["LoopThread"]

_LOOK_SECONDS = 1.0  # between two looks whether the thread is still there
_END_SECONDS = 0.5  # code that blocks there may be left behind: the thread does not keep the process up


class LoopThread:
    """Such a thread, from its making until `close`."""

    def __init__(self, name: str) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._is_up.wait()

    def __repr__(self) -> str:
        return f"<LoopThread {self._thread.name}{'' if self._thread.is_alive() else ' | ended'}>"

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """What the function gives there, awaited if that is to be awaited; blocks until then.

        RuntimeError if the thread has ended.
        """
        work = _result(function, *args)
        try:
            waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise
        while not waiting.done():
            wait([waiting], _LOOK_SECONDS)
            if not self._thread.is_alive() and not waiting.done():
                raise RuntimeError(f"{self._thread.name} has ended")
        return waiting.result()

    def close(self) -> None:
        """Cancels what runs there and ends the thread; waits a moment for it."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        asyncio.run(self._until_closed())

    async def _until_closed(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._is_up.set()
        await self._end.wait()


async def _result(function: Callable[..., Any], *args: Any) -> Any:
    found = function(*args)
    return await found if inspect.isawaitable(found) else found
