"""The pool's end of one worker: the calls sent to it, the slots lent to it, the models it holds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio

from mlserve import frames
from mlserve.arena import Arena
from mlserve.asking import Asking
from mlserve.bounds import Bounds, window_of
from mlserve.calls import CHUNK_CREDIT, Batch, Call, ChunkedCall, HandleCall, StreamCall, error_of
from mlserve.channel import ChannelClosed, Unreadable
from mlserve.errors import MLServeError, ModelError, WorkerDied
from mlserve.eventloop import watch
from mlserve.frames import credit_of, size_of
from mlserve.launch import Launched
from mlserve.layout import pack_request, unpack_response
from mlserve.lending import Lending
from mlserve.observing import Observer, Reports
from mlserve.progress import LOADING, Progress
from mlserve.recovery import Blame, GivenUp, blame_for, running_calls
from mlserve.sending import Sending
from mlserve.types import InferenceResponse
from mlserve.unsent import COUNTED_FROM_BYTES

_logger = logging.getLogger("mlserve.pool")
_SMOOTHING = 0.2
_DEFAULT_BOUNDS = Bounds()


class Link:
    """One running worker. Made by its supervisor, used by the pool, gone when the worker is."""

    def __init__(self, launched: Launched, arena: Arena, observer: Observer, now: Callable[[], float]) -> None:
        self.pid = launched.pid
        self.models: set[int] = set()
        self.open = 0  # Invariant: the number of calls in `calls` that are not waiting
        self.calls: dict[int, Call] = {}  # by number, in order of sending
        self.service_seconds: float | None = None
        self.window = window_of(None)  # so many calls that are not waiting it may have; 0: one of them takes long
        self.why = "died"  # how its end will be counted
        self.ready_at: float | None = None  # since when it is up and holds its models
        self.worn = anyio.Event()  # it has had its share of calls or memory, or can take no more slots
        self.full = ""  # why it can take none
        self.worn_after = 0  # calls until then; 0: any number
        self.running: dict[int, int] = {}  # how many calls of each model it has
        self.awaiting: dict[int, int] = {}  # how many batches of each model await something
        self.heard_at = now()  # when its last frame came
        self.bounds: dict[int, Bounds] = {}  # by model; set by the crew
        self.large_answers: set[int] = set()  # models that gave some; the crew's
        self.given_up = GivenUp()
        self._over = False
        self._now = now
        self._launched = launched
        self._channel = launched.channel
        self._progress = Progress(launched.progress)
        self._lending = Lending(arena)
        self._out = Sending(self._channel, self._lending)
        self._reports = Reports(observer, launched.pid, launched.values)
        self.next_number = 1  # of the next call
        self.at_rest_bytes = 0  # what it held before its first call
        self._asking = Asking(self._out.send, lambda: self.on_room())
        self._hello = anyio.Event()
        self.on_room: Callable[[], None] = lambda: None  # called when the worker may take another call
        self.on_orphans: Any = None  # called with calls that the worker did not begin

    def __repr__(self) -> str:
        return f"<Link {self.pid}: {self.open} open, {len(self.calls)} in flight, {len(self.models)} models>"

    @property
    def ready_seconds(self) -> float:
        """For how long it has been ready."""
        return 0.0 if self.ready_at is None else self._now() - self.ready_at

    def burden(self, model: int) -> tuple[int, int, int]:
        """How much it has to do beside a call of this model, for comparison with others."""
        return self.open, self.awaiting.get(model, 0), len(self.calls)

    def has_room(self, model: int) -> bool:
        """Whether it may take another call of this model."""
        return (
            not self._asking.under_way
            and not self._over
            and self.open < self.window
            and self.running.get(model, 0) < self.bounds.get(model, _DEFAULT_BOUNDS).max_running_calls
        )

    # -- calls --------------------------------------------------------------------------------------------------------

    def start(self, call: Call, on_end: Callable[[Batch], None] | None = None) -> None:
        """Sends a call. MLServeError if its request cannot be laid out, ChannelClosed if the worker is gone."""
        call.number = self.next_number
        sent_at = 0.0 if on_end is None else self._now()  # before it is sent: the worker may be faster than we are
        if isinstance(call, StreamCall):
            self._out.send(frames.Open(call.number, call.model, call.form, CHUNK_CREDIT))
            call.assigned.set()
        elif isinstance(call, HandleCall):
            call.frame.call, call.frame.credit = call.number, CHUNK_CREDIT
            self._out.send(call.frame)
        else:
            infer = self._infer_frame(call)
            self._out.send_requests(infer, [infer.request.slot])
        self._enter(call)
        call.waiting = False
        self.open += 1
        if on_end is not None:
            call.batch = Batch([call], sent_at, on_end)

    def start_batch(self, calls: list[Call], on_end: Callable[[Batch], None] | None = None) -> None:
        """Sends calls to run as one, in one place of the window. `on_end` is called when all of them are answered."""
        made: list[tuple[Call, frames.Infer]] = []
        for call in calls:
            call.number = self.next_number + len(made)
            try:
                made.append((call, self._infer_frame(call)))
            except MLServeError as error:
                call.fail(error)
        if not made:
            return
        sent_at = self._now()
        batch = frames.Batch(calls[0].model, [infer for _, infer in made])
        self._out.attach_ahead([infer.request for _, infer in made])
        self._out.send_requests(batch, [infer.request.slot for _, infer in made])
        sent = Batch([call for call, _ in made], sent_at, on_end)
        for call, _ in made:
            self._enter(call)
            call.waiting, call.batch = True, sent
        made[0][0].waiting = False
        self.open += 1

    def _infer_frame(self, call: Call) -> frames.Infer:
        assert call.request is not None, "streams are opened, not inferred"
        return frames.Infer(call.number, call.model, call.form, pack_request(call.request, self._lending.lease))

    def _enter(self, call: Call) -> None:
        if self.next_number == self.worn_after:
            self.worn.set()
        self.next_number += 1
        call.link = self
        self.calls[call.number] = call
        self.running[call.model] = self.running.get(call.model, 0) + 1

    def push(self, call: StreamCall, request: Any) -> None:
        """Sends one more request of a stream."""
        message = pack_request(request, self._lending.lease)
        call.pushed(credit_of(message))
        self._out.send_requests(frames.Push(call.number, message), [message.slot])

    def close_requests(self, call: StreamCall) -> None:
        """Says that a stream gets no more requests."""
        self._out.send(frames.Close(call.number))

    def took(self, call: ChunkedCall[Any], credit: int) -> None:
        """Lets the worker send so much more."""
        if call.number in self.calls:
            self._out.tell(frames.Credit(call.number, credit))

    def cancel(self, call: Call) -> None:
        """Tells the worker that nobody waits for a call. It still answers, so that the window stays true."""
        call.abandoned = True
        if self.calls.get(call.number) is call:
            self._out.tell(frames.Cancel(call.number))
            self._give_up(call)

    def _give_up(self, call: Call) -> None:
        """Nobody waits for a call any more that may still run."""
        patience = self.bounds.get(call.model, _DEFAULT_BOUNDS).hard_timeout_seconds
        self.given_up.add(call.number, self._now(), patience)

    def _leave(self, number: int, busy_seconds: float, answered: bool = True) -> Call | None:
        call = self.calls.get(number)
        if call is None:
            return None
        batch = call.batch
        if batch is not None:  # first: if that fails, the call is still here, and not forgotten
            busy_seconds = batch.leaves(busy_seconds, answered)
        del self.calls[number]
        self.running[call.model] -= 1
        self.given_up.discard(number)
        placed = call  # what takes the place in the window
        if batch is not None:
            call.batch = None  # a circle with it would keep the requests of all until the garbage is collected
            placed = batch.calls[0]
            if batch.left:
                return call
        if not placed.waiting:
            self.open -= 1
            if busy_seconds:
                known = self.service_seconds
                self.service_seconds = busy_seconds if known is None else known + _SMOOTHING * (busy_seconds - known)
            self.window = window_of(self.service_seconds)
        elif placed.request is not None:
            self.awaiting[call.model] -= 1
        return call

    def take_back(self) -> int:
        """Asks the worker not to begin what it has not begun: up to which call. `withdraw` does the rest, later."""
        self.window = 0
        self._progress.take_back(self.next_number - 1)
        return self.next_number - 1

    def withdraw(self, last: int) -> list[Call]:
        """The calls up to this one that the worker will not begin, in order; no longer its own."""
        begun = self.begun
        calls = [call for number, call in self.calls.items() if begun < number <= last]
        calls = self._withdrawn([call for call in calls if not isinstance(call, StreamCall)])
        if self.open:
            self.window = 0  # until the next answer
        return calls

    def _withdrawn(self, calls: list[Call]) -> list[Call]:
        """Lets go of calls, of batches as a whole; those that somebody waits for."""
        for call in calls:
            if call.batch is not None:
                call.batch.on_end = None  # it says nothing about batches
            self._leave(call.number, 0.0, answered=False)
        for call in calls:
            call.link, call.waiting, call.batch = None, False, None
        return [call for call in calls if not call.abandoned]

    # -- models -------------------------------------------------------------------------------------------------------

    async def greet(self) -> None:
        """Waits until the worker is up."""
        await self._hello.wait()

    async def load(self, frame: frames.Load) -> frames.Loaded:
        """Loads a model in the worker. ModelLoadError with the reason if that fails."""
        loaded = await self._asking.load(frame)
        self.models.add(frame.model)
        return loaded

    async def unload(self, model: int) -> None:
        """Unloads a model in the worker, after the calls that were sent before."""
        self.models.discard(model)
        await self._asking.unload(model)
        for counts in (self.running, self.awaiting):
            if not counts.get(model):  # a call that its unload did not wait for still counts
                counts.pop(model, None)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reads and writes until the channel closes."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._out.drain)
            await watch(self._channel.sock, self._on_readable)
            tasks.cancel_scope.cancel()

    def kill(self, why: str = "died") -> None:
        """Ends the worker at once; its supervisor does the rest. `why` is for the metric of restarts."""
        self.why = why
        self._launched.kill()

    def ping(self) -> None:
        """Asks the worker for a sign of life: any frame moves `heard_at`."""
        self._out.tell(frames.Ping())

    def stop(self) -> None:
        """Asks the worker to end."""
        self._out.tell(frames.Stop())

    def forget_slot(self, number: int) -> None:
        """The arena gave a slot back to the system: the worker shall unmap it."""
        if self._lending.forget(number):
            self._out.tell(frames.Forget([number]))

    def lost(self) -> tuple[list[Call], Blame]:
        """Winds up after the end: begun calls fail; gives those that had not begun, in order, and who is to blame."""
        self._over = True
        self._read_rest()
        last, calls = self.begun, list(self.calls.values())
        blame = blame_for(self._asking.loads, self._running_calls(), [call for call in calls if call.number <= last])
        self.calls, self.open, self.awaiting = {}, 0, {}
        self.models.clear()
        again = []
        for call in calls:
            call.link, call.waiting, call.batch = None, False, None
            if call.number > last and not isinstance(call, StreamCall):
                again.append(call)
            else:
                call.fail(WorkerDied("the worker process died while it ran this call; it is being restarted"))
        self._asking.lost()
        self._lending.discard()
        self._progress.close()
        self._reports.close()
        return again, blame

    @property
    def begun(self) -> int:
        """The number of the last call that the worker has begun."""
        return self._progress.begun

    def _running_calls(self) -> list[Call]:
        return running_calls(self.calls, self._progress.runs)

    @property
    def runs_for_somebody(self) -> bool:
        """Whether it runs a call at this moment that somebody waits for."""
        return any(call.is_wanted for call in self._running_calls())

    @property
    def is_busy_for_somebody(self) -> bool:
        """The same, or it runs a load or an unload, which have a time of their own."""
        return self._progress.runs == LOADING or self.runs_for_somebody

    def _read_rest(self) -> None:
        """Takes the answers that the worker had sent before its end."""
        try:
            while incoming := self._channel.receive():
                self._take_in(incoming)
        except ChannelClosed:
            pass
        except Exception:
            _logger.exception("the last frames of worker %d cannot be read", self.pid)

    def _on_readable(self) -> bool:
        self.heard_at = self._now()
        try:
            is_sane = self._take_in(self._channel.receive())
        except ChannelClosed:
            return False
        if not is_sane:
            self._launched.kill()
            return False
        if self._lending.freed:
            self._out.tell(frames.Return(self._lending.take_freed()))
        self.on_room()
        return True

    def _take_in(self, incoming: list[Any]) -> bool:
        """Handles frames, each whatever is wrong with another; False if the worker has to be ended for one."""
        is_sane = True
        for frame in incoming:
            try:
                self._handle(frame)
            except Exception:
                _logger.exception("worker %d sent what cannot be read; it is ended", self.pid)
                is_sane = False
        return is_sane

    def _handle(self, frame: Any) -> None:
        kind = type(frame)
        if kind is frames.Reply:
            call = self._leave(frame.call, frame.busy_seconds)
            if call is not None:
                self._answer(call, frame.response)
            elif frame.response.slot is not None:
                self._lending.find(frame.response.slot.number)  # held for no longer than this line: it goes back
        elif kind is frames.Failed:
            call = self._leave(frame.call, frame.busy_seconds, answered=not frame.busy_seconds)
            if call is not None and not call.abandoned:
                call.fail(error_of(frame))
        elif kind is frames.Waiting:
            call = self.calls.get(frame.call)
            if call is not None and call.batch is not None:
                call = call.batch.calls[0]
            if call is not None and not call.waiting:
                call.waiting = True
                self.open -= 1
                self.window = window_of(self.service_seconds)
                if call.request is not None:
                    self.awaiting[call.model] = self.awaiting.get(call.model, 0) + 1
        elif kind is frames.Freed:
            self._lending.give_back(frame.slots)
        elif kind is frames.Need:
            self._grant(frame.size_bytes)
        else:
            self._handle_rarer(frame)

    def _answer(self, call: Call, message: frames.Message) -> None:
        response = self._read(call, message)
        if response is not None and not call.abandoned:
            call.succeed(response)

    def _deliver(self, stream: StreamCall, message: frames.Message) -> None:
        response = self._read(stream, message)
        if response is None:
            self.cancel(stream)
        elif not stream.abandoned:
            stream.deliver(response, credit_of(message))

    def _read(self, call: Call, message: frames.Message) -> InferenceResponse | None:
        """What a worker answered; None if it cannot be read, and the call has failed."""
        try:
            if message.slot is not None or (len(message.parts) > 1 and size_of(message) >= COUNTED_FROM_BYTES):
                self.large_answers.add(call.model)
            return unpack_response(message, self._lending.find)
        except Exception as error:
            _logger.exception("an answer of worker %d cannot be read", self.pid)
            call.fail(ModelError(f"the model's answer cannot be sent: {error}"))
            return None

    def _handle_rarer(self, frame: Any) -> None:
        kind = type(frame)
        if kind is frames.Chunk:
            stream: Any = self.calls.get(frame.call)
            if stream is not None:
                self._deliver(stream, frame.response)
            elif frame.response.slot is not None:
                self._lending.find(frame.response.slot.number)
        elif kind is frames.End:
            stream = self._leave(frame.call, 0.0)
            if stream is not None:
                stream.end()
        elif kind is frames.Handled or kind is frames.Piece:
            handled: Any = self._leave(frame.call, 0.0) if frame.over else self.calls.get(frame.call)
            if handled is not None and len(frame.body) >= COUNTED_FROM_BYTES:
                self.large_answers.add(handled.model)
            if handled is not None and not handled.abandoned:
                handled.handled(frame)
                if handled.is_answered and not frame.over:
                    self._give_up(handled)
        elif kind is frames.Skipped:
            call = self.calls.get(frame.call)
            if call is not None:  # it was not sure any more, when it was taken back, that it would not begin
                members = [call] if call.batch is None else call.batch.calls
                self.on_orphans(self._withdrawn([one for one in members if self.calls.get(one.number) is one]))
        elif kind is frames.Apart:
            self.calls[frame.call].batch.is_whole = False  # type: ignore[union-attr]  # it was sent as a batch
        elif kind is frames.Pulled:
            stream = self.calls.get(frame.call)
            if stream is not None:
                stream.pulled()
        elif kind in (frames.Loaded, frames.LoadFailed, frames.Unloaded):
            self._asking.answered(frame)
        elif kind is frames.Hello:
            self._hello.set()
        elif kind is frames.Full:
            self._lending.is_over = True
            self.full = frame.reason
            self.worn.set()
        elif kind is Unreadable:
            raise ValueError(f"no frame: {frame.reason}")
        else:
            self._reports.take(frame)

    def _grant(self, size_bytes: int) -> None:
        if not self._over:
            ref = self._lending.grant(size_bytes)
            self._out.tell(frames.Grant(ref), [ref])
