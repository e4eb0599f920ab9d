"""A folder that is made once, whoever wants it at the same time: other tasks, other servers, one after a kill."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread

_LOOK_AGAIN_SECONDS = 0.1


async def make_once(folder: Path, make: Callable[[int], Awaitable[None]]) -> None:
    """Has `make` fill the folder, unless it is complete; others that want it wait, and find it complete.

    `make` gets the descriptor of the lock: a child process that writes into the folder must inherit it, so that the
    lock holds as long as anybody writes, also when this process is killed. What a killed one left is thrown away.
    """
    # Invariant: the mark is there only when the folder holds all that it should. It lies beside it, out of reach of
    # what is unpacked into it.
    complete = folder.with_name(f"{folder.name}.complete")
    if complete.exists() and folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    async with _lock(folder.with_name(f"{folder.name}.lock")) as descriptor:
        if complete.exists() and folder.is_dir():
            return
        complete.unlink(missing_ok=True)  # somebody may have deleted the folder
        await _remove(folder)
        folder.mkdir()
        try:
            await make(descriptor)
            complete.touch()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await _remove(folder)
            raise


@asynccontextmanager
async def _lock(path: Path) -> AsyncGenerator[int, None]:
    """Holds a lock that tasks and processes share. The system lets it go when its last holder ends, however."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await anyio.sleep(_LOOK_AGAIN_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


async def _remove(folder: Path) -> None:
    if folder.exists():
        await anyio.to_thread.run_sync(shutil.rmtree, folder)
