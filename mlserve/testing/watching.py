"""What a runtime does besides answering: holds up the event loop, or keeps what it should have let go."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio

from mlserve.model import MLModel

__all__ = ["check_leaks", "loop_goes_on", "what_stays"]

_BEAT_SECONDS = 0.01
_ROUNDS = 4  # the first is not counted: libraries make their thread pools then
_DESCRIPTORS = "/proc/self/fd"
_GRACE_SECONDS = 2.0


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
    left: list[dict[str, set[Any]]] = []  # of each round: what began in it
    before = _held()
    gc.freeze()  # what is here already, which may be a whole framework, is not gone through in each round
    try:
        for _ in range(_ROUNDS):
            model = await round_trip()
            name, seen = repr(model), weakref.ref(model)
            del model
            gc.collect()
            if seen() is not None:
                gc.unfreeze()  # who refers to it may have been there before
                raise AssertionError(f"{name} is still there after unload(): {_holders(seen())} refers to it")
            after = _held()
            left.append({kind: after[kind] - before[kind] for kind in after})
            before = after
    finally:
        gc.unfreeze()
    for kind in before:
        stayed = await _after_grace(lambda: [one[kind] & _held()[kind] for one in left[1:]])  # noqa: B023  # awaited
        if all(stayed):
            raise AssertionError(
                f"{name} leaves {kind} behind each time that it is loaded and unloaded, the last time "
                f"{_listed(stayed[-1])}: end them in unload()"
            )


def what_stays() -> Callable[[], Awaitable[str]]:
    """From here on, watches what begins; the result tells which of those tasks and threads have not ended."""
    before = _held()

    async def tell() -> str:
        left = await _after_grace(lambda: [_begun("tasks") | _begun("threads")])
        return _listed(left[0])

    def _begun(kind: str) -> set[Any]:
        return {one for one in _held()[kind] - before[kind] if not _is_of_pool(one)}

    return tell


async def _after_grace(look: Callable[[], list[set[Any]]]) -> list[set[Any]]:
    """What is there in all of these; what is only about to end gets some time for it."""
    until = time.perf_counter() + _GRACE_SECONDS
    found = look()
    while all(found) and time.perf_counter() < until:
        await anyio.sleep(_BEAT_SECONDS)
        found = look()
    return found


def _is_of_pool(one: Any) -> bool:
    """Threads in which anyio and asyncio run plain functions: they stay for the next."""
    return isinstance(one, threading.Thread) and one.name.startswith(("AnyIO worker thread", "asyncio_"))


def _held() -> dict[str, set[Any]]:
    """Threads, open files and tasks as themselves, so that one that ends does not hide one that begins."""
    return {"threads": set(threading.enumerate()), "open files": _open_files(), "tasks": asyncio.all_tasks()}


def _open_files() -> set[tuple[str, str]]:
    """Number and target of each descriptor; sockets and pipes have numbers of their own in their targets."""
    found = set()
    for number in os.listdir(_DESCRIPTORS) if os.path.isdir(_DESCRIPTORS) else ():
        with suppress(OSError):  # the one that the listing itself had open
            found.add((number, os.readlink(f"{_DESCRIPTORS}/{number}")))
    return found


def _listed(things: set[Any]) -> str:
    return ", ".join(sorted(map(_named, things))[:3])


def _named(one: Any) -> str:
    if isinstance(one, tuple):
        return str(one[1])
    return str(one.get_name() if isinstance(one, asyncio.Task) else one.name)


def _holders(thing: Any) -> str:
    """What refers to a thing, as far as that tells something."""
    kinds = {type(one).__name__ for one in gc.get_referrers(thing) if type(one).__name__ != "frame"}
    return ", ".join(sorted(kinds)) or "something"
