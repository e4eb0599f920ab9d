"""What a runtime does besides answering: holds up the event loop, or keeps what it should have let go."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio

from mlserve.model import MLModel

__all__ = ["check_leaks", "loop_goes_on"]

_BEAT_SECONDS = 0.01
_ROUNDS = 4  # the first is not counted: libraries make their thread pools then
_DESCRIPTORS = "/proc/self/fd"


@asynccontextmanager
async def loop_goes_on(what: str, limit_seconds: float) -> AsyncIterator[None]:
    """AssertionError if the event loop stands still for longer than that within the block."""
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await anyio.sleep(_BEAT_SECONDS)
            longest = max(longest, time.perf_counter() - before)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beat)
        await anyio.sleep(0)
        yield
        await anyio.sleep(2 * _BEAT_SECONDS)  # so that the beat that was held up ends too
        tasks.cancel_scope.cancel()
    assert longest <= limit_seconds, (
        f"{what} held up the event loop for {longest:.2f} s: other calls, deadlines and cancellation wait so long. "
        "Await what takes long, such as asyncio.to_thread(...), or make predict() a plain method"
    )


async def check_leaks(round_trip: Callable[[], Awaitable[MLModel]]) -> None:
    """Whether what `round_trip` has loaded, used and unloaded goes away: the model, its threads, files and tasks."""
    held: list[dict[str, int]] = []
    for _ in range(_ROUNDS):
        model = await round_trip()
        name, seen = repr(model), weakref.ref(model)
        del model
        gc.collect()
        assert seen() is None, f"{name} is still there after unload(): {_holders(seen())} refers to it"
        held.append(_held())
    for kind in held[0]:
        counts = [one[kind] for one in held]
        grows = all(later > earlier for earlier, later in pairwise(counts))
        assert not grows, f"{name} leaves {kind} behind each time that it is loaded and unloaded: {counts}"


def _held() -> dict[str, int]:
    files = len(os.listdir(_DESCRIPTORS)) if os.path.isdir(_DESCRIPTORS) else 0
    return {"threads": threading.active_count(), "open files": files, "tasks": len(asyncio.all_tasks())}


def _holders(thing: Any) -> str:
    """What refers to a thing, as far as that tells something."""
    kinds = {type(one).__name__ for one in gc.get_referrers(thing) if type(one).__name__ != "frame"}
    return ", ".join(sorted(kinds)) or "something"
