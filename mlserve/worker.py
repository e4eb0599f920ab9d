"""The child process: read a frame, view tensors, call the model, answer.

One event loop in the main thread. Work waits in `_inbox` and is taken by runner tasks, one piece after the other; a
runner whose model awaits something is replaced by another, so that any number of asynchronous calls run side by side,
while a model that only computes costs no task switch. The same code serves `parallel_workers: 0`, in a thread of the
server.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec

from mlserve import execute, frames, garbage, malloc, shared_values
from mlserve.arena import Views
from mlserve.attaching import Attaching
from mlserve.channel import Channel, ChannelClosed, Unreadable
from mlserve.counted import Series
from mlserve.custom_metrics import bind_model, bind_sink
from mlserve.errors import MLServeError, ModelLoadError, from_exception
from mlserve.eventloop import FutureWaiter, Waiter, watch
from mlserve.fixed_answers import fixed_answer
from mlserve.frames import SlotRef
from mlserve.handlers import get_custom_handlers
from mlserve.layout import unpack_request
from mlserve.loader import Loader, import_implementation
from mlserve.model import MLModel
from mlserve.outbox import Outbox
from mlserve.progress import LOADING, Progress
from mlserve.reply_slots import ReplySlots
from mlserve.running import infer, infer_batch
from mlserve.running_handlers import run_handler
from mlserve.running_streams import begin_stream, run_stream
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest, MetadataModelResponse
from mlserve.wire.json_data import encodable
from mlserve.worker_calls import Calls, LoadedModel
from mlserve.worker_stream import Stream

_logger = logging.getLogger("mlserve.worker")
_IDLE_SECONDS = 10.0  # without work for this long, memory goes back to the system
_TURN_SECONDS = 0.001  # runners give way to the loop at least this often, between calls


class Worker:
    """Serves one channel until it closes or a Stop frame comes."""

    def __init__(self, channel: Channel, progress: Progress, values: Any = None) -> None:
        self._channel = channel
        self._values = values
        self._progress = progress
        self._views = Views()
        self._reply_slots = ReplySlots(self._views, self._ask_for_slot)
        self._grants: deque[SlotRef | None] = deque()
        self._loader = Loader()
        self._models: dict[int, LoadedModel] = {}
        self._inbox: deque[Any] = deque()
        self._dropped: set[int] = set()  # calls in the inbox that were cancelled
        self._idle: list[Waiter] = []  # runners that wait for work
        self._searching = 0  # runners that will look into the inbox before they wait again
        self._taken = 0  # pieces of work since the start
        self._failure: Exception | None = None  # what came could not be taken in

    async def run(self) -> None:
        """Serves until the pool's end of the channel closes, or says stop. Raises what kept it from reading on."""
        with anyio.CancelScope() as self._life:
            self._outbox = Outbox(self._channel, self._views, self._life.cancel)
            self._calls = Calls(
                self._progress, self._views, self._reply_slots, self._outbox, self._give_way, self._is_ending
            )
            self._attaching = Attaching(self._channel, self._views, self._outbox.put)
            sink = _MetricsSink(self._outbox)
            bind_sink(sink)
            if self._values is None:
                shared_values.take_names_again()
            else:
                shared_values.count_in(self._values, sink.counted)
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._read)
                self._tasks.start_soon(self._outbox.drain)
                self._tasks.start_soon(self._give_memory_back)
                self._outbox.put(frames.Hello(os.getpid(), sys.version.split()[0]))
        await self._unload_all()
        self._views.close()
        if self._failure is not None:
            raise self._failure

    # -- frames in ----------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        await watch(self._channel.sock, self._on_readable)
        self._life.cancel()

    def _on_readable(self) -> bool:
        self._end_stray_child()
        try:
            self._receive()
        except ChannelClosed:
            return False
        return True

    def _receive(self) -> None:
        """Takes in what has come. ChannelClosed also where that failed: calls may be lost with it, and so this worker
        ends, which fails those that had begun and lets others run the rest.
        """
        try:
            self._accept(self._channel.receive(wait_for_descriptors=True))
        except ChannelClosed:
            raise
        except Exception as error:
            self._failure = error
            self._life.cancel()
            raise ChannelClosed from error

    def _accept(self, incoming: list[Any]) -> None:
        """Files new frames: work into the inbox; the rest is done at once."""
        for frame in incoming:
            kind = type(frame)
            if kind is frames.Infer:
                if frame.request.slot is None or self._attaching.attach([frame.request.slot]):
                    self._inbox.append(frame)
                else:
                    self._calls.skip(frame)
            elif kind is frames.Batch:
                if self._attaching.attach([one.request.slot for one in frame.calls]):
                    self._inbox.append(frame)
                else:
                    for one in frame.calls:
                        self._calls.skip(one)
            elif kind is frames.Open:
                self._calls.streams[frame.call] = Stream(frame.call, frame.credit)
                self._inbox.append(frame)
            elif kind is frames.Load or kind is frames.Unload or kind is frames.Handle:
                self._inbox.append(frame)
            else:
                self._control(frame)
        if self._inbox and not self._searching:
            self._wake_runner()

    def _control(self, frame: Any) -> None:
        kind = type(frame)
        if kind is frames.Cancel:
            if not self._calls.cancel(frame.call) and self._is_waiting(frame.call):
                self._dropped.add(frame.call)
        elif kind is frames.Attach:
            self._attaching.attach(frame.slots)
        elif kind is frames.Grant:
            self._take_grant(frame.slot)
        elif kind is frames.Return:
            surplus = self._reply_slots.give_back(frame.slots)
            if surplus:
                self._outbox.put(frames.Freed(surplus))
        elif kind is frames.Forget:
            for number in frame.slots:
                self._views.detach(number)
        elif kind is frames.Ping:
            self._outbox.put(frames.Pong())
        elif kind is frames.Stop:
            self._tasks.start_soon(self._end)
        elif kind is Unreadable:
            raise RuntimeError(f"a frame of the server cannot be read: {frame.reason}")
        else:
            self._stream_control(frame)

    def _stream_control(self, frame: Any) -> None:
        stream = self._calls.streams.get(frame.call)
        if isinstance(frame, frames.Push):
            request: InferenceRequest | MLServeError
            try:
                if not self._attaching.attach([frame.request.slot]):
                    self._calls.drop(frame.request)
                    raise MLServeError("the worker can take no more large requests; another takes its place", 503)
                request = unpack_request(frame.request, self._calls.find)
            except MLServeError as error:
                request = error
            if stream is not None:  # it may have ended in the meantime
                stream.add(request)
        elif stream is None:
            return
        elif isinstance(frame, frames.Credit):
            stream.add_credit(frame.credit)
        else:
            stream.close_requests()

    def _is_waiting(self, call: int) -> bool:
        for frame in self._inbox:
            members = frame.calls if isinstance(frame, frames.Batch) else (frame,)
            if any(getattr(one, "call", None) == call for one in members):
                return True
        return False

    # -- runners ------------------------------------------------------------------------------------------------------

    def _wake_runner(self) -> None:
        self._searching += 1
        if self._idle:
            self._idle.pop().set()
        else:
            self._tasks.start_soon(self._runner)

    async def _runner(self) -> None:
        """Takes work until there is none, then waits to be woken."""
        while True:
            last_turn = time.perf_counter()
            while self._inbox:
                self._taken += 1
                await self._do(self._inbox.popleft())
                self._end_stray_child()
                if time.perf_counter() - last_turn > _TURN_SECONDS:
                    if not self._on_readable():  # calls may have been cancelled meanwhile: they shall not begin
                        self._life.cancel()
                    await anyio.lowlevel.checkpoint()
                    last_turn = time.perf_counter()
            self._outbox.flush()
            self._searching -= 1
            waiter = FutureWaiter()
            self._idle.append(waiter)
            await waiter.wait()

    def _end_stray_child(self) -> None:
        """Ends a process that a model has forked and let come back here: there would be two workers on one socket."""
        if self._outbox.forked:
            os._exit(1)

    async def _give_way(self, work: Awaitable[Any]) -> Any:
        """Awaits something that may take long, while another runner looks after the inbox."""
        self._searching -= 1
        if self._inbox and not self._searching:
            self._wake_runner()
        try:
            return await work
        finally:
            self._searching += 1

    async def _do(self, frame: Any) -> None:
        if self._outbox.waits:
            self._outbox.flush()  # what is answered shall not wait for what comes now, nor end with it
        kind = type(frame)
        if kind is frames.Load or kind is frames.Unload:
            await self._give_way(self._progress.noting(LOADING, self._load_or_unload(frame)))
            self._progress.run(0)
            return
        loaded = self._models.get(frame.model)
        if loaded is None:
            for one in frame.calls if kind is frames.Batch else (frame,):
                self._refuse(one, "the model was unloaded before the call began", 503, "UNAVAILABLE")
        elif kind is frames.Batch:
            apart = await infer_batch(self._calls, frame, loaded, self._dropped)
            self._dropped.difference_update(one.call for one in frame.calls)
            self._inbox.extendleft(reversed(apart))  # as calls like others: they can still be cancelled
        elif frame.call in self._dropped:
            self._refuse(frame, "the call was cancelled", 499, "CANCELLED")
        elif kind is frames.Infer:
            await infer(self._calls, frame, loaded)
        elif kind is frames.Handle:
            await run_handler(self._calls, frame, loaded)
        else:
            begin_stream(self._calls, frame)
            self._tasks.start_soon(run_stream, self._calls, frame, loaded)

    def _refuse(self, frame: Any, message: str, http_status: int, grpc_status: str) -> None:
        """Answers a call that shall not begin."""
        self._dropped.discard(frame.call)
        if isinstance(frame, frames.Infer):
            self._calls.drop(frame.request)
        stream = self._calls.streams.pop(frame.call, None)
        if stream is not None:
            stream.close()
        self._calls.refuse(frame.call, message, http_status, grpc_status)

    async def _give_memory_back(self) -> None:
        """Returns freed memory to the system after a while without work: see malloc.py for why it was kept."""
        trimmed = seen = 0
        while True:
            await anyio.sleep(_IDLE_SECONDS)
            if seen == self._taken != trimmed:
                malloc.trim()
                trimmed = self._taken
            seen = self._taken

    async def _end(self) -> None:
        """Ends this worker. What still runs is cancelled before, since the end lets no `finally` await anything."""
        self._inbox.clear()
        await self._calls.cancel_all()
        self._life.cancel()

    # -- models -------------------------------------------------------------------------------------------------------

    async def _load_or_unload(self, frame: frames.Load | frames.Unload) -> None:
        if isinstance(frame, frames.Load):
            await self._load(frame)
        else:
            await self._unload(frame.model)
            garbage.look_again()
            self._outbox.put(frames.Unloaded(frame.model))

    async def _load(self, frame: frames.Load) -> None:
        settings = ModelSettings.model_validate_json(frame.settings)
        folder = Path(frame.folder) if frame.folder else None
        settings._source = frame.source or None
        settings.source_dir = folder
        modules = self._loader.open(folder)
        bind_model(settings.name, settings.version)
        try:
            with self._loader.active(modules):
                model = import_implementation(settings.implementation, settings, folder)(settings)
                outcome = await _maybe_await(model.load())
            if outcome is not None:
                model.ready = bool(outcome)
            elif model.ready is None:  # load() said nothing, neither by its result nor by self.ready
                model.ready = True
            metadata = _metadata_json(await _maybe_await(model.metadata()))
            loaded = LoadedModel(model, modules)  # it reads the annotations of methods, which may be wrong
            details = await _details(loaded)
            ready = bool(model.ready)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and self._is_ending():
                raise
            self._loader.discard(modules)
            self._outbox.put(_load_failure(frame.model, error))
            return
        self._models[frame.model] = loaded
        garbage.set_aside()
        self._outbox.put(frames.Loaded(frame.model, ready, metadata, details))

    def _is_ending(self) -> bool:
        return self._life.cancel_called

    async def _unload(self, number: int) -> None:
        loaded = self._models.pop(number, None)
        if loaded is None:
            return
        try:
            await _maybe_await(loaded.model.unload())
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and self._is_ending():
                raise
            _logger.exception("model '%s' failed to unload", loaded.model.name)
        self._loader.discard(loaded.modules)

    async def _unload_all(self) -> None:
        with anyio.CancelScope(shield=True):
            for number in list(self._models):
                await self._unload(number)

    # -- slots --------------------------------------------------------------------------------------------------------

    def _take_grant(self, slot: SlotRef | None) -> None:
        if slot is not None and not self._attaching.attach([slot]):
            self._views.drop(slot.number)
            slot = None
        self._grants.append(slot)

    def _ask_for_slot(self, size_bytes: int) -> SlotRef | None:
        """Asks the pool for a slot to answer in, and waits for it. Rare: such slots are kept and used again."""
        self._outbox.put(frames.Need(size_bytes))
        self._outbox.flush()
        ready = select.poll()  # not select(), which knows no descriptor above 1023
        while not self._grants:
            ready.register(self._channel.sock, select.POLLIN | (select.POLLOUT if self._channel.backlog else 0))
            ready.poll()
            self._outbox.flush()
            self._receive()
        return self._grants.popleft()


class _MetricsSink:
    """Passes the custom metrics of models on to the server."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def register(self, name: str, description: str) -> None:
        self._put(frames.Registered(name, description))

    def observe(self, model_name: str, model_version: str, values: dict[str, float]) -> None:
        self._put(frames.Observed(str(model_name), str(model_version), values))  # a model may have made them anything

    def counted(self, cell: int, series: Series) -> None:
        self._put(frames.Counted(cell, series))

    def _put(self, frame: frames.ToPool) -> None:
        """Models may log from threads of their own."""
        if threading.get_ident() == self._thread:
            self._outbox.put(frame)
        else:
            self._loop.call_soon_threadsafe(self._outbox.put, frame)


async def _maybe_await(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value


def _load_failure(number: int, error: BaseException) -> frames.LoadFailed:
    known = from_exception(error)
    message, http_status, _ = execute.sendable(known)
    if http_status < 500 and "http_status" not in vars(known):
        http_status = 500  # nobody chose that one: it is of the error's class, and speaks of requests
    if isinstance(error, ModelLoadError) and isinstance(error.__cause__, (ModuleNotFoundError, AttributeError)):
        return frames.LoadFailed(number, message, http_status, "")  # the message says all of it
    detail = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return frames.LoadFailed(number, message, http_status, encodable(detail))


def _metadata_json(metadata: Any) -> bytes:
    if not isinstance(metadata, MetadataModelResponse):
        metadata = MetadataModelResponse.model_validate(metadata)
    return str(metadata.model_dump_json()).encode()


async def _details(loaded: LoadedModel) -> bytes:
    """What the server must know beside the metadata."""
    marked = [one for one, _ in get_custom_handlers(loaded.model)]
    handlers = [(one.rest_path, one.rest_method, one.claimed_by) for one in marked]
    fixed = [await fixed_answer(one, handler) for one, handler in zip(marked, loaded.handlers, strict=True)]
    error_codes = [one.error_codes for one in marked]
    streams = type(loaded.model).predict_stream is not MLModel.predict_stream
    details = {"handlers": handlers, "fixed": fixed, "error_codes": error_codes, "streams": streams}
    return msgspec.json.encode(details)
