"""Bounds the memory that large bodies and messages take, from their arrival until their call is answered."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mlserve.errors import CallerLeft, Overloaded
from mlserve.eventloop import Waiter, waiter_type

__all__ = ["COUNTED_FROM_BYTES", "PAUSE_SECONDS", "Intake", "Places", "Share"]

COUNTED_FROM_BYTES = 64 * 1024  # smaller ones are bounded by the number of connections, and not worth counting
_UNPACKED_AT_ONCE = 4
PAUSE_SECONDS = 60.0  # without a byte of a body or message that is half there, it is given up


class Places:
    """A few tasks at a time, in order. No semaphore of a library: tasks of trio and of trio-asyncio share one."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._waiting: deque[Waiter] = deque()

    def __repr__(self) -> str:
        return f"<Places {self._free} free, {len(self._waiting)} wait>"

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """A place; waits until there is one."""
        if self._free:
            self._free -= 1
        else:
            await self._wait()
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self) -> None:
        waiter = waiter_type()()
        self._waiting.append(waiter)
        try:
            await waiter.wait()
        except BaseException:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            else:  # the place came with the cancellation
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._free += 1


class Intake:
    """How many bytes of large bodies a server holds, packed and unpacked. Both transports share one; so may threads."""

    def __init__(self, limit_bytes: float = float("inf")) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.lock = threading.RLock()  # unpacking counts from threads
        # More bodies at once than a few would share the room that there is, and all be refused half unpacked.
        self.unpacking = Places(_UNPACKED_AT_ONCE)

    def __repr__(self) -> str:
        return f"<Intake {self.held_bytes} of {self.limit_bytes} bytes>"

    def take(self, size_bytes: int) -> bool:
        """Counts bytes in; False, and nothing counted, if they are too many."""
        with self.lock:
            if self.held_bytes + size_bytes > self.limit_bytes:
                return False
            self.held_bytes += size_bytes
            return True

    def give(self, size_bytes: int) -> None:
        """Counts bytes out."""
        with self.lock:
            self.held_bytes -= size_bytes

    def refusal(self) -> Overloaded:
        """The error for a body that there is no room for."""
        return Overloaded(
            f"the server holds {self.held_bytes >> 20} MiB of large requests, and may hold "
            f"{int(self.limit_bytes) >> 20} (body_memory_bytes); try again in a moment"
        )


class Share:
    """What one request takes of an intake. Its owner closes it when the call is answered, also while a thread takes."""

    __slots__ = ("_closed", "held_bytes", "intake")

    def __init__(self, intake: Intake) -> None:
        self.held_bytes = 0
        self.intake = intake
        self._closed = False

    def __repr__(self) -> str:
        return f"<Share {self.held_bytes} bytes{' | closed' if self._closed else ''}>"

    def take(self, size_bytes: int) -> None:
        """Counts bytes in. Overloaded if there is no room; CallerLeft if closed, for a thread that nobody waits for."""
        with self.intake.lock:
            self.check()
            if not self.intake.take(size_bytes):
                raise self.intake.refusal()
            self.held_bytes += size_bytes

    def check(self) -> None:
        """CallerLeft if closed."""
        if self._closed:
            raise CallerLeft("the call has ended")

    def give(self, size_bytes: int) -> None:
        """Counts bytes out."""
        with self.intake.lock:
            if not self._closed:
                self.intake.give(size_bytes)
                self.held_bytes -= size_bytes

    def close(self) -> None:
        """Counts out what is left."""
        with self.intake.lock:
            if self.held_bytes:
                self.give(self.held_bytes)
            self._closed = True
