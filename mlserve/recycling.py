"""Exchanges workers that are worn out, or full: a fresh one comes up beside the old one and takes its seat.

From then on the old one gets no calls; it finishes those that it has, streams included, and ends.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import anyio

from mlserve.errors import StartupError
from mlserve.link import Link
from mlserve.loading import UNLOAD_SECONDS, note_rest
from mlserve.observing import Observer

_logger = logging.getLogger("mlserve.pool")
_LOOK_SECONDS = 0.25  # between two looks at a worker's memory
_MOST_LINGERING = 4  # worn workers of one pool that still finish their calls, before the next exchange begins
_AGAIN_SECONDS = 10.0  # after a successor did not come up, or came up


class Wear(NamedTuple):
    """What a worker may take before it is recycled; 0: any amount."""

    calls: int = 0
    memory_bytes: int = 0

    def __str__(self) -> str:
        parts = [f"{self.calls} calls"] if self.calls else []
        parts += [f"{self.memory_bytes} bytes"] if self.memory_bytes else []
        return f" recycled after {' or '.join(parts)}" if parts else ""


NO_WEAR = Wear()


class Seat:
    """A worker's place in its pool."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.link: Link | None = None  # who has it: a worker that was ready and lives


class Recycling:
    """The exchange of workers in one pool, one after the other: there is never more than one too many coming up."""

    def __init__(self, pool_name: str, wear: Wear, observer: Observer) -> None:
        self._pool_name = pool_name
        self._observer = observer
        self._wear = wear
        self._lock = anyio.Lock()
        self._places = anyio.Semaphore(_MOST_LINGERING)

    async def attend(self, link: Link, start_successor: Callable[[], Awaitable[None]]) -> None:
        """Stays with a worker until it is worn out, has a successor, and has finished."""
        why = await until_worn(link, self._wear)
        if link.full:
            message = (
                "worker %d of pool %s %s: %s. Until a fresh one takes its seat, all it is sent travels in the frames"
            )
            _logger.error(message, link.pid, self._pool_name, why, link.full)
            await anyio.sleep(max(0.0, _AGAIN_SECONDS - link.ready_seconds))  # or one after the other, if full at once
        async with self._places:
            await self._exchange(link, why, start_successor)

    async def _exchange(self, link: Link, why: str, start_successor: Callable[[], Awaitable[None]]) -> None:
        async with self._lock:
            _logger.info("worker %d of pool %s %s: a fresh one takes its seat", link.pid, self._pool_name, why)
            while True:
                try:
                    await start_successor()
                    break
                except StartupError as error:
                    _logger.error("worker %d of pool %s stays for now: %s", link.pid, self._pool_name, error)
                    await anyio.sleep(_AGAIN_SECONDS)
        finished = anyio.Event()
        link.on_room = lambda: None if link.calls else finished.set()
        link.on_room()
        await finished.wait()
        async with self._lock:  # the next exchange begins when this one is over: old processes never pile up
            await self._end(link)

    async def _end(self, link: Link) -> None:
        """Ends a worker: politely, then by force. Cancelled as soon as it has ended."""
        seconds = UNLOAD_SECONDS * max(1, len(link.models))
        link.stop()
        await anyio.sleep(seconds)
        _logger.error(
            "worker %d of pool %s is killed: it did not end within %g s after another took its seat (an unload() that "
            "hangs, or a thread that is no daemon?)",
            link.pid,
            self._pool_name,
            seconds,
        )
        self._observer.worker_restarted(self._pool_name, "lingered")
        link.kill("lingered")


async def until_worn(link: Link, wear: Wear) -> str:
    """Waits until a worker has had its share; says of what."""
    link.worn_after = wear.calls
    async with anyio.create_task_group() as tasks:
        if wear.memory_bytes:
            tasks.start_soon(_watch_memory, link, wear.memory_bytes)
        await link.worn.wait()
        tasks.cancel_scope.cancel()
    if link.full:
        return "can look at no more shared memory"
    sent = link.next_number - 1
    return f"has had {sent} calls" if 0 < wear.calls <= sent else f"has grown beyond {wear.memory_bytes} bytes"


async def _watch_memory(link: Link, bound: int) -> None:
    """Looks at a worker's memory, its own and not what it shares, until it is above the bound."""
    while (resident := note_rest(link)) is not None:
        if link.next_number > 1 and resident > bound:
            if link.at_rest_bytes <= bound:
                link.worn.set()
                return
            _logger.warning(  # it would be recycled for ever
                "worker %d held %d bytes before its first call: recycle_above_bytes %d is too low, and has no effect",
                link.pid,
                link.at_rest_bytes,
                bound,
            )
            return
        await anyio.sleep(_LOOK_SECONDS)
