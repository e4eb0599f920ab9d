"""Streamed calls in a worker: requests in, chunks out, as fast as the client takes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import anyio

from mlserve import execute, frames
from mlserve.custom_metrics import bind_model
from mlserve.errors import MLServeError
from mlserve.frames import credit_of
from mlserve.outbox import FLUSH_SECONDS
from mlserve.plain_streams import noting_steps
from mlserve.types import InferenceRequest
from mlserve.worker_calls import Calls, LoadedModel, Scope
from mlserve.worker_stream import Cancelled, Stream

__all__ = ["begin_stream", "run_stream"]

_QUICK_STEPS = 8  # after so many quick chunks of a stream, the next ones leave together


def begin_stream(calls: Calls, frame: frames.Open) -> None:
    """Notes that a stream begins, so that it can be cancelled from now on."""
    calls.progress.begin(frame.call)  # whatever it says: streams are not taken back
    calls.progress.run(0)
    stream = calls.streams[frame.call]
    calls.scopes[frame.call] = Scope(stream.cancel, {frame.call})
    calls.outbox.put(frames.Waiting(frame.call))


async def run_stream(calls: Calls, frame: frames.Open, loaded: LoadedModel) -> None:
    """Runs one streamed call; `begin_stream` came before.

    A call runs until the step of a plain generator has ended that its client has left it in: it takes its place
    among the model's running calls, and the model is not unloaded under it.
    """
    stream, scope = calls.streams[frame.call], calls.scopes[frame.call]
    stream.task = asyncio.current_task()
    plain = noting_steps()
    try:
        bind_model(loaded.model.name, loaded.model.version)
        chunks = _send_chunks(calls, loaded, stream, scope, frame.form)
        await calls.progress.noting(frame.call, chunks)
        calls.outbox.put(frames.End(frame.call))
    except BaseException as error:
        if calls.is_ending(error):
            raise
        if scope.cancelled and isinstance(error, asyncio.CancelledError):
            error = Cancelled()
        stream.settle()
        calls.progress.run(0)  # what the thread still does is not seen
        for steps in plain:
            error = await steps.over() or error
        calls.failed(frame.call, loaded.model, stream.request_id, error, 0.0)
    finally:
        calls.progress.run(0)
        del calls.scopes[frame.call]
        calls.streams.pop(frame.call).close()


async def _send_chunks(calls: Calls, loaded: LoadedModel, stream: Stream, scope: Scope, form: str) -> None:
    if scope.cancelled:
        raise Cancelled  # before it began
    answers = execute.stream(loaded.model, _requests(calls, loaded, stream))
    began = last_turn = time.perf_counter()
    quick = 0  # steps in a row that took no time to speak of
    try:
        async for answer in answers:
            if scope.cancelled:
                raise Cancelled  # which the model swallowed
            quick = quick + 1 if time.perf_counter() - began < FLUSH_SECONDS else 0
            await stream.until_credit()
            message = calls.pack(None, answer, form)
            stream.credit -= credit_of(message)
            calls.outbox.put(frames.Chunk(stream.call, message))
            if scope.cancelled:
                raise Cancelled  # as this task has read itself, where it asked for a slot
            if quick < _QUICK_STEPS:  # the next step may compute for long and never give way
                calls.outbox.flush()
            began = time.perf_counter()
            if began - last_turn > FLUSH_SECONDS:
                await asyncio.sleep(0)  # others get their turn, and it learns whether its client is still there
                began = last_turn = time.perf_counter()
    finally:
        with anyio.CancelScope(shield=True):
            await answers.aclose()


async def _requests(calls: Calls, loaded: LoadedModel, stream: Stream) -> AsyncIterator[InferenceRequest]:
    async for request in stream.requests:
        calls.outbox.put(frames.Pulled(stream.call))
        if isinstance(request, MLServeError):
            raise request
        stream.request_id = request.id or stream.request_id
        loaded.offer_decoded(request)
        yield request
