"""Worker processes and the queue before them: take, lay out, send, answer, restart.

The queue is here, not in the workers. A worker gets only as many calls at once as it can begin within a moment
(`link.window_of`), so that a waiting call can still be cancelled, expire, or go to another worker. One supervisor task
per worker starts its process, loads the models, sees it die, and starts it again.

A call is, from here, in one of these places:

    queued ──assign──▶ sent ──(Waiting frame: it awaits something)──▶ sent, not counted in the window
       │                │
       └── cancelled    ├── Reply or Failed: done
                        └── the worker died: begun → WorkerDied for its caller; not begun → queued again, in front
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial

import anyio
import anyio.abc

from mlserve import frames
from mlserve.arena import Arena
from mlserve.batching import Line, Rule
from mlserve.calls import Call, HandleCall, StreamCall
from mlserve.errors import CallerLeft, MLServeError, ServerStopping, StartupError, WorkerDied
from mlserve.eventloop import waiter_type
from mlserve.frames import ChannelClosed
from mlserve.launch import Launched, ProcessLauncher, ThreadLauncher
from mlserve.link import CHUNK_CREDIT, Link, Observer
from mlserve.types import InferenceRequest, InferenceResponse

_logger = logging.getLogger("mlserve.pool")
_BACKOFF_SECONDS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # before a worker is started again
_STABLE_SECONDS = 60.0  # a worker that lived this long is started again without a pause
_GREETING_SECONDS = 120.0  # how long a process may take until it says hello
_UP_SECONDS = 60.0  # how long a load waits for a worker that is being started again
_REQUESTS_AHEAD = 8  # requests of a stream that wait in the worker until the model takes them


# How a transport says that the caller has left: it is given what to call then, and None when that is too late.
OnLeave = Callable[["Callable[[], None] | None"], None]


class Pool:
    """A number of workers that all hold the same models."""

    def __init__(
        self,
        name: str,
        workers: int,
        launcher: ProcessLauncher | ThreadLauncher,
        arena: Arena,
        observer: Observer,
        stop_seconds: float,
    ) -> None:
        self.name = name
        self.workers = workers
        self.restarts = 0
        self.in_process = isinstance(launcher, ThreadLauncher)
        self._launcher = launcher
        self._arena = arena
        self._observer = observer
        self._stop_seconds = stop_seconds
        self._lines: dict[int, Line] = {}  # the calls that wait, by model
        self._links: list[Link] = []  # workers that are up and hold their models
        self._models: dict[int, frames.Load] = {}  # what every worker has to hold
        self._load_lock = anyio.Lock()  # workers load one after the other, so that the peak of memory stays low
        self._workers: list[Link] = []  # these, and those that are still coming up
        self._stop_asked = anyio.Event()
        self._all_ended = anyio.Event()
        self._up = anyio.Event()  # at least one worker is ready
        self._timer = anyio.Event()  # a line wants to be looked at again later
        self.on_model_lost: Callable[[int, str], None] = lambda model, reason: None
        arena.on_discard.append(self._forget_slot)

    def __repr__(self) -> str:
        busy = sum(1 for link in self._links if link.calls)
        up = f"{len(self._links)} of {self.workers} workers"
        return f"<Pool {self.name}: {up}, {busy} busy | {self.waiting_count} waiting>"

    @property
    def _stopping(self) -> bool:
        return self._stop_asked.is_set()

    @property
    def waiting_count(self) -> int:
        """How many calls wait for a worker."""
        return sum(len(line) for line in self._lines.values())

    def waiting_for(self, model: int) -> int:
        """How many calls wait for one model."""
        line = self._lines.get(model)
        return 0 if line is None else len(line)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that are ready."""
        return [link.pid for link in self._links]

    # -- calls --------------------------------------------------------------------------------------------------------

    async def infer(
        self, model: int, request: InferenceRequest, form: str, on_leave: OnLeave | None = None
    ) -> InferenceResponse:
        """Runs one call in the least loaded worker. Cancelling the waiting task cancels the call.

        Raises what the model raised, WorkerDied if its process died, ServerStopping after `stop`, CallerLeft if
        what `on_leave` was given is called before the end.
        """
        call = Call(model, request, form, self._new_waiter)
        if on_leave is not None:
            on_leave(partial(self._leave, call))
        self._line_up(call)
        try:
            await call.done.wait()
        except BaseException:
            self._abandon(call)
            raise
        finally:
            if on_leave is not None:
                on_leave(None)
        return call.result()

    async def stream(
        self, model: int, requests: AsyncIterator[InferenceRequest], form: str
    ) -> AsyncGenerator[list[InferenceResponse], None]:
        """Runs one streamed call; gives the chunks that have come, together, whenever there are some.

        Closing the generator, or cancelling its task, ends the model's generator too. The worker may be CHUNK_CREDIT
        chunks ahead of what was taken here.
        """
        call = StreamCall(model, form, _REQUESTS_AHEAD, self._new_waiter)
        self._line_up(call)
        feeding = anyio.CancelScope()
        self._tasks.start_soon(self._feed, call, requests, feeding)
        try:
            taken = 0
            while chunks := await call.next_chunks():
                taken += len(chunks)
                if taken >= CHUNK_CREDIT // 2 and call.link is not None:  # not for each chunk: it costs a write
                    call.link.took(call, taken)
                    taken = 0
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

    async def handle(self, frame: frames.Handle) -> frames.Handled:
        """Runs one call of a custom handler. Raises as `infer` does."""
        call = HandleCall(frame, self._new_waiter)
        self._line_up(call)
        try:
            await call.done.wait()
        except BaseException:
            self._abandon(call)
            raise
        if call.error is not None:
            raise call.error
        assert call.answer is not None, "done means failed or answered"
        return call.answer

    def _line_up(self, call: Call) -> None:
        line = self._lines.get(call.model)
        if self._stopping or line is None:
            raise ServerStopping("the server is stopping" if self._stopping else "the model is being unloaded")
        line.add(call)
        self._dispatch()

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
        now = time.monotonic()
        lines = [(line.oldest_at, model) for model, line in self._lines.items() if len(line)]
        lines.sort()
        for _, model in lines:
            line = self._lines[model]
            while len(line) and (link := self._pick(model)) is not None:
                calls = line.take(now)
                if not calls:
                    self._timer.set()
                    break
                self._assign(calls, link, line)

    def _pick(self, model: int) -> Link | None:
        """The least loaded worker that holds the model and has room."""
        best: Link | None = None
        for link in self._links:
            if model in link.models and link.has_room() and (best is None or link.burden < best.burden):
                best = link
        return best

    def _assign(self, calls: list[Call], link: Link, line: Line) -> None:
        try:
            if len(calls) == 1:
                link.start(calls[0])
            else:
                link.start_batch(calls)
        except ChannelClosed:
            for call in reversed(calls):
                line.add(call, in_front=True)
            self._links.remove(link)
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

    async def _look_again(self) -> None:
        """Forms batches whose waiting time is over."""
        while True:
            await self._timer.wait()
            self._timer = anyio.Event()
            lines = [line for line in self._lines.values() if len(line)]
            moments = [line.look_again_at for line in lines if line.look_again_at is not None]
            if moments:
                with anyio.move_on_after(max(0.0, min(moments) - time.monotonic())):
                    await self._timer.wait()
                self._dispatch()

    # -- models -------------------------------------------------------------------------------------------------------

    async def load(self, frame: frames.Load, rule: Rule | None = None) -> frames.Loaded:
        """Loads a model in all workers, one after the other; `rule` says how its calls are grouped.

        ModelLoadError with the first reason if one fails.
        """
        while True:
            with anyio.move_on_after(_UP_SECONDS):
                await self._up.wait()  # outside of the lock, which a worker that comes up needs
            async with self._load_lock:
                if self._links or not self._up.is_set():
                    return await self._load_everywhere(frame, rule or Rule())

    async def _load_everywhere(self, frame: frames.Load, rule: Rule) -> frames.Loaded:
        done: list[Link] = []
        loaded: frames.Loaded | None = None
        try:
            for link in list(self._links):
                loaded = await link.load(frame)
                done.append(link)
        except MLServeError:
            for link in done:
                await self._unload_quietly(link, frame.model)
            raise
        if loaded is None:
            raise WorkerDied(f"pool {self.name} has no worker that runs; see the log")
        self._models[frame.model] = frame
        self._lines[frame.model] = Line(rule)
        return loaded

    async def unload(self, model: int) -> None:
        """Unloads a model in all workers. No calls to it may be under way."""
        async with self._load_lock:
            self._models.pop(model, None)
            line = self._lines.pop(model, None)
            if line is not None:
                _fail(line.take_all(), ServerStopping("the model is being unloaded"))
            for link in list(self._links):
                await self._unload_quietly(link, model)

    async def _unload_quietly(self, link: Link, model: int) -> None:
        try:
            await link.unload(model)
        except WorkerDied:
            pass  # then it is unloaded

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Runs the workers until cancelled or stopped; reports when all of them are up."""
        self._new_waiter = waiter_type()
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._look_again)
            async with anyio.create_task_group() as starting:
                for _ in range(self.workers):
                    starting.start_soon(self._tasks.start, self._supervise)
            task_status.started()

    async def stop(self) -> None:
        """Ends the workers: politely, and after `stop_seconds` by force."""
        self._stop_asked.set()
        if self._forget_slot in self._arena.on_discard:
            self._arena.on_discard.remove(self._forget_slot)
        for line in self._lines.values():
            _fail(line.take_all(), ServerStopping("the server is stopping"))
        for link in self._workers:
            link.stop()
        self._all_ended = anyio.Event()
        if self._workers:
            with anyio.move_on_after(self._stop_seconds):
                await self._all_ended.wait()
        self._tasks.cancel_scope.cancel()

    async def _supervise(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Keeps one worker running."""
        failures = 0
        status: anyio.abc.TaskStatus[None] | None = task_status
        while True:
            started = time.monotonic()
            how, was_ready = await self._run_one(status)
            if self._stopping:
                return
            if status is not None and not was_ready:
                raise StartupError(f"a worker of pool {self.name} {how} before it was ready; see its output above")
            status = None
            failures = 0 if time.monotonic() - started > _STABLE_SECONDS else failures + 1
            pause = _BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)]
            self.restarts += 1
            _logger.error("a worker of pool %s %s; it starts again in %.1f s", self.name, how, pause)
            self._dispatch()
            with anyio.move_on_after(pause):
                await self._stop_asked.wait()
                return

    async def _run_one(self, task_status: anyio.abc.TaskStatus[None] | None) -> tuple[str, bool]:
        """Runs one worker from its start to its end: how it ended, and whether it had been ready."""
        try:
            launched = self._launcher.start()
        except OSError as error:
            return f"could not be started ({error})", False
        link = Link(launched, self._arena, self._observer)
        link.on_room = self._dispatch
        self._workers.append(link)
        try:
            how = await self._attend(launched, link, task_status)
        finally:
            self._workers.remove(link)
            if link in self._links:
                self._links.remove(link)
            if not self._links:
                self._up = anyio.Event()
            self._put_back(link.lost())
            launched.close()
            if not self._workers:
                self._all_ended.set()
        return f"(process {launched.pid}) {how}", link.was_ready

    async def _attend(self, launched: Launched, link: Link, task_status: anyio.abc.TaskStatus[None] | None) -> str:
        """Brings a worker up and stays with it until it has ended; says how it did."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.run)
            tasks.start_soon(self._bring_up, launched, link, task_status)
            how = await launched.wait()
            tasks.cancel_scope.cancel()
        return how

    async def _bring_up(self, launched: Launched, link: Link, task_status: anyio.abc.TaskStatus[None] | None) -> None:
        with anyio.move_on_after(_GREETING_SECONDS) as greeting:
            await link.greet()
        if greeting.cancelled_caught:
            _logger.error("worker %d of pool %s did not come up in %d s", link.pid, self.name, _GREETING_SECONDS)
            launched.kill()
            return
        async with self._load_lock:
            for frame in self._models.values():
                reason = await self._load_again(link, frame)
                if not reason or not any(frame.model in other.models for other in self._links):
                    self._lost_model(frame.model, reason)
            self._links.append(link)
            link.was_ready = True
            if self.restarts:
                _logger.info("worker %d of pool %s is ready", link.pid, self.name)
        self._up.set()
        if task_status is not None:
            task_status.started()
        self._dispatch()

    async def _load_again(self, link: Link, frame: frames.Load) -> str:
        """Loads a model in a worker that was started again; why not, if that fails."""
        try:
            loaded = await link.load(frame)
        except MLServeError as error:
            _logger.error("worker %d could not load a model again: %s", link.pid, error)
            return error.message
        return "" if loaded.ready else "its load() said that it is not ready"

    def _lost_model(self, model: int, reason: str) -> None:
        """No worker holds the model any more (or, without a reason, one does again)."""
        if reason and model in self._lines:
            _fail(self._lines[model].take_all(), WorkerDied(f"the model could not be loaded again: {reason}"))
        self.on_model_lost(model, reason)

    def _put_back(self, calls: list[Call]) -> None:
        """Calls that a dead worker had not begun wait again, in front of the others."""
        for call in reversed(calls):
            line = self._lines.get(call.model)
            if line is not None and not self._stopping and not call.abandoned:
                line.add(call, in_front=True)
            else:
                call.fail(WorkerDied("the worker process died before it ran this call"))

    def _forget_slot(self, number: int) -> None:
        for link in self._links:
            link.forget_slot(number)


def _fail(calls: list[Call], error: MLServeError) -> None:
    for call in calls:
        call.fail(error)
