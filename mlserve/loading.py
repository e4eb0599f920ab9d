"""A load or an unload in one worker, within its time; a load in a process of its own, where it can harm nobody."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import TypeVar

import anyio

from mlserve import frames, osdep
from mlserve.errors import MLServeError, ModelLoadError, WorkerDied
from mlserve.launch import Launched
from mlserve.link import Link

_logger = logging.getLogger("mlserve.pool")
_GREETING_SECONDS = 120.0  # how long a process may take until it says hello
UNLOAD_SECONDS = 30.0  # how long a model's unload() may block its worker
_LOOK_SECONDS = 0.05  # between two looks at what the worker runs
_LOOKS = 1000  # or so many in all, where there is much time

_T = TypeVar("_T")


async def greet(link: Link) -> bool:
    """Waits until a worker is up; False, and it is killed, if that takes too long."""
    with anyio.move_on_after(_GREETING_SECONDS):
        await link.greet()
        return True
    _logger.error("worker %d is killed: it did not come up in %g s", link.pid, _GREETING_SECONDS)
    link.kill()
    return False


async def load_in(link: Link, frame: frames.Load, limit_seconds: float) -> frames.Loaded:
    """Loads a model in one worker, which is killed if that takes too long; 0: it may take for ever. ModelLoadError."""
    try:
        loaded = await _in_time(link, link.load(frame), limit_seconds, "a load")
    except TimeoutError:
        raise ModelLoadError(f"its load() did not end within {limit_seconds:g} s (load_timeout_seconds)") from None
    note_rest(link)
    return loaded


def note_rest(link: Link) -> int | None:
    """What a worker holds in bytes, None once it is gone; noted as what it holds at rest if it has had no call yet."""
    resident = osdep.resident_bytes(link.pid)
    if link.next_number == 1:
        link.at_rest_bytes = resident or 0
    return resident


async def unload_in(link: Link, model: int) -> None:
    """Unloads a model in one worker, which is killed if that takes too long."""
    try:
        await _in_time(link, link.unload(model), UNLOAD_SECONDS, "an unload")
    except (TimeoutError, WorkerDied):
        pass  # then it is unloaded


async def _in_time(link: Link, work: Awaitable[_T], seconds: float, what: str) -> _T:
    """What `work` gives. TimeoutError, and the worker is killed, if it takes longer, not counting the time in which the
    worker runs a call that somebody waits for: that is no reason to end it.
    """
    outcome: list[_T] = []
    errors: list[MLServeError] = []

    async def watch() -> None:
        left = seconds
        while left > 0:
            step = min(left, max(_LOOK_SECONDS, seconds / _LOOKS))
            await anyio.sleep(step)
            if not link.runs_for_somebody:
                left -= step
        _logger.error("worker %d is killed: %s took more than %g s", link.pid, what, seconds)
        link.kill("stuck")
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        if seconds:
            tasks.start_soon(watch)
        try:
            outcome.append(await work)
        except MLServeError as error:
            errors.append(error)
        tasks.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if not outcome:
        raise TimeoutError
    return outcome[0]


async def load_apart(launched: Launched, link: Link, frame: frames.Load, limit_seconds: float) -> frames.Loaded:
    """Loads a model in a process that nobody else needs, which has ended when this returns.

    ModelLoadError if the load fails, takes too long, or ends the process.
    """
    outcome: list[frames.Loaded | MLServeError] = []

    async def load() -> None:
        if not await greet(link):
            return
        try:
            outcome.append(await load_in(link, frame, limit_seconds))
        except WorkerDied:
            return  # how it ended is told below
        except MLServeError as error:
            outcome.append(error)
        link.stop()  # it unloads the model, as it would anywhere
        await anyio.sleep(UNLOAD_SECONDS)
        launched.kill()

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.run)
            tasks.start_soon(load)
            how = await launched.wait()
            tasks.cancel_scope.cancel()
    finally:
        link.lost()
        launched.close()
    found = outcome[0] if outcome else ModelLoadError(f"the process in which its load() was tried {how}")
    if isinstance(found, MLServeError):
        raise found
    return found
