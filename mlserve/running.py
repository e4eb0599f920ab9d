"""Calls that run in a worker: unary, batched and streamed ones, each answered exactly once.

Before a call begins, its number is written to memory that the pool shares (progress.py): when this process dies, the
pool knows which calls had begun. A call is answered by Reply, Failed or End, whatever happens to it; a cancelled one by
Failed, one that the pool has taken back before it began by Skipped.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import anyio

from mlserve import execute, frames
from mlserve.arena import Views
from mlserve.asgi_frames import Exchange, receive_of
from mlserve.codecs.decoded import offer_decoded
from mlserve.codecs.decorator import check_signatures
from mlserve.custom_metrics import bind_model
from mlserve.errors import CodecError, MLServeError, ModelError
from mlserve.frames import Message, credit_of
from mlserve.giving_way import noting
from mlserve.handler_answer import Answer
from mlserve.handlers import get_custom_handlers
from mlserve.handling import Handler, Shared, make_handler
from mlserve.layout import output_forms, pack_response, unpack_request
from mlserve.merging import merge, rows_of, split
from mlserve.model import MLModel
from mlserve.outbox import FLUSH_SECONDS, Outbox
from mlserve.plain_streams import noting_steps
from mlserve.progress import Progress
from mlserve.reply_slots import ReplySlots
from mlserve.types import InferenceRequest, InferenceResponse
from mlserve.worker_stream import Cancelled, Stream

_HELD_SLOTS = 64  # a model that keeps more inputs than this gets copies
_CANCELLED_STATUS = 499
_LOOK_SECONDS = 0.005  # between two looks at the end whether all calls are over
_QUICK_STEPS = 8  # after so many quick chunks of a stream, the next ones leave together


class LoadedModel:
    """A model that this worker holds. ModelLoadError if a method of it has a signature that no call can be made by."""

    def __init__(self, model: MLModel, modules: Any) -> None:
        check_signatures(model)
        self.model = model
        self.modules = modules
        shared = Shared()
        self.handlers = [make_handler(marked, method, shared) for marked, method in get_custom_handlers(model)]

    def offer_decoded(self, request: InferenceRequest) -> None:
        """Makes the decoded request and inputs available in its parameters, decoded when somebody looks."""
        offer_decoded(request, self.model.settings, self.model.declared("inputs"))


class Running:
    """Runs calls on models. `give_way` awaits something that may take long, while others get their turn."""

    def __init__(
        self,
        progress: Progress,
        views: Views,
        reply_slots: ReplySlots,
        outbox: Outbox,
        give_way: Callable[[Awaitable[Any]], Awaitable[Any]],
        ending: Callable[[], bool],
    ) -> None:
        self._progress = progress
        self._views = views
        self._reply_slots = reply_slots
        self._outbox = outbox
        self._give_way = give_way
        self._ending = ending  # whether the worker is about to end
        self._loop = asyncio.get_running_loop()
        self._scopes: dict[int, _Scope] = {}  # calls that may be awaiting something
        self.streams: dict[int, Stream] = {}

    def find(self, number: int) -> Any:
        """The owner of views on a slot."""
        hold = self._views.hold(number)
        return _Copies(hold) if len(self._views.held) > _HELD_SLOTS else hold

    def cancel(self, call: int) -> bool:
        """Cancels a running call; False if no such call runs. A batch goes on until all of its calls are cancelled."""
        scope = self._scopes.get(call)
        if scope is None:
            return False
        scope.wanted.discard(call)
        if not scope.wanted and not scope.cancelled:
            scope.cancelled = True
            scope.cancel()
        return True

    async def cancel_all(self) -> None:
        """Cancels all calls, and waits until they have ended, or their time for that is over."""
        for call in list(self._scopes):
            self.cancel(call)
        with anyio.move_on_after(execute.CLOSE_SECONDS):
            while self._scopes:
                await anyio.sleep(_LOOK_SECONDS)

    # -- unary calls --------------------------------------------------------------------------------------------------

    async def infer(self, frame: frames.Infer, loaded: LoadedModel) -> None:
        """Runs one call."""
        if not self._progress.begin(frame.call):
            self._skip(frame)
            return
        started = time.perf_counter()
        request: InferenceRequest | None = None
        response: Any = None
        try:
            request = unpack_request(frame.request, self.find)
            response = await self._predict(loaded, request, [frame.call])
            response.id = request.id  # whatever the model made of it: callers match answers by it
            self._reply(frame.call, frame.form, request, response, started)
        except BaseException as error:
            if self._is_ending(error):
                raise
            self.failed(frame.call, loaded.model, frame.request.id, error, time.perf_counter() - started)
        del request, response

    async def _predict(self, loaded: LoadedModel, request: InferenceRequest, calls: list[int]) -> InferenceResponse:
        model = loaded.model
        bind_model(model.name, model.version)
        loaded.offer_decoded(request)
        response: Any = model.predict(request)
        if not isinstance(response, InferenceResponse) and hasattr(response, "__await__"):
            response = await self._await(calls, response, tell=not model.busy_while_awaiting)
        return execute.complete(model, request.id, response)

    async def _await(self, calls: list[int], response: Any, *, tell: bool = True) -> Any:
        """Awaits an asynchronous predict so that it can be cancelled; `tell`s the pool that there is room. Cancelled.

        By the task itself, not by a cancel scope, which costs more than many a predict.
        """
        task = asyncio.current_task()
        assert task is not None, "runners are tasks"
        scope = _Scope(task.cancel, set(calls))
        for call in calls:
            self._scopes[call] = scope
        if tell:
            self._loop.call_soon(self._tell_waiting, calls[0])
            response = noting(response, partial(self._progress.give_way, calls[0]))
        try:
            return await self._give_way(response)
        except asyncio.CancelledError:
            if not scope.cancelled:
                raise  # the worker ends
            raise Cancelled from None
        finally:
            for call in calls:
                del self._scopes[call]
            if scope.cancelled and sys.version_info >= (3, 11):
                task.uncancel()  # also where the model swallowed it

    def _tell_waiting(self, call: int) -> None:
        """One turn of the loop later: if the call is still here, it has given way, and the worker can take more."""
        if call in self._scopes:
            self._outbox.put(frames.Waiting(call))

    def _reply(self, call: int, form: str, request: InferenceRequest, response: Any, started: float) -> None:
        message: Message | None = None
        try:
            message = self._pack(request, response, form)
            self._outbox.put(frames.Reply(call, message, time.perf_counter() - started))
            self._progress.give_way(call)  # whatever holds the worker up before that leaves is another one
        except BaseException:
            if message is not None and message.slot is not None:
                self._reply_slots.give_back([message.slot.number])
            raise

    def _pack(self, request: InferenceRequest | None, response: InferenceResponse, form: str) -> Message:
        """The response laid out. ModelError if the model gave what cannot be sent: that is not the client's fault."""
        try:
            return pack_response(response, output_forms(request, response, form), self._reply_slots.lease)
        except CodecError as error:
            raise ModelError(str(error)) from error

    async def handle(self, frame: frames.Handle, loaded: LoadedModel) -> None:
        """Runs one call of a custom handler."""
        if not self._progress.begin(frame.call):
            self._outbox.put(frames.Skipped(frame.call))
            return
        bind_model(loaded.model.name, loaded.model.version)

        def left() -> bool:
            scope = self._scopes.get(frame.call)
            return scope is not None and scope.cancelled

        plain = noting_steps()
        answer = Answer(frame, self._outbox.put, self.streams, left)
        exchange = Exchange(frame, receive_of(frame, left), answer.send, [])

        async def work() -> None:
            try:
                await _handle(loaded.handlers[frame.place], exchange)
            except (asyncio.CancelledError, Cancelled):
                if left() and not answer.is_whole:
                    await _after(exchange)
                raise

        try:
            await self._await([frame.call], work())
            answer.end()
        except BaseException as error:
            if self._is_ending(error):
                raise
            for steps in plain:
                error = await self._give_way(steps.over()) or error
            answer.break_off()
            self.failed(frame.call, loaded.model, None, error, 0.0)
        finally:
            answer.close()

    # -- batches ------------------------------------------------------------------------------------------------------

    async def infer_batch(self, frame: frames.Batch, loaded: LoadedModel, dropped: set[int]) -> list[frames.Infer]:
        """Runs several calls as one. Gives back those that have to run one by one, none of them answered yet: one bad
        request does not fail the others.
        """
        members = [one for one in frame.calls if one.call not in dropped]
        for one in frame.calls:
            if one.call in dropped:
                self.drop(one.request)
                self.refuse(one.call, "the call was cancelled", _CANCELLED_STATUS, "CANCELLED")
        if len(members) <= 1:
            return members
        if not self._progress.begin(members[-1].call):
            for one in members:
                self._skip(one)
            return []
        if await self._try_as_one(members, loaded):
            return []
        self._outbox.put(frames.Apart(members[0].call))
        return members

    async def _try_as_one(self, members: list[frames.Infer], loaded: LoadedModel) -> bool:
        """Runs calls as one; False, with nothing answered, if they have to run one by one."""
        started = time.perf_counter()
        holds: dict[int, Any] = {}

        def find(number: int) -> Any:
            hold = holds[number] = self.find(number)
            return hold

        try:
            requests = [unpack_request(one.request, find) for one in members]
            merged = merge(requests)
        except Exception:  # whatever it is: who is to blame shows when each runs alone
            _detach(members, holds)
            return False
        rows = [rows_of(one) for one in requests]
        try:
            response = await self._predict(loaded, merged, [one.call for one in members])
        except Cancelled as error:
            self._fail_all(members, loaded, error, started)
            return True
        except BaseException as error:
            if self._is_ending(error):
                raise
            _detach(members, holds)
            return False  # each runs alone now, and the one that failed fails again
        try:
            answers = split(response, rows)
        except (Exception, SystemExit) as error:
            self._fail_all(members, loaded, error, started)
            return True
        for one, request, answer in zip(members, requests, answers):
            answer.id = request.id
            try:
                self._reply(one.call, one.form, request, answer, started)
            except Exception as error:
                self.failed(one.call, loaded.model, request.id, error, 0.0)
        return True

    def _fail_all(self, members: list[frames.Infer], loaded: LoadedModel, error: BaseException, started: float) -> None:
        ids = ",".join(one.request.id or "" for one in members)
        known = self._known(loaded.model, ids, error)
        for one in members:
            self._fail(one.call, known, time.perf_counter() - started)

    # -- streams ------------------------------------------------------------------------------------------------------

    def begin_stream(self, frame: frames.Open) -> None:
        """Notes that a stream begins, so that it can be cancelled from now on."""
        self._progress.begin(frame.call)  # whatever it says: streams are not taken back
        self._progress.give_way(frame.call)
        stream = self.streams[frame.call]
        self._scopes[frame.call] = _Scope(stream.cancel, {frame.call})
        self._outbox.put(frames.Waiting(frame.call))

    async def run_stream(self, frame: frames.Open, loaded: LoadedModel) -> None:
        """Runs one streamed call; `begin_stream` came before.

        A call runs until the step of a plain generator has ended that its client has left it in: it takes its place
        among the model's running calls, and the model is not unloaded under it.
        """
        stream, scope = self.streams[frame.call], self._scopes[frame.call]
        stream.task = asyncio.current_task()
        plain = noting_steps()
        try:
            bind_model(loaded.model.name, loaded.model.version)
            await self._send_chunks(loaded, stream, scope, frame.form)
            self._outbox.put(frames.End(frame.call))
        except BaseException as error:
            if self._is_ending(error):
                raise
            if scope.cancelled and isinstance(error, asyncio.CancelledError):
                error = Cancelled()
            stream.settle()
            for steps in plain:
                error = await steps.over() or error
            self.failed(frame.call, loaded.model, stream.request_id, error, 0.0)
        finally:
            del self._scopes[frame.call]
            self.streams.pop(frame.call).close()

    async def _send_chunks(self, loaded: LoadedModel, stream: Stream, scope: _Scope, form: str) -> None:
        if scope.cancelled:
            raise Cancelled  # before it began
        answers = execute.stream(loaded.model, self._requests(loaded, stream))
        began = last_turn = time.perf_counter()
        quick = 0  # steps in a row that took no time to speak of
        try:
            async for answer in answers:
                if scope.cancelled:
                    raise Cancelled  # which the model swallowed
                quick = quick + 1 if time.perf_counter() - began < FLUSH_SECONDS else 0
                await stream.until_credit()
                message = self._pack(None, answer, form)
                stream.credit -= credit_of(message)
                self._outbox.put(frames.Chunk(stream.call, message))
                if quick < _QUICK_STEPS:  # the next step may compute for long and never give way
                    self._outbox.flush()
                began = time.perf_counter()
                if began - last_turn > FLUSH_SECONDS:
                    await asyncio.sleep(0)  # others get their turn, and it learns whether its client is still there
                    began = last_turn = time.perf_counter()
        finally:
            with anyio.CancelScope(shield=True):
                await answers.aclose()

    async def _requests(self, loaded: LoadedModel, stream: Stream) -> AsyncIterator[InferenceRequest]:
        async for request in stream.requests:
            self._outbox.put(frames.Pulled(stream.call))
            if isinstance(request, MLServeError):
                raise request
            stream.request_id = request.id or stream.request_id
            loaded.offer_decoded(request)
            yield request

    # -- failures -----------------------------------------------------------------------------------------------------

    def failed(
        self, call: int, model: MLModel, request_id: str | None, error: BaseException, busy_seconds: float
    ) -> None:
        """Answers a call with what went wrong."""
        self._fail(call, self._known(model, request_id, error), busy_seconds)

    def _known(self, model: MLModel, request_id: str | None, error: BaseException) -> MLServeError:
        """What went wrong, for the caller; what is not the client's fault goes to the log."""
        if isinstance(error, Cancelled):
            return MLServeError("the call was cancelled", _CANCELLED_STATUS)
        return execute.describe_failure(model, request_id, error)

    def _fail(self, call: int, known: MLServeError, busy_seconds: float) -> None:
        message, http_status, grpc_status = execute.sendable(known)
        error_type = execute.type_of(known)
        self._progress.give_way(call)
        self._outbox.put(frames.Failed(call, message, http_status, grpc_status, busy_seconds, error_type))

    def _is_ending(self, error: BaseException) -> bool:
        """Whether an error is the end of this worker, and not a matter of the call."""
        return isinstance(error, asyncio.CancelledError) and self._ending()

    def drop(self, message: Message) -> None:
        """Gives the slot of a request back that nobody will look at."""
        if message.slot is not None:
            self._views.hold(message.slot.number)

    def _skip(self, frame: frames.Infer) -> None:
        """Leaves a call alone that the pool has given to another worker."""
        self.drop(frame.request)
        self._outbox.put(frames.Skipped(frame.call))

    def refuse(self, call: int, message: str, http_status: int, grpc_status: str) -> None:
        """Answers a call that never begins."""
        self._outbox.put(frames.Failed(call, message, http_status, grpc_status))


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


def _detach(members: list[frames.Infer], holds: dict[int, Any]) -> None:
    """Copies the tensors of calls that run later out of their slots, which go back with the views of the batch."""
    for one in members:
        message = one.request
        if message.slot is None or message.slot.number not in holds:
            continue
        hold = holds[message.slot.number]
        for part in message.parts:
            if part.data is None:
                part.data = bytes(hold.view(part.offset, part.length))
        message.slot = None


class _Scope:
    """What can be cancelled, and the calls that still want its outcome."""

    __slots__ = ("cancel", "cancelled", "wanted")

    def __init__(self, cancel: Callable[[], Any], wanted: set[int]) -> None:
        self.cancel = cancel
        self.cancelled = False
        self.wanted = wanted


class _Copies:
    """Gives copies instead of views, so that the slot goes back at once."""

    def __init__(self, hold: Any) -> None:
        self._hold = hold

    def view(self, offset: int, length: int) -> Any:
        return self._hold.view(offset, length).copy()
