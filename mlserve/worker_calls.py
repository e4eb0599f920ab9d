"""What all calls of a worker have in common: how they are awaited, cancelled, and answered exactly once.

Before a call begins, its number is written to memory that the pool shares (progress.py): when this process dies, the
pool knows which calls had begun. A call is answered by Reply, Failed or End, whatever happens to it; a cancelled one by
Failed, one that the pool has taken back before it began by Skipped.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from mlserve import execute, frames
from mlserve.arena import Views
from mlserve.codecs.decoded import offer_decoded
from mlserve.codecs.decorator import check_signatures
from mlserve.custom_metrics import bind_model
from mlserve.errors import CodecError, MLServeError, ModelError
from mlserve.frames import Message
from mlserve.handlers import get_custom_handlers
from mlserve.handling import Shared, make_handler
from mlserve.layout import output_forms, pack_response
from mlserve.model import MLModel
from mlserve.outbox import Outbox
from mlserve.progress import Progress
from mlserve.reply_slots import ReplySlots
from mlserve.types import InferenceRequest, InferenceResponse
from mlserve.worker_stream import Cancelled, Stream

__all__ = ["CANCELLED_STATUS", "Calls", "LoadedModel", "Scope"]

CANCELLED_STATUS = 499
_HELD_SLOTS = 64  # a model that keeps more inputs than this gets copies
_LOOK_SECONDS = 0.005  # between two looks at the end whether all calls are over


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


class Calls:
    """The calls of a worker: how they are awaited, cancelled and answered, each exactly once.

    `give_way` awaits something that may take long, while others get their turn.
    """

    def __init__(
        self,
        progress: Progress,
        views: Views,
        reply_slots: ReplySlots,
        outbox: Outbox,
        give_way: Callable[[Awaitable[Any]], Awaitable[Any]],
        ending: Callable[[], bool],
    ) -> None:
        self.progress = progress
        self.outbox = outbox
        self.give_way = give_way
        self.scopes: dict[int, Scope] = {}  # calls that may be awaiting something
        self.streams: dict[int, Stream] = {}
        self._views = views
        self._reply_slots = reply_slots
        self._ending = ending  # whether the worker is about to end
        self._loop = asyncio.get_running_loop()

    def find(self, number: int) -> Any:
        """The owner of views on a slot."""
        hold = self._views.hold(number)
        return _Copies(hold) if len(self._views.held) > _HELD_SLOTS else hold

    def cancel(self, call: int) -> bool:
        """Cancels a running call; False if no such call runs. A batch goes on until all of its calls are cancelled."""
        scope = self.scopes.get(call)
        if scope is None:
            return False
        scope.wanted.discard(call)
        if not scope.wanted and not scope.cancelled:
            scope.cancelled = True
            scope.cancel()
        return True

    async def cancel_all(self) -> None:
        """Cancels all calls, and waits until they have ended, or their time for that is over."""
        for call in list(self.scopes):
            self.cancel(call)
        with anyio.move_on_after(execute.CLOSE_SECONDS):
            while self.scopes:
                await anyio.sleep(_LOOK_SECONDS)

    async def predict(self, loaded: LoadedModel, request: InferenceRequest, calls: list[int]) -> InferenceResponse:
        """Runs `predict` of a model, in a way that the calls it is for can be cancelled."""
        model = loaded.model
        bind_model(model.name, model.version)
        loaded.offer_decoded(request)
        response: Any = model.predict(request)
        if not isinstance(response, InferenceResponse) and hasattr(response, "__await__"):
            response = await self.wait(calls, response, tell=not model.busy_while_awaiting)
        return execute.complete(model, request.id, response)

    async def wait(self, calls: list[int], response: Any, *, tell: bool = True) -> Any:
        """Awaits an asynchronous predict so that it can be cancelled; `tell`s the pool that there is room. Cancelled.

        By the task itself, not by a cancel scope, which costs more than many a predict.
        """
        task = asyncio.current_task()
        assert task is not None, "runners are tasks"
        scope = Scope(task.cancel, set(calls))
        for call in calls:
            self.scopes[call] = scope
        if tell:
            self._loop.call_soon(self._tell_waiting, calls[0])
        try:
            return await self.give_way(self.progress.noting(calls[-1], response))
        except asyncio.CancelledError:
            if not scope.cancelled:
                raise  # the worker ends
            raise Cancelled from None
        finally:
            for call in calls:
                del self.scopes[call]
            if scope.cancelled and sys.version_info >= (3, 11):
                task.uncancel()  # also where the model swallowed it

    def _tell_waiting(self, call: int) -> None:
        """One turn of the loop later: if the call is still here, it has given way, and the worker can take more."""
        if call in self.scopes:
            self.outbox.put(frames.Waiting(call))

    def reply(self, call: int, form: str, request: InferenceRequest, response: Any, started: float) -> None:
        """Answers a call. ModelError, with nothing sent, if the model gave what cannot be."""
        message: Message | None = None
        try:
            message = self.pack(request, response, form)
            self.outbox.put(frames.Reply(call, message, time.perf_counter() - started))
            self.progress.run(0)  # whatever holds the worker up before that leaves is another one
        except BaseException:
            if message is not None and message.slot is not None:
                self._reply_slots.give_back([message.slot.number])
            raise

    def pack(self, request: InferenceRequest | None, response: InferenceResponse, form: str) -> Message:
        """The response laid out. ModelError if the model gave what cannot be sent: that is not the client's fault."""
        try:
            return pack_response(response, output_forms(request, response, form), self._reply_slots.lease)
        except CodecError as error:
            raise ModelError(str(error)) from error

    def failed(
        self, call: int, model: MLModel, request_id: str | None, error: BaseException, busy_seconds: float
    ) -> None:
        """Answers a call with what went wrong."""
        self.fail(call, self.known(model, request_id, error), busy_seconds)

    def known(self, model: MLModel, request_id: str | None, error: BaseException) -> MLServeError:
        """What went wrong, for the caller; what is not the client's fault goes to the log."""
        if isinstance(error, Cancelled):
            return MLServeError("the call was cancelled", CANCELLED_STATUS)
        return execute.describe_failure(model, request_id, error)

    def fail(self, call: int, known: MLServeError, busy_seconds: float) -> None:
        """Answers a call with what is known to have gone wrong."""
        message, http_status, grpc_status = execute.sendable(known)
        error_type = execute.type_of(known)
        self.progress.run(0)
        self.outbox.put(frames.Failed(call, message, http_status, grpc_status, busy_seconds, error_type))

    def is_ending(self, error: BaseException) -> bool:
        """Whether an error is the end of this worker, and not a matter of the call."""
        return isinstance(error, asyncio.CancelledError) and self._ending()

    def drop(self, message: Message) -> None:
        """Gives the slot of a request back that nobody will look at."""
        if message.slot is not None:
            self._views.drop(message.slot.number)

    def skip(self, frame: frames.Infer) -> None:
        """Leaves a call alone that the pool has given to another worker."""
        self.drop(frame.request)
        self.outbox.put(frames.Skipped(frame.call))

    def refuse(self, call: int, message: str, http_status: int, grpc_status: str) -> None:
        """Answers a call that never begins."""
        self.outbox.put(frames.Failed(call, message, http_status, grpc_status))


class Scope:
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
