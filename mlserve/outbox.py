"""Frames on their way from a worker to its pool: several in one write, but none kept waiting."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

import anyio

from mlserve import frames
from mlserve.arena import Views
from mlserve.channel import Channel, ChannelClosed

FLUSH_SECONDS = 0.0005  # a frame waits at most so long for company while there is other work


class Outbox:
    """The worker's sending side. Belongs to its event loop."""

    def __init__(self, channel: Channel, views: Views, on_closed: Callable[[], None]) -> None:
        self._channel = channel
        self._views = views
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._oldest_at = 0.0  # when the oldest frame not yet written was put; 0: there is none
        self.waits = False  # something is to be written at the end of this turn
        self._writable = anyio.Event()
        self._emptied: anyio.Event | None = None  # somebody waits until all is written
        self.forked = False  # this process is a child of the worker: it shall not speak in its name
        os.register_at_fork(after_in_child=self._fork)

    def _fork(self) -> None:
        self.forked = True

    def put(self, frame: frames.ToPool) -> None:
        """Sends a frame soon: at the end of this turn of the loop, or at once if one has waited FLUSH_SECONDS."""
        if self.forked:
            return
        self._channel.put(frame)
        now = time.perf_counter()
        if not self._oldest_at:
            self._oldest_at = now
        elif now - self._oldest_at > FLUSH_SECONDS:
            self.flush()
            return
        if not self.waits:
            self.waits = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Writes what waits, and which slots have become free."""
        self.waits = False
        self._oldest_at = 0.0
        freed = self._views.take_freed()
        if freed:
            self._channel.put(frames.Freed(freed))
        try:
            self._channel.flush()
        except ChannelClosed:
            self._on_closed()
        if self._channel.backlog:
            self._writable.set()
        elif self._emptied is not None:
            self._emptied.set()
            self._emptied = None

    async def written(self) -> None:
        """Writes what waits now, and waits where the pool reads slower than that. Does not give way otherwise."""
        self.flush()
        if self._channel.backlog:
            self._emptied = self._emptied or anyio.Event()
            await self._emptied.wait()

    async def drain(self) -> None:
        """Writes on when the pool reads slower than this worker answers. Runs until cancelled."""
        while True:
            await self._writable.wait()
            self._writable = anyio.Event()
            while self._channel.backlog:
                await anyio.wait_writable(self._channel.sock)
                self.flush()
