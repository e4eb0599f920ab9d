"""Starts workers: as processes of their own, or in a thread of the server for `parallel_workers: 0`."""

from __future__ import annotations

import json
import mmap
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import anyio

from mlserve import osdep
from mlserve.arena import unnamed_segment
from mlserve.channel import Channel
from mlserve.cores import thread_variables
from mlserve.counted import CELLS_BYTES
from mlserve.environments import Environment
from mlserve.frames import ToPool, ToWorker
from mlserve.progress import SIZE_BYTES

_POLL_SECONDS = 0.05
_NUMBERS = re.compile(r"\d+(,\d+)*")

# The worker gets the server's import path, as multiprocessing does it, or the own one of its environment (null) behind
# an overlay. Without `-m`, and without the empty name, which would put the working directory in front.
_COMMAND = (
    "import sys; own = sys.path[:] = [one for one in sys.path if one]; import json; "
    "path = json.loads(sys.argv.pop(1)); "
    "sys.path[:] = [place for one in path for place in (own if one is None else [one])]; "
    "from mlserve.worker_main import main; main()"
)


class Launched(Protocol):
    """A running worker, as its pool sees it."""

    channel: Channel
    pid: int
    progress: Any  # memory that both ends share: see progress.py
    values: Any  # the same, for what models count: see shared_values.py

    async def wait(self) -> str:
        """Waits until the worker has ended; says how."""

    def kill(self) -> None:
        """Ends it at once."""

    def close(self) -> None:
        """Frees what belongs to it. It must have ended."""


class ProcessLauncher:
    """Starts the worker processes of a pool, in our own Python or in a model's environment.

    Each sees one of the devices, and has its share of the cores.
    """

    def __init__(
        self,
        settings_json: bytes,
        environment: Environment | None = None,
        devices: Sequence[int | str] = (),
        workers: int = 1,
    ) -> None:
        self._settings_json = settings_json
        self._devices = devices
        self._python, self._variables = sys.executable, dict(os.environ)
        self._path: list[str | None] = [one for one in sys.path if one]
        if environment is not None:
            self._python, self._variables = environment.python, dict(environment.variables)
            self._path = [environment.overlay, None]
        self._variables |= thread_variables(self._variables, workers)

    def start(self, place: int = 0) -> Launched:
        """Starts the worker of a place in the pool: place i has device i, modulo their number.

        Must be called from the thread that lives as long as the server (see osdep).
        """
        variables = self._variables
        if self._devices:
            variables = {**variables, **visible_device(self._devices[place % len(self._devices)])}
        return _Process(self._python, self._path, variables, self._settings_json)


def visible_device(device: int | str) -> dict[str, str]:
    """The variables by which accelerator libraries see one device only; they read them when they are imported.

    ROCR_VISIBLE_DEVICES is left alone: it renumbers what HIP_VISIBLE_DEVICES then picks from. Level Zero (Intel) has
    numbers only, the others also names such as GPU-<UUID> and MIG-<UUID>.
    """
    name = str(device)
    variables = {"CUDA_VISIBLE_DEVICES": name, "HIP_VISIBLE_DEVICES": name}
    if _NUMBERS.fullmatch(name):
        variables["ZE_AFFINITY_MASK"] = name
    return variables


class _Process:
    def __init__(self, python: str, path: list[str | None], variables: dict[str, str], settings_json: bytes) -> None:
        ours, theirs = socket.socketpair()
        memory = unnamed_segment(mmap.PAGESIZE + CELLS_BYTES)
        memory_fd: int = memory._fd  # type: ignore[attr-defined]  # public only through its name, which is gone
        numbers = [str(number) for number in (theirs.fileno(), memory_fd, os.getpid())]
        try:
            with theirs:
                self._popen = subprocess.Popen(
                    [python, "-c", _COMMAND, json.dumps(path), *numbers],
                    stdin=subprocess.PIPE,
                    pass_fds=(theirs.fileno(), memory_fd),
                    env=variables,
                    start_new_session=True,  # or Ctrl-C in a terminal would hit the workers too
                )
        except OSError:
            ours.close()
            memory.close()
            raise
        assert self._popen.stdin is not None
        with suppress(BrokenPipeError), self._popen.stdin as stdin:  # whoever waits for it sees that it ended
            stdin.write(settings_json)
        self._segment = memory
        assert memory.buf is not None
        self.progress = memory.buf[: mmap.PAGESIZE]
        self.values = memory.buf[mmap.PAGESIZE : mmap.PAGESIZE + CELLS_BYTES]
        self.pid = self._popen.pid
        self._pidfd = osdep.open_process(self.pid)
        self.channel = Channel(ours, ToPool)

    async def wait(self) -> str:
        if self._pidfd is not None:
            await anyio.wait_readable(self._pidfd)
            self._end_group()  # before it is reaped: its number cannot belong to anybody else yet
        while self._popen.poll() is None:
            await anyio.sleep(_POLL_SECONDS if self._pidfd is None else 0.001)
        code = self._popen.returncode
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def kill(self) -> None:
        self._popen.kill()

    def _end_group(self) -> None:
        """Ends the processes that its models have started and left behind."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        if self._popen.returncode is None:
            self._popen.kill()
            self._end_group()
        self._popen.wait()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        self.channel.close()
        self.progress.release()
        self.values.release()
        self._segment.close()


class ThreadLauncher:
    """Runs one worker in a thread of this process, on an event loop of its own."""

    def start(self, place: int = 0) -> Launched:
        return _Thread()


class _Thread:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.pid = os.getpid()
        self.progress = bytearray(SIZE_BYTES)
        self.values = b""  # what models count in this process is in its own registry
        self.channel = Channel(ours, ToPool)
        self._failure: BaseException | None = None
        self._given_up = False
        self._thread = threading.Thread(target=self._run, args=(theirs,), name="mlserve-worker", daemon=True)
        self._thread.start()

    def _run(self, theirs: socket.socket) -> None:
        from mlserve.worker_main import serve  # the worker imports models, which this module's users need not

        try:
            serve(Channel(theirs, ToWorker), self.progress)
        except BaseException as error:
            self._failure = error
            raise

    async def wait(self) -> str:
        while self._thread.is_alive() and not self._given_up:
            await anyio.sleep(_POLL_SECONDS)
        if self._given_up:
            return "was given up: its thread goes on until its model gives way"
        return f"failed: {self._failure!r}" if self._failure else "ended"

    def kill(self) -> None:
        """A thread cannot be killed: it is left alone, and ends when its model gives way, or with the process."""
        self._given_up = True
        with suppress(OSError):
            self.channel.sock.shutdown(socket.SHUT_RDWR)  # closed later: somebody may be reading it at this moment

    def close(self) -> None:
        self.channel.close()
        deadline = time.monotonic() + 0.2
        while self._thread.is_alive() and not self._given_up and time.monotonic() < deadline:
            self._thread.join(0.01)
