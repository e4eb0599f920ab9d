"""The worker processes of one pool: starts them, loads models into them, sees them die, starts them again.

One supervisor task per worker. What a death leads to is decided in recovery.py; here it is done:

    STARTING ──greeting──▶ LOADING its models ──▶ READY ──process ended──▶ PAUSE ──▶ STARTING
        └───────────────────────┴──ended, or too slow: killed──────────────▲

A model that ends its workers is set aside: no worker gets it, until it could be loaded in a process of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import anyio
import anyio.abc

from mlserve import frames
from mlserve.arena import Arena
from mlserve.bounds import Bounds
from mlserve.calls import Call
from mlserve.errors import MLServeError, ModelLoadError, NoWorker, StartupError, WorkerDied
from mlserve.eventloop import clock_of
from mlserve.launch import Launched, ProcessLauncher, ThreadLauncher
from mlserve.link import Link
from mlserve.loading import greet, load_apart, load_in, unload_in
from mlserve.observing import Deaf, Observer
from mlserve.recovery import (
    HOPELESS_STARTS,
    STABLE_SECONDS,
    STRIKES,
    Aside,
    Blame,
    Offences,
    Strikes,
    pause_before_start,
)
from mlserve.recycling import Recycling, Seat, Wear

_logger = logging.getLogger("mlserve.pool")
_PONG_SECONDS = 2.0  # how long a worker that may be stuck has to answer a ping
_PONG_LOOKS = 10
_NOT_READY = "its load() said that it is not ready"
_UP_SECONDS = 60.0  # how long a load waits for a worker that is being started again

Ready = anyio.abc.TaskStatus[None]


class Crew:
    """A number of workers that all hold the same models. Its pool sets the callbacks."""

    def __init__(
        self,
        name: str,
        workers: int,
        launcher: ProcessLauncher | ThreadLauncher,
        arena: Arena,
        observer: Observer,
        wear: Wear,
    ) -> None:
        self.name = name
        self.size = workers
        self.in_process = isinstance(launcher, ThreadLauncher)
        self.restarts = 0
        self.links: list[Link] = []  # workers that are up and hold their models
        self.offences = Offences()
        self.trouble = ""  # why no worker comes up, once that looks hopeless
        self.next_start_at = 0.0
        self.has_trouble = False  # calls have to be looked at before they may wait
        self.stopping = False
        self._launcher = launcher
        self._arena = arena
        self._observer = observer
        self._models: dict[int, frames.Load] = {}  # what every worker has to hold
        self._bounds: dict[int, Bounds] = {}
        self.large_answers: set[int] = set()  # models that gave answers which count for `answer_memory_bytes`
        self._asides: dict[int, Aside] = {}
        self._strikes = Strikes()
        self._recycling = Recycling(name, wear, observer)
        self._load_lock = anyio.Lock()  # workers load one after the other, so that the peak of memory stays low
        self._trial_lock = anyio.Lock()  # and so do processes that are there for one load only
        self._all: list[Link] = []  # `links`, those that are still coming up, and those that finish their last calls
        self._stop_asked = anyio.Event()
        self._all_ended = anyio.Event()
        self._up = anyio.Event()  # at least one worker is ready
        self._retry = anyio.Event()  # a model was set aside
        self.on_room: Callable[[], None] = lambda: None  # a worker can take calls
        self.on_orphans: Callable[[list[Call]], None] = lambda calls: None  # calls that a dead worker had not begun
        self.on_aside: Callable[[int], None] = lambda model: None  # a model was set aside
        arena.on_discard.append(self._forget_slot)

    def _look_around(self) -> None:
        self.has_trouble = bool(self.offences or self._asides or self.trouble)

    def holds(self, model: int) -> bool:
        """Whether a worker is up that has the model loaded, and may run it."""
        return not self.is_aside(model) and any(model in link.models for link in self.links)

    def is_aside(self, model: int) -> bool:
        """Whether the model is kept from its workers for now."""
        aside = self._asides.get(model)
        return aside is not None and aside.blocks

    def refusal(self, model: int) -> NoWorker | None:
        """Why calls to a model cannot even wait now, if that is so."""
        aside = self._asides.get(model)
        if aside is not None and aside.blocks:
            return NoWorker(f"{aside.reason}; it is tried again from time to time", aside.until - self.now())
        if self.trouble and not self.links:
            return NoWorker(self.trouble, self.next_start_at - self.now())
        return None

    def calls_of(self, model: int) -> list[Call]:
        """The calls of a model that workers have, and that somebody still waits for."""
        calls = (call for link in self._all for call in link.calls.values())
        return [call for call in calls if call.model == model and not call.abandoned]

    def runs(self, model: int) -> bool:
        """Whether workers have calls of a model, also some that nobody waits for any more."""
        return any(call.model == model for link in self._all for call in link.calls.values())

    # -- models -------------------------------------------------------------------------------------------------------

    async def load(self, frame: frames.Load, bounds: Bounds, *, apart: bool = False) -> frames.Loaded:
        """Loads a model in all workers, one after the other. ModelLoadError with the first reason if one fails.

        With `apart` in a process of its own first, if the workers hold models that a bad load could take away.
        """
        if apart and self._models and not self.in_process:
            await self._load_apart(frame, bounds)
        while True:
            with anyio.move_on_after(_UP_SECONDS):
                await self._up.wait()  # outside of the lock, which a worker that comes up needs
            async with self._load_lock:
                if self.links or not self._up.is_set():
                    return await self._load_everywhere(frame, bounds)

    async def _load_everywhere(self, frame: frames.Load, bounds: Bounds) -> frames.Loaded:
        done: list[Link] = []
        loaded: frames.Loaded | None = None
        try:
            for link in list(self.links):
                loaded = await load_in(link, frame, bounds.load_timeout_seconds)
                done.append(link)
        except BaseException as error:
            with anyio.CancelScope(shield=not isinstance(error, MLServeError)):
                for link in done:
                    await unload_in(link, frame.model)
            raise
        if loaded is None:
            raise NoWorker(f"pool {self.name} has no worker that runs; see the log")
        self._models[frame.model] = frame
        self._bounds[frame.model] = bounds
        return loaded

    async def unload(self, model: int) -> None:
        """Unloads a model in all workers, after the calls that they were sent before."""
        async with self._load_lock:
            self._models.pop(model, None)
            self._bounds.pop(model, None)
            self.large_answers.discard(model)
            self._asides.pop(model, None)
            self._look_around()
            self._strikes.forget(model)
            self.offences.forget(model)
            for link in list(self.links):
                await unload_in(link, model)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: Ready) -> None:
        """Runs the workers until cancelled or stopped; reports when all of them are up."""
        self.now = clock_of()
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._bring_back)
            async with anyio.create_task_group() as starting:
                for number in range(self.size):
                    starting.start_soon(self._tasks.start, self._supervise, Seat(number))
            task_status.started()

    async def stop(self, seconds: float) -> None:
        """Ends the workers: politely, and after so many seconds by force."""
        self.stopping = True
        self._stop_asked.set()
        if self._forget_slot in self._arena.on_discard:
            self._arena.on_discard.remove(self._forget_slot)
        for link in self._all:
            link.stop()
        self._all_ended = anyio.Event()
        if self._all:
            with anyio.move_on_after(seconds):
                await self._all_ended.wait()
        self._tasks.cancel_scope.cancel()

    async def _supervise(self, seat: Seat, *, task_status: Ready) -> None:
        """Keeps one worker running, until another has taken its seat."""
        early_deaths = failed_starts = 0
        status: Ready | None = task_status
        while True:
            started = self.now()
            how, was_ready, why = await self._run_one(seat, status)
            if self.stopping:
                if status is not None and not was_ready:
                    status.started()  # whoever waits for it is about to end too
                return
            if status is not None and not was_ready:
                raise StartupError(f"a worker of pool {self.name} {how} before it was ready; see its output above")
            status = None
            if seat.link is not None:
                return
            early_deaths = 0 if self.now() - started > STABLE_SECONDS else early_deaths + 1
            failed_starts = 0 if was_ready else failed_starts + 1
            pause = pause_before_start(early_deaths)
            self.restarts += 1
            self._observer.worker_restarted(self.name, why)
            _logger.error("a worker of pool %s %s; it starts again in %.1f s", self.name, how, pause)
            if failed_starts >= HOPELESS_STARTS and not self.links:
                self._despair(how, pause)
            self.on_room()
            with anyio.move_on_after(pause):
                await self._stop_asked.wait()
                return

    def _despair(self, how: str, pause: float) -> None:
        """No worker comes up: calls are refused, and those that wait fail, instead of waiting for ever."""
        self.trouble = f"a worker of pool {self.name} {how}, again and again; the log says why"
        self.next_start_at = self.now() + pause
        self._look_around()
        for model in self._models:
            self.on_aside(model)

    async def _run_one(self, seat: Seat, task_status: Ready | None) -> tuple[str, bool, str]:
        """Runs one worker from its start to its end: how it ended, whether it had been ready, why for the metric."""
        try:
            launched = self._launcher.start(seat.number)
        except OSError as error:
            return f"could not be started ({error})", False, "died"
        link = Link(launched, self._arena, self._observer, self.now)
        link.bounds, link.large_answers = self._bounds, self.large_answers
        link.on_room, link.on_orphans = self.on_room, self.on_orphans
        self._all.append(link)
        how = "was ended, for a fault in the server"
        try:
            try:
                how = await self._attend(launched, link, seat, task_status)
            finally:
                self._wind_up(launched, link, seat)
        except Exception:  # whatever it is: it ends this worker, and not the server with all others
            _logger.exception("the supervision of worker %d of pool %s failed", link.pid, self.name)
        return f"(process {launched.pid}) {how}", link.ready_at is not None, link.why

    def _wind_up(self, launched: Launched, link: Link, seat: Seat) -> None:
        """A worker has ended, or has to: its calls fail or wait again, and what belongs to it is freed."""
        self._all.remove(link)
        if link in self.links:
            self.links.remove(link)
        if seat.link is link:
            seat.link = None
        if not self.links:
            self._up = anyio.Event()
        if not self._all:
            self._all_ended.set()
        try:
            again, blame = link.lost()
        finally:
            launched.close()
        if not self.stopping:
            self._draw_conclusions(blame)
        self.on_orphans(again)

    async def _attend(self, launched: Launched, link: Link, seat: Seat, task_status: Ready | None) -> str:
        """Brings a worker up and stays with it until it has ended; says how it did."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.run)
            tasks.start_soon(self._watch, link)
            tasks.start_soon(self._bring_up, launched, link, seat, task_status)
            if not self.in_process:
                tasks.start_soon(self._recycling.attend, link, partial(self._tasks.start, self._supervise, seat))
            how = await launched.wait()
            tasks.cancel_scope.cancel()
        return how

    async def _watch(self, link: Link) -> None:
        """Kills a worker that is stuck in a call that nobody waits for any more."""
        looks_at, sooner = 0.0, anyio.Event()

        def on_given_up(stuck_at: float) -> None:
            if stuck_at < looks_at:
                sooner.set()

        link.given_up.on_add = on_given_up
        while True:
            looks_at, sooner = link.given_up.stuck_at(link.heard_at), anyio.Event()
            if looks_at - _PONG_SECONDS > self.now():
                with anyio.move_on_after(looks_at - _PONG_SECONDS - self.now()):
                    await sooner.wait()
            elif link.is_busy_for_somebody:
                await anyio.sleep(_PONG_SECONDS)  # others have to wait, or have left
            elif await self._shows_no_life(link):
                _logger.error("worker %d is killed: it is stuck in a call that nobody waits for any more", link.pid)
                link.kill("stuck")
                return

    async def _shows_no_life(self, link: Link) -> bool:
        """Whether a silent worker is stuck, and not just without anything to say: its calls may wait for clients."""
        heard = link.heard_at
        link.ping()
        for _ in range(_PONG_LOOKS):
            await anyio.sleep(_PONG_SECONDS / _PONG_LOOKS)
            if link.heard_at != heard or link.is_busy_for_somebody:
                return False
        return True

    async def _bring_up(self, launched: Launched, link: Link, seat: Seat, task_status: Ready | None) -> None:
        if not await greet(link):
            return
        async with self._load_lock:
            for model, frame in list(self._models.items()):
                if model not in self._asides and not await self._load_again(link, frame):
                    return
            if seat.link is not None and not seat.link.models <= link.models:
                launched.kill()  # the worker whose seat it was to take is better
                return
            if seat.link in self.links:
                self.links.remove(seat.link)  # from now on it gets no calls
            seat.link, link.ready_at = link, self.now()
            self.links.append(link)
            self.trouble = ""
            self._look_around()
        self._up.set()
        if task_status is None:
            _logger.info("worker %d of pool %s is ready", link.pid, self.name)
        else:
            task_status.started()
        self.on_room()

    async def _load_again(self, link: Link, frame: frames.Load) -> bool:
        """Loads a model in a worker that was started again, or sets it aside; False if the worker is gone."""
        try:
            loaded = await load_in(link, frame, self._bounds[frame.model].load_timeout_seconds)
            reason = "" if loaded.ready else _NOT_READY
        except WorkerDied:
            return False  # what follows from that is decided when its process has ended
        except MLServeError as error:
            reason = error.message
        if reason:
            _logger.error("worker %d could not load model %s again: %s", link.pid, frame.name, reason)
            self._set_aside(frame.model, f"the model could not be loaded again: {reason}")
        return True

    def _forget_slot(self, number: int) -> None:
        for link in self._all:
            link.forget_slot(number)

    # -- models that end their workers --------------------------------------------------------------------------------

    def _draw_conclusions(self, blame: Blame) -> None:
        now = self.now()
        is_refused = self.offences.note(blame, now)
        self._look_around()
        if is_refused or blame.model is None or blame.model not in self._models:
            return
        if blame.loading:
            self._set_aside(blame.model, "the worker process died while it loaded the model")
            return
        seconds = self._strikes.strike(blame.model, now)
        if seconds:
            self._put_aside(blame.model, f"the model ended its worker process {STRIKES} times in a row", seconds, True)

    def _set_aside(self, model: int, reason: str) -> None:
        """A model could not be loaded again. Where another worker holds it, that one serves on."""
        seconds = self._strikes.strike(model, self.now(), at_once=True)
        self._put_aside(model, reason, seconds, not any(model in link.models for link in self.links))

    def _put_aside(self, model: int, reason: str, seconds: float, blocks: bool) -> None:
        self._asides[model] = Aside(reason, self.now() + seconds, blocks)
        self._look_around()
        name = self._models[model].name
        _logger.error("model %s of pool %s is set aside for %g s: %s", name, self.name, seconds, reason)
        if blocks:
            self.on_aside(model)
        self._retry.set()

    async def _bring_back(self) -> None:
        """Tries models that were set aside again, when their time is over."""
        while True:
            due = min((aside.until for aside in self._asides.values()), default=None)
            self._retry = anyio.Event()
            with anyio.move_on_after(None if due is None else max(0.0, due - self.now())):
                await self._retry.wait()
            await self._up.wait()
            for model in [model for model, aside in self._asides.items() if aside.until <= self.now()]:
                if model in self._asides:  # it may have been unloaded meanwhile
                    await self._try_again(model)

    async def _try_again(self, model: int) -> None:
        """Loads a model in a process of its own, and only if that goes well in the workers that lack it."""
        frame, bounds = self._models[model], self._bounds[model]
        try:
            if not self.in_process:
                loaded = await self._load_apart(frame, bounds)
                if not loaded.ready:
                    raise ModelLoadError(_NOT_READY)
            async with self._load_lock:
                for link in list(self.links):
                    if model in self._models and model not in link.models:
                        await load_in(link, frame, bounds.load_timeout_seconds)
        except MLServeError as error:
            if model in self._models:
                self._set_aside(model, f"the model could not be loaded again: {error.message}")
            return
        was_aside = self._asides.pop(model, None) is not None
        self._look_around()
        if was_aside and self.holds(model):
            _logger.info("model %s of pool %s is back", frame.name, self.name)
            self.on_room()

    async def _load_apart(self, frame: frames.Load, bounds: Bounds) -> frames.Loaded:
        """Loads a model in a process that nobody else needs, and ends it. ModelLoadError if that goes wrong."""
        async with self._trial_lock:
            try:
                launched = self._launcher.start()
            except OSError as error:
                raise ModelLoadError(f"a worker could not be started: {error}") from error
            link = Link(launched, self._arena, Deaf(), self.now)
            return await load_apart(launched, link, frame, bounds.load_timeout_seconds)
