"""Calls of custom handlers in a worker."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio

from mlserve import execute, frames
from mlserve.asgi_frames import Exchange, receive_of
from mlserve.custom_metrics import bind_model
from mlserve.handler_answer import Answer
from mlserve.handling import Handler
from mlserve.plain_streams import noting_steps
from mlserve.worker_calls import Calls, LoadedModel
from mlserve.worker_stream import Cancelled

__all__ = ["run_handler"]


async def run_handler(calls: Calls, frame: frames.Handle, loaded: LoadedModel) -> None:
    """Runs one call of a custom handler."""
    if not calls.progress.begin(frame.call):
        calls.outbox.put(frames.Skipped(frame.call))
        return
    bind_model(loaded.model.name, loaded.model.version)

    def left() -> bool:
        scope = calls.scopes.get(frame.call)
        return scope is not None and scope.cancelled

    plain = noting_steps()
    answer = Answer(frame, calls.outbox, calls.streams, left)
    exchange = Exchange(frame, receive_of(frame, left), answer.send, answer.send_alone, [])

    async def work() -> None:
        try:
            await _handle(loaded.handlers[frame.place], exchange)
        except (asyncio.CancelledError, Cancelled):
            if left() and not answer.is_sent:
                await _after(exchange)
            raise

    try:
        await calls.wait([frame.call], work())
        answer.end()
        calls.progress.run(0)
    except BaseException as error:
        if calls.is_ending(error):
            raise
        calls.progress.run(0)  # what the thread still does is not seen
        for steps in plain:
            error = await calls.give_way(steps.over()) or error
        answer.break_off()
        calls.failed(frame.call, loaded.model, None, error, 0.0)
    finally:
        answer.close()


async def _handle(handler: Handler, exchange: Exchange) -> None:
    """Runs a handler, and closes the body that it streams, so that its `finally` blocks run in time."""
    try:
        await handler(exchange)
    finally:
        with anyio.move_on_after(execute.CLOSE_SECONDS, shield=True):
            for response in exchange.responses:
                body: Any = getattr(response, "body_iterator", None)
                if hasattr(body, "aclose"):
                    await body.aclose()


async def _after(exchange: Exchange) -> None:
    """Runs what shall follow an answer that its client did not wait for: it may be what cleans up."""
    for response in exchange.responses:
        if response.background is not None:
            await response.background()
