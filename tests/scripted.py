"""Workers that are tasks of the test: what they answer is scripted, and time is virtual where the test wants it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc

from mlserve import frames
from mlserve.arena import Arena
from mlserve.channel import Channel
from mlserve.eventloop import watch
from mlserve.frames import ToPool, ToWorker
from mlserve.launch import ProcessLauncher
from mlserve.pool import Pool
from mlserve.progress import SIZE_BYTES
from tests.engine import Observed


class Scripted(ProcessLauncher):
    """Starts workers that are tasks of the test: `script(frame)` gives what to answer with, None to say nothing."""

    def __init__(self, tasks: anyio.abc.TaskGroup, script: Callable[[Any], Any]) -> None:
        self.tasks = tasks
        self.script = script
        self.started_at: list[float] = []
        self.dies_at_once = False
        self.says_hello = True
        self.workers: list[ScriptedWorker] = []
        self.asked: ScriptedWorker | None = None  # whose frame the script is given

    def start(self, place: int = 0) -> Any:
        worker = ScriptedWorker(self)
        self.workers.append(worker)
        self.started_at.append(anyio.current_time())
        self.tasks.start_soon(worker.run)
        return worker


class ScriptedWorker:
    def __init__(self, launcher: Scripted) -> None:
        ours, theirs = socket.socketpair()
        self.pid = 1000 + len(launcher.workers)
        self.progress = bytearray(SIZE_BYTES)
        self.values = b""
        self.channel = Channel(ours, ToPool)
        self.killed_at: float | None = None
        self.there = Channel(theirs, ToWorker)
        self._launcher = launcher
        self._ended = anyio.Event()

    async def run(self) -> None:
        if self._launcher.dies_at_once:
            self._ended.set()
            return
        if self._launcher.says_hello:
            self.there.send(frames.Hello(self.pid, "3"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, self.there.sock, self._on_readable)
            await self._ended.wait()
            tasks.cancel_scope.cancel()

    def _on_readable(self) -> bool:
        for frame in self.there.receive():
            if isinstance(frame, frames.Stop):
                self._ended.set()
            self._launcher.asked = self
            answer = self._launcher.script(frame)
            if answer is not None:
                self.there.send(answer)
        return True

    async def wait(self) -> str:
        await self._ended.wait()
        return "ended"

    def kill(self) -> None:
        if not self._ended.is_set():
            self.killed_at = anyio.current_time()
            self._ended.set()

    def close(self) -> None:
        self.channel.close()
        self.there.close()


def loads(frame: Any) -> Any:
    """Loads and unloads whatever comes."""
    if isinstance(frame, frames.Load):
        return frames.Loaded(frame.model, True, b"{}", b"{}")
    return frames.Unloaded(frame.model) if isinstance(frame, frames.Unload) else None


@asynccontextmanager
async def scripted_pool(script: Callable[[Any], Any] = loads, workers: int = 1):
    """A pool with scripted workers, and their launcher."""
    async with anyio.create_task_group() as tasks:
        launcher = Scripted(tasks, script)
        pool = Pool("test", workers, launcher, Arena(1 << 24), Observed())
        await tasks.start(pool.run)
        yield pool, launcher
        await pool.stop(1.0)
