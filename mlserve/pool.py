"""The queue before the workers: calls wait in a line per model, and go to the worker that has the least to do.

The queue is here, not in the workers. A worker gets only as many calls at once as it can begin within a moment
(`bounds.window_of`), so that a waiting call can still be cancelled, expire, or go to another worker.

A call is, from here, in one of these places:

    queued ──assign──▶ sent ──(Waiting frame: it awaits something)──▶ sent, not counted in the window
       │                │
       │                ├── Reply or Failed: done
       └── cancelled,   └── the worker died: begun → WorkerDied for its caller; not begun → queued again, in front
           expired
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial

import anyio
import anyio.abc

from mlserve import frames
from mlserve.arena import Arena
from mlserve.batching import Line, Rule
from mlserve.bounds import Bounds
from mlserve.calls import Batch, Call, HandleCall, StreamCall, is_late
from mlserve.channel import ChannelClosed
from mlserve.crew import Crew
from mlserve.errors import (
    CallerLeft,
    MLServeError,
    NoWorker,
    RequestRefused,
    ServerStopping,
)
from mlserve.eventloop import clock_of, waiter_type
from mlserve.execute import CLOSE_SECONDS
from mlserve.launch import ProcessLauncher, ThreadLauncher
from mlserve.link import Link
from mlserve.observing import Observer
from mlserve.recovery import REFUSED_AFTER, digest_of
from mlserve.recycling import NO_WEAR, Wear
from mlserve.taking_back import TakingBack
from mlserve.types import InferenceRequest, InferenceResponse
from mlserve.unsent import Unsent

_logger = logging.getLogger("mlserve.pool")
_REQUESTS_AHEAD = 8  # credit for requests of a stream that wait in the worker until the model takes them
_LOOK_SECONDS = 0.01  # between two looks at whether the calls of a model have ended that is to be unloaded


# How a transport says that the caller has left: it is given what to call then; None when that is too late.
OnLeave = Callable[["Callable[[], None] | None"], None]


class Pool:
    """A number of workers that all hold the same models, and the calls that wait for them."""

    def __init__(
        self,
        name: str,
        workers: int,
        launcher: ProcessLauncher | ThreadLauncher,
        arena: Arena,
        observer: Observer,
        wear: Wear = NO_WEAR,
        unsent: Unsent | None = None,
    ) -> None:
        self.name = name
        self.crew = Crew(name, workers, launcher, arena, observer, wear)
        self._lines: dict[int, Line] = {}  # the calls that wait, by model
        self._waiting: dict[int, Line] = {}  # Invariant: those of them that are not empty
        self._taking_back = TakingBack(self.crew.links, self._take_back)
        self._timer = anyio.Event()  # a line wants to be looked at again later
        self._unsent = unsent or Unsent()
        self.crew.on_room = self._dispatch
        self.crew.on_orphans = self._put_back
        self.crew.on_aside = self._fail_line

    def __repr__(self) -> str:
        links = self.crew.links
        busy = sum(1 for link in links if link.calls)
        return (
            f"<Pool {self.name}: {len(links)} of {self.crew.size} workers, {busy} busy | {self.waiting_count} waiting>"
        )

    @property
    def waiting_count(self) -> int:
        """How many calls wait for a worker."""
        return sum(len(line) for line in self._waiting.values())

    def line_of(self, model: int) -> Line | None:
        """The line of a model; None if it is not loaded."""
        return self._lines.get(model)

    @property
    def running_count(self) -> int:
        """How many calls workers have: those that run, and the few that are next."""
        return sum(len(link.calls) for link in self.crew.links)

    def waiting_for(self, model: int) -> int:
        """How many calls wait for one model."""
        line = self._lines.get(model)
        return 0 if line is None else len(line)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that are ready."""
        return [link.pid for link in self.crew.links]

    def why_not(self, model: int) -> str:
        """Why a loaded model cannot be run at this moment; an empty text if it can."""
        refusal = self.crew.refusal(model)
        if refusal is not None:
            return refusal.message
        return "" if self.crew.holds(model) else "its worker process ended and is being started again"

    # -- calls --------------------------------------------------------------------------------------------------------

    async def infer(
        self,
        model: int,
        request: InferenceRequest,
        form: str,
        on_leave: OnLeave | None = None,
        timeout: float | None = None,
    ) -> InferenceResponse:
        """Runs one call in the least loaded worker. Cancelling the waiting task cancels the call.

        Raises what the model raised, WorkerDied if its process died, ServerStopping after `stop`, CallerLeft if
        what `on_leave` was given is called before the end. After `timeout` seconds the call does not begin any more;
        it is the caller who stops waiting then.
        """
        call = Call(model, request, form, self._new_waiter)
        if timeout is not None:
            call.deadline = self._now() + timeout
        self._line_up(call)
        try:
            if on_leave is not None:
                on_leave(partial(self._leave, call))  # not before: it may have left already, and is told so at once
            await call.done.wait()
        except BaseException:
            self._abandon(call)
            raise
        finally:
            if on_leave is not None:
                on_leave(None)
        if call.digest is not None and call.error is None:
            self.crew.offences.clear(model, call.digest)
        return call.result()

    async def stream(
        self, model: int, requests: AsyncIterator[InferenceRequest], form: str, timeout: float | None = None
    ) -> AsyncGenerator[list[InferenceResponse], None]:
        """Runs one streamed call; gives the chunks that have come, together, whenever there are some.

        Closing the generator, or cancelling its task, ends the model's generator too. The worker may be CHUNK_CREDIT
        ahead of what was taken here.
        """
        call = StreamCall(model, form, _REQUESTS_AHEAD, self._new_waiter)
        if timeout is not None:
            call.deadline = self._now() + timeout
        self._line_up(call)
        feeding = anyio.CancelScope()
        self._tasks.start_soon(self._feed, call, requests, feeding)
        try:
            while chunks := await call.next_chunks():
                yield chunks
        finally:
            feeding.cancel()
            if not call.ended:
                self._abandon(call)

    async def _feed(
        self, call: StreamCall, requests: AsyncIterator[InferenceRequest], scope: anyio.CancelScope
    ) -> None:
        """Passes the requests of a stream on, as fast as the model takes them."""
        with scope:
            try:
                async for request in requests:
                    if not await call.room():
                        return
                    await call.assigned.wait()
                    if call.ended:
                        return
                    call.link.push(call, request)
                await call.assigned.wait()
                if not call.ended:
                    call.link.close_requests(call)
            except ChannelClosed:
                pass  # the worker's end is told to the reader
            except MLServeError as error:
                self._abandon(call)
                call.fail(error)
            except Exception as error:
                _logger.exception("the requests of a stream could not be read")
                self._abandon(call)
                call.fail(MLServeError(f"the requests of the stream could not be read: {error}"))

    async def handle(
        self, frame: frames.Handle, on_leave: OnLeave | None = None, timeout: float | None = None
    ) -> AsyncGenerator[list[frames.Handled | frames.Piece], None]:
        """Runs one call of a custom handler; gives what has come of its answer, as `stream` does. Raises as `infer`.

        Ends with the call, which may be some time after its answer: from then on nobody cancels it, and what it
        raises is for its worker's log only.
        """
        call = HandleCall(frame, self._new_waiter)

        def leave() -> None:
            if not call.is_answered:
                self._leave(call)

        if timeout is not None:
            call.deadline = self._now() + timeout
        self._line_up(call)
        try:
            if on_leave is not None:
                on_leave(leave)  # not before: it may have left already, and is told so at once
            while pieces := await call.next_chunks():
                yield pieces
        except MLServeError:
            if not call.is_answered:
                raise
        finally:
            if on_leave is not None:
                on_leave(None)
            if not (call.ended or call.is_answered):
                self._abandon(call)

    def _line_up(self, call: Call) -> None:
        line = self._lines.get(call.model)
        crew = self.crew
        if crew.stopping or line is None:
            raise ServerStopping("the server is stopping" if crew.stopping else "the model is being unloaded")
        if crew.has_trouble:
            self._check(call)
        call.arrived_at = self._now()
        self._add(line, call)
        self._dispatch()

    def _add(self, line: Line, call: Call, *, in_front: bool = False) -> None:
        line.add(call, in_front=in_front)
        self._waiting[call.model] = line

    def _check(self, call: Call) -> None:
        """Refuses a call whose model or content ends workers: see recovery.py."""
        refusal = self.crew.refusal(call.model)
        if refusal is not None:
            raise refusal
        offences = self.crew.offences
        if call.request is None or not offences.knows(call.model):
            return
        digest = digest_of(call.request)
        deaths = offences.deaths_of(call.model, digest, self._now())
        if deaths is None:
            return
        if deaths >= REFUSED_AFTER:
            raise RequestRefused(
                f"a request with this content ended its worker process {deaths} times in a row; it is not run again "
                f"for some minutes, or until the model is loaded again"
            )
        call.digest, call.alone = digest, True

    def _leave(self, call: Call) -> None:
        """The caller has left: its task is told, and the call is dropped."""
        self._abandon(call)
        call.fail(CallerLeft("the client left before its answer was there"))

    def _abandon(self, call: Call) -> None:
        """Nobody waits for this call any more: takes it out of its line, or tells its worker."""
        call.abandoned = True
        if call.link is not None:
            call.link.cancel(call)
        elif call.model in self._lines:
            self._lines[call.model].remove(call)

    def _dispatch(self) -> None:
        """Gives waiting calls to workers that have room: of all lines, the one whose first call waits longest."""
        waiting = self._waiting
        if not waiting:
            return
        now = self._now()
        models = list(waiting)
        if len(models) > 1:
            models.sort(key=lambda model: waiting[model].oldest_at if len(waiting[model]) else now)
        for model in models:
            line = waiting[model]
            line.look_again_at = None  # what it waits for now, room or memory, says so itself; its time may be past
            if self._unsent.full and model in self.crew.large_answers:
                continue
            while len(line) and (link := self._pick(model)) is not None:
                calls = line.take(now, link if link.awaiting.get(model) else None)
                if not calls:
                    self._timer.set()
                    break
                calls = [call for call in calls if not is_late(call, now)]
                if calls:
                    self._assign(calls, link, line)
            if not len(line):
                waiting.pop(model, None)

    def _pick(self, model: int) -> Link | None:
        """The least loaded worker that holds the model and has room."""
        best: Link | None = None
        for link in self.crew.links:
            if model not in link.models or not link.has_room(model):
                continue
            if best is None or link.burden(model) < best.burden(model):
                best = link
        return best

    def _assign(self, calls: list[Call], link: Link, line: Line) -> None:
        on_end = None if line.auto is None else partial(self._batch_ended, line)
        try:
            if len(calls) == 1:
                link.start(calls[0], on_end)
            else:
                link.start_batch(calls, on_end)
            if on_end is not None:
                line.sent(calls, link)
            if link.open > 1 and not self._taking_back.watching:
                self._taking_back.watch()
        except ChannelClosed:
            for call in reversed(calls):
                self._add(line, call, in_front=True)
            if link in self.crew.links:  # another call of the same batch may have found it so
                self.crew.links.remove(link)
            link.kill()  # if it is not dead yet, nothing can be sent to it any more
        except Exception as error:
            if len(calls) > 1:  # one of them spoils the batch: which one shows when each goes alone
                for call in calls:
                    self._assign([call], link, line)
            elif isinstance(error, MLServeError):
                calls[0].fail(error)
            else:
                _logger.exception("a request could not be sent to its worker")
                calls[0].fail(MLServeError(f"the request could not be sent to its worker: {error}", 500))

    def _batch_ended(self, line: Line, batch: Batch) -> None:
        try:
            line.ended(batch, self._now(), len(self.crew.links))
        except Exception:  # the calls have their answers, whatever becomes of the figures
            _logger.exception("a batch could not be counted")

    async def _look_again(self) -> None:
        """Forms batches whose waiting time is over."""
        while True:
            await self._timer.wait()
            self._timer = anyio.Event()
            moments = [line.look_again_at for line in self._waiting.values() if line.look_again_at is not None]
            if moments:
                with anyio.move_on_after(max(0.0, min(moments) - self._now())):
                    await self._timer.wait()
            self._dispatch()

    def go_on(self) -> None:
        """Lets calls begin that waited for memory."""
        self._timer.set()

    def expect_no_more(self, model: int | None = None) -> None:
        """No new calls will come, of one model or of any: those that wait for company go as they are."""
        for line in self._lines.values() if model is None else [self._lines[model]]:
            line.expects_more = False
        self._dispatch()

    # -- models and life ----------------------------------------------------------------------------------------------

    async def load(
        self, frame: frames.Load, rule: Rule | None = None, bounds: Bounds | None = None, *, apart: bool = False
    ) -> frames.Loaded:
        """Loads a model in all workers, one after the other; `rule` says how its calls are grouped.

        With `apart` in a process of its own first. ModelLoadError with the first reason if one fails.
        """
        loaded = await self.crew.load(frame, bounds or Bounds(), apart=apart)
        self._lines[frame.model] = Line(rule or Rule())
        return loaded

    async def unload(self, model: int) -> None:
        """Unloads a model in all workers. What still waits for it, or runs, gets 503.

        Its unload() comes when its calls have ended, those included whose clients had left before, or when they have
        had their time for that. Waited for here, since a worker that has an Unload before it gets no other calls.
        """
        line = self._lines.pop(model, None)
        self._waiting.pop(model, None)
        if line is not None:
            _fail(line.take_all(), ServerStopping("the model is being unloaded"))
        cut_off = ServerStopping("the model was unloaded before its answer was there")
        cut_off.retryable = False  # it may have run
        for call in self.crew.calls_of(model):
            self._abandon(call)
            call.fail(cut_off)
        with anyio.move_on_after(CLOSE_SECONDS):
            while self.crew.runs(model):
                await anyio.sleep(_LOOK_SECONDS)
        await self.crew.unload(model)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Runs the workers until cancelled or stopped; reports when all of them are up."""
        self._new_waiter = waiter_type()
        self._now = clock_of()
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._look_again)
            self._tasks.start_soon(self._taking_back.run)
            await self._tasks.start(self.crew.run)
            task_status.started()

    async def stop(self, seconds: float = 5.0) -> None:
        """Ends the workers: politely, and after so many seconds by force."""
        for model in list(self._waiting):
            _fail(self._waiting.pop(model).take_all(), ServerStopping("the server is stopping"))
        await self.crew.stop(seconds)
        self._tasks.cancel_scope.cancel()

    def _fail_line(self, model: int) -> None:
        """The model was set aside: who waits for it is told."""
        error = self.crew.refusal(model)
        line = self._waiting.pop(model, None)
        if line is not None and error is not None:
            _fail(line.take_all(), error)

    def _take_back(self, calls: list[Call]) -> None:
        self._put_back(calls)
        self._dispatch()

    def _put_back(self, calls: list[Call]) -> None:
        """Calls that a worker had not begun wait again, in front of the others."""
        for call in reversed(calls):
            line = self._lines.get(call.model)
            refusal = self.crew.refusal(call.model)
            if call.abandoned or refusal is not None or line is None or self.crew.stopping:
                call.fail(refusal or NoWorker("the worker process died before it ran this call"))
            else:
                self._add(line, call, in_front=True)


def _fail(calls: list[Call], error: MLServeError) -> None:
    for call in calls:
        call.fail(error)
