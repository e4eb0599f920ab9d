"""The child process: read a frame, view tensors, call the model, answer.

One event loop in the main thread. Calls wait in `_inbox` and are taken by runner tasks, one after the other; a runner
whose model awaits something is replaced by another, so that any number of asynchronous calls run side by side, while a
model that only computes costs no task switch. The same code serves `parallel_workers: 0`, in a thread of the server.

A call is answered exactly once (Reply, Failed or End), whatever happens to it; a cancelled one with Failed.
Before a call starts, its number is written to the progress cell, memory that the pool shares: when this process dies,
the pool knows which calls had begun.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
import json
import logging
import os
from pathlib import Path
import select
import struct
import sys
import time
import traceback
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec

from mlserve import execute, frames
from mlserve.arena import Views
from mlserve.errors import MLServeError
from mlserve.eventloop import Waiter, new_waiter, watch
from mlserve.frames import Channel, ChannelClosed, Message, SlotRef
from mlserve.layout import output_forms, pack_response, unpack_request
from mlserve.loader import Loader, import_implementation
from mlserve.model import MLModel
from mlserve.reply_slots import ReplySlots
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest, InferenceResponse, MetadataModelResponse

_logger = logging.getLogger("mlserve.worker")
_FLUSH_SECONDS = 0.0002  # answers wait at most so long for company in one write
_TURN_SECONDS = 0.001  # runners give way to the loop at least this often, between calls
_PROGRESS = struct.Struct("<Q")
_HELD_SLOTS = 64  # a model that keeps more inputs than this gets copies
_CANCELLED_STATUS = 499


class _Loaded:
    """A model that this worker holds."""

    def __init__(self, model: MLModel, modules: Any) -> None:
        self.model = model
        self.modules = modules
        self.slow = False  # its last call took long: do not let finished answers wait for the next one


class _Stream:
    """The worker's end of one streamed call."""

    def __init__(self, call: int, credit: int) -> None:
        self.call = call
        self.credit = credit  # chunks that may still be sent before the client has taken some
        self.credit_came: Waiter | None = None
        send, receive = anyio.create_memory_object_stream[InferenceRequest](float("inf"))  # bounded by the pool
        self.requests_in, self.requests = send, receive

    def add_credit(self, chunks: int) -> None:
        self.credit += chunks
        if self.credit_came is not None:
            self.credit_came.set()

    async def take_credit(self) -> None:
        while self.credit <= 0:
            self.credit_came = new_waiter()
            await self.credit_came.wait()
        self.credit_came = None
        self.credit -= 1


class Worker:
    """Serves one channel until it closes or a Stop frame comes."""

    def __init__(self, channel: Channel, progress: Any) -> None:
        self._channel = channel
        self._progress = progress
        self._views = Views()
        self._reply_slots = ReplySlots(self._views, self._ask_for_slot)
        self._loader = Loader()
        self._models: dict[int, _Loaded] = {}
        self._inbox: deque[Any] = deque()
        self._dropped: set[int] = set()  # calls in the inbox that were cancelled
        self._scopes: dict[int, anyio.CancelScope] = {}  # calls that may be awaiting something
        self._streams: dict[int, _Stream] = {}
        self._idle: list[Waiter] = []
        self._searching = 0  # runners that will look into the inbox before they wait again
        self._first_put = 0.0  # when the oldest frame not yet flushed was put; 0: none
        self._flush_planned = False
        self._grants: deque[SlotRef | None] = deque()

    async def run(self) -> None:
        """Serves until the pool's end of the channel closes, or says stop."""
        self._loop = asyncio.get_running_loop()
        self._writable = anyio.Event()
        with anyio.CancelScope() as self._life:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._read)
                self._tasks.start_soon(self._drain_backlog)
                self._put(frames.Hello(os.getpid(), sys.version.split()[0]))
        await self._unload_all()
        self._views.close()

    async def _read(self) -> None:
        await watch(self._channel.sock, self._on_readable)
        self._life.cancel()

    def _on_readable(self) -> bool:
        try:
            self._accept(self._channel.receive(wait_for_descriptors=True))
        except ChannelClosed:
            return False
        return True

    def _accept(self, incoming: list[Any]) -> None:
        """Files new frames: work into the inbox, the rest is done at once."""
        for frame in incoming:
            message = getattr(frame, "request", None)
            if message is not None and message.slot is not None:
                self._attach(message.slot)
            kind = type(frame)
            if kind is frames.Infer:
                self._inbox.append(frame)
            elif kind is frames.Open:
                self._streams[frame.call] = _Stream(frame.call, frame.credit)
                self._inbox.append(frame)
            elif kind is frames.Load or kind is frames.Unload:
                self._inbox.append(frame)
            else:
                self._control(frame)
        if self._inbox and not self._searching:
            self._wake_runner()

    def _control(self, frame: Any) -> None:
        kind = type(frame)
        if kind is frames.Cancel:
            scope = self._scopes.get(frame.call)
            if scope is not None:
                scope.cancel()
            elif any(getattr(one, "call", None) == frame.call for one in self._inbox):
                self._dropped.add(frame.call)
        elif kind is frames.Grant:
            if frame.slot is not None:
                self._attach(frame.slot)
            self._grants.append(frame.slot)
        elif kind is frames.Return:
            surplus = self._reply_slots.give_back(frame.slots)
            if surplus:
                self._put(frames.Freed(surplus))
        elif kind is frames.Forget:
            for number in frame.slots:
                self._views.detach(number)
        elif kind is frames.Stop:
            self._life.cancel()
        else:
            self._stream_control(frame)

    def _stream_control(self, frame: Any) -> None:
        stream = self._streams.get(frame.call)
        if stream is None:
            return  # it ended in the meantime
        if isinstance(frame, frames.Credit):
            stream.add_credit(frame.chunks)
        elif isinstance(frame, frames.Push):
            stream.requests_in.send_nowait(unpack_request(frame.request, self._find))
        else:
            stream.requests_in.close()

    # -- runners ------------------------------------------------------------------------------------------------------

    def _wake_runner(self) -> None:
        self._searching += 1
        if self._idle:
            self._idle.pop().set()
        else:
            self._tasks.start_soon(self._runner)

    async def _runner(self) -> None:
        """Takes work until there is none, then waits to be woken. `_searching` counts it while it is not waiting."""
        last_turn = time.perf_counter()
        while True:
            while self._inbox:
                await self._do(self._inbox.popleft())
                now = time.perf_counter()
                if now - last_turn > _TURN_SECONDS:
                    await anyio.lowlevel.checkpoint()
                    last_turn = time.perf_counter()
            self._flush()
            self._searching -= 1
            waiter = new_waiter()
            self._idle.append(waiter)
            await waiter.wait()
            last_turn = time.perf_counter()

    async def _do(self, frame: Any) -> None:
        kind = type(frame)
        if kind is frames.Infer:
            await self._infer(frame)
        elif kind is frames.Open:
            await self._stream(frame)
        elif kind is frames.Load:
            await self._give_way(self._load(frame))
        elif kind is frames.Unload:
            await self._give_way(self._unload(frame.model))
            self._put(frames.Unloaded(frame.model))

    async def _give_way(self, work: Any) -> Any:
        """Awaits something that may take long, while another runner looks after the inbox."""
        self._searching -= 1
        if self._inbox and not self._searching:
            self._wake_runner()
        try:
            return await work
        finally:
            self._searching += 1

    # -- calls --------------------------------------------------------------------------------------------------------

    async def _infer(self, frame: frames.Infer) -> None:
        call = frame.call
        if call in self._dropped:
            self._dropped.discard(call)
            self._failed(call, "the call was cancelled", _CANCELLED_STATUS, "CANCELLED", 0.0)
            return
        loaded = self._models.get(frame.model)
        if loaded is None:
            self._failed(call, "the model was unloaded before the call began", 503, "UNAVAILABLE", 0.0)
            return
        if loaded.slow:
            self._flush()
        _PROGRESS.pack_into(self._progress, 0, call)
        started = time.perf_counter()
        message: Message | None = None
        try:
            request = unpack_request(frame.request, self._find)
            response = loaded.model.predict(request)
            if not isinstance(response, InferenceResponse) and hasattr(response, "__await__"):
                response = await self._await(call, response)
            answer = execute.complete(loaded.model, request.id, response)
            forms = output_forms(request, answer, frame.form)
            message = pack_response(answer, forms, self._reply_slots.lease)
            del request, response, answer
            busy = time.perf_counter() - started
            self._put(frames.Reply(call, message, busy))
        except _Cancelled:
            busy = time.perf_counter() - started
            self._failed(call, "the call was cancelled", _CANCELLED_STATUS, "CANCELLED", busy)
        except (Exception, SystemExit) as error:
            busy = time.perf_counter() - started
            if message is not None and message.slot is not None:
                self._reply_slots.give_back([message.slot.number])
            self._failed_with(call, loaded.model, frame.request.id, error, busy)
        loaded.slow = busy > _FLUSH_SECONDS

    async def _await(self, call: int, response: Any) -> Any:
        """Awaits an asynchronous predict in a scope of its own, so that a Cancel frame can end it."""
        with anyio.CancelScope() as scope:
            self._scopes[call] = scope
            self._loop.call_soon(self._tell_waiting, call)
            try:
                return await self._give_way(response)
            finally:
                del self._scopes[call]
        raise _Cancelled

    def _tell_waiting(self, call: int) -> None:
        """One turn of the loop later: if the call is still here, it has given way, and the worker can take more."""
        if call in self._scopes:
            self._put(frames.Waiting(call))

    async def _stream(self, frame: frames.Open) -> None:
        """Starts a stream as a task of its own, so that the runner can go on."""
        if frame.call in self._dropped:
            self._dropped.discard(frame.call)
            self._streams.pop(frame.call)
            self._failed(frame.call, "the call was cancelled", _CANCELLED_STATUS, "CANCELLED", 0.0)
            return
        _PROGRESS.pack_into(self._progress, 0, frame.call)
        self._scopes[frame.call] = anyio.CancelScope()
        self._put(frames.Waiting(frame.call))
        self._tasks.start_soon(self._run_stream, frame)

    async def _run_stream(self, frame: frames.Open) -> None:
        stream = self._streams[frame.call]
        loaded = self._models.get(frame.model)
        scope = self._scopes[frame.call]
        try:
            with scope:
                if loaded is None:
                    raise MLServeError("the model was unloaded before the call began", 503)
                await self._send_chunks(loaded.model, stream, frame.form)
            if scope.cancelled_caught:
                self._failed(frame.call, "the call was cancelled", _CANCELLED_STATUS, "CANCELLED", 0.0)
            else:
                self._put(frames.End(frame.call))
        except (Exception, SystemExit) as error:
            if loaded is None:
                self._failed(frame.call, str(error), 503, "UNAVAILABLE", 0.0)
            else:
                self._failed_with(frame.call, loaded.model, None, error, 0.0)
        finally:
            del self._scopes[frame.call], self._streams[frame.call]
            stream.requests_in.close()
            stream.requests.close()

    async def _send_chunks(self, model: MLModel, stream: _Stream, form: str) -> None:
        answers = execute.stream(model, self._requests(stream))
        try:
            async for answer in answers:
                await stream.take_credit()
                forms = output_forms(None, answer, form)
                self._put(frames.Chunk(stream.call, pack_response(answer, forms, self._reply_slots.lease)))
        finally:
            with anyio.CancelScope(shield=True):
                await answers.aclose()  # type: ignore[attr-defined]  # an async generator, typed as an iterator

    async def _requests(self, stream: _Stream) -> AsyncIterator[InferenceRequest]:
        async for request in stream.requests:
            self._put(frames.Pulled(stream.call))
            yield request

    def _failed_with(
        self, call: int, model: MLModel, request_id: str | None, error: BaseException, busy_seconds: float
    ) -> None:
        known = execute.describe_failure(model, request_id, error)
        self._failed(call, known.message, known.http_status, known.grpc_status, busy_seconds)

    def _failed(self, call: int, message: str, http_status: int, grpc_status: str, busy_seconds: float) -> None:
        self._put(frames.Failed(call, message, http_status, grpc_status, busy_seconds))

    # -- models -------------------------------------------------------------------------------------------------------

    async def _load(self, frame: frames.Load) -> None:
        settings = ModelSettings.model_validate_json(frame.settings)
        folder = Path(frame.folder) if frame.folder else None
        settings.source_dir = folder
        modules = self._loader.open(folder)
        try:
            with self._loader.active(modules):
                implementation = import_implementation(settings.implementation, settings, folder)
                model = implementation(settings)
                outcome = await _maybe_await(model.load())
            if outcome is not None:
                model.ready = bool(outcome)
            elif model.ready is None:  # load() said nothing, neither by its result nor by self.ready
                model.ready = True
            metadata = await _maybe_await(model.metadata())
            details = _details(model)
        except (Exception, SystemExit) as error:
            self._loader.discard(modules)
            status = error.http_status if isinstance(error, MLServeError) else 500
            text = f"{type(error).__name__}: {error}" if not isinstance(error, MLServeError) else str(error)
            self._put(frames.LoadFailed(frame.model, text, status, traceback.format_exc()))
            return
        self._models[frame.model] = _Loaded(model, modules)
        self._put(frames.Loaded(frame.model, bool(model.ready), _metadata_json(metadata), details))

    async def _unload(self, number: int) -> None:
        loaded = self._models.pop(number, None)
        if loaded is None:
            return
        try:
            await _maybe_await(loaded.model.unload())
        except Exception:
            _logger.exception("model '%s' failed to unload", loaded.model.name)
        self._loader.discard(loaded.modules)

    async def _unload_all(self) -> None:
        with anyio.CancelScope(shield=True):
            for number in list(self._models):
                await self._unload(number)

    # -- frames and slots ---------------------------------------------------------------------------------------------

    def _put(self, frame: frames.ToPool) -> None:
        """Sends a frame soon: with others of the same loop turn, but after at most _FLUSH_SECONDS of more work."""
        self._channel.put(frame)
        now = time.perf_counter()
        if not self._first_put:
            self._first_put = now
        elif now - self._first_put > _FLUSH_SECONDS:
            self._flush()
            return
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_planned = False
        self._first_put = 0.0
        freed = self._views.take_freed()
        if freed:
            self._channel.put(frames.Freed(freed))
        try:
            self._channel.flush()
        except ChannelClosed:
            self._life.cancel()
        if self._channel.backlog:
            self._writable.set()

    async def _drain_backlog(self) -> None:
        """Writes on when the pool reads slower than this worker answers."""
        while True:
            await self._writable.wait()
            self._writable = anyio.Event()
            while self._channel.backlog:
                await anyio.wait_writable(self._channel.sock)
                self._flush()

    def _attach(self, slot: SlotRef) -> None:
        if slot.fresh:
            self._views.attach(slot.number, self._channel.descriptors.popleft(), slot.size_bytes)

    def _find(self, number: int) -> Any:
        hold = self._views.hold(number)
        return _Copies(hold) if len(self._views.held) > _HELD_SLOTS else hold

    def _ask_for_slot(self, size_bytes: int) -> SlotRef | None:
        """Asks the pool for a slot to answer in, and waits for it. Rare: such slots are kept and used again."""
        self._channel.put(frames.Need(size_bytes))
        self._flush()
        while not self._grants:
            select.select([self._channel.sock], [self._channel.sock] if self._channel.backlog else [], [])
            self._channel.flush()
            self._accept(self._channel.receive(wait_for_descriptors=True))
        return self._grants.popleft()

    # -- custom metrics -----------------------------------------------------------------------------------------------

    def register(self, name: str, description: str) -> None:
        """Passes a custom metric on to the server."""
        self._put(frames.Registered(name, description))

    def observe(self, model_name: str, model_version: str, values: dict[str, float]) -> None:
        """Passes values of custom metrics on to the server."""
        self._put(frames.Observed(model_name, model_version, values))


class _Cancelled(Exception):
    """The scope of a call was cancelled."""


class _Copies:
    """Gives copies instead of views, so that the slot goes back at once."""

    def __init__(self, hold: Any) -> None:
        self._hold = hold

    def view(self, offset: int, length: int) -> Any:
        return self._hold.view(offset, length).copy()


async def _maybe_await(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value


def _metadata_json(metadata: Any) -> bytes:
    if not isinstance(metadata, MetadataModelResponse):
        metadata = MetadataModelResponse.model_validate(metadata)
    return str(metadata.model_dump_json()).encode()


def _details(model: MLModel) -> bytes:
    """What the server must know beside the metadata."""
    return msgspec.json.encode({"streams": type(model).predict_stream is not MLModel.predict_stream})
