"""The threads in which a model computes, so that its worker can go on: streams flow, cancelled calls are stopped.

One of them computes at a time. Who generates text gives way after each token, so that any number of streams share the
model fairly, and so that neither tokenizers (which two threads must not use at once) nor cores are fought over. Where
the model keeps a text's state on itself, the next text begins when it has ended.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import anyio
import torch
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from mlserve_huggingface.kept import Kept

__all__ = ["Job", "Stopped", "Work"]

T = TypeVar("T")
_Task = tuple[Future[Any], Callable[..., Any], Any]
_TELLING = 2  # tokens of a text: a model that keeps something has it by then, of the prompt or of the first token
_THREADS = 256  # streams at once; one more waits until another has ended


class Stopped(Exception):
    """Nobody waits for this computation any more."""


class Work:
    """The threads of one model. They end with `close`; each computation has an owner that waits for its end."""

    def __init__(self, name: str) -> None:
        self._threads = _Threads(f"huggingface-{name}")
        self._turns = Turns()

    def start(self, function: Callable[[Job], T]) -> tuple[Job, Future[T]]:
        """Begins a computation. Who calls this must see to its end with `ended`, and stop it if he leaves before."""
        job = Job(self._turns)
        return job, self._threads.submit(job.run, function)

    async def run(self, function: Callable[[Job], T]) -> T:
        """The outcome of a computation. Cancelled, it is stopped, and has ended before this returns."""
        job, future = self.start(function)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            job.stop()
            await ended(future)
            raise

    def close(self) -> None:
        """Ends the threads. No computation may be under way."""
        self._threads.close()


class _Threads:
    """Threads that wait for work: never more than there were computations at one time.

    An executor's may be more, for its threads are free a moment after their result is out, and the next call that comes
    by then gets a new one. torch would have a team of threads for each.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._guard = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._free: list[queue.SimpleQueue[_Task | None]] = []  # Invariant: empty while anything waits.
        self._waiting: deque[_Task] = deque()

    def submit(self, function: Callable[[Callable[[Job], T]], T], argument: Callable[[Job], T]) -> Future[T]:
        """Has a thread call the function; the first that is free."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # what stops it is its job, not the future
        with self._guard:
            if self._free:
                self._free.pop().put((future, function, argument))
            elif len(self._threads) < _THREADS:
                name = f"{self._name}_{len(self._threads)}"
                thread = threading.Thread(
                    target=self._serve, args=((future, function, argument),), name=name, daemon=True
                )
                self._threads.append(thread)
                thread.start()
            else:
                self._waiting.append((future, function, argument))
        return future

    def close(self) -> None:
        """Ends the threads, and waits for it. None may compute."""
        with self._guard:
            for inbox in self._free:
                inbox.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self, task: _Task | None) -> None:
        inbox: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        while task is not None:
            future, function, argument = task
            outcome = _outcome(function, argument)
            with self._guard:  # free before anybody hears of the result
                waiting = self._waiting.popleft() if self._waiting else None
                if waiting is None:
                    self._free.append(inbox)
            outcome(future)
            del future, function, argument, outcome, task
            task = waiting or inbox.get()


def _outcome(function: Any, argument: Any) -> Callable[[Future[Any]], None]:
    """Calls the function; what tells a future how that went."""
    try:
        result = function(argument)
    except BaseException as error:
        failure = error
        return lambda future: future.set_exception(failure)
    return lambda future: future.set_result(result)


async def ended(future: Future[Any]) -> None:
    """Waits for the end of a computation, whatever is cancelled meanwhile."""
    with anyio.CancelScope(shield=True):
        waiting = asyncio.wrap_future(future)
        waiting.add_done_callback(_look_at)
        while not waiting.done():
            try:
                await asyncio.wait([waiting])
            except asyncio.CancelledError:  # the worker ends; its thread ends first
                pass


def _look_at(future: asyncio.Future[Any]) -> None:
    """An outcome that nobody wants: looked at, or asyncio complains of it."""
    if not future.cancelled():
        future.exception()


class Job:
    """One computation, as its thread sees it."""

    def __init__(self, turns: Turns) -> None:
        self.stopped = False
        self.keeps_turn = False  # until what it computes now has ended
        self._turns = turns

    def run(self, function: Callable[[Job], T]) -> T:
        """Computes when it is this job's turn. Stopped if it is not wanted by then."""
        self._turns.acquire()
        try:
            self.check()
            return function(self)
        finally:
            self._turns.release()

    def stop(self) -> None:
        """From any thread: it ends at its next token."""
        self.stopped = True

    def check(self) -> None:
        """Raises Stopped if it shall end."""
        if self.stopped:
            raise Stopped

    def give_way(self) -> None:
        """Lets others that wait have their turn first."""
        if not self.keeps_turn:
            self._turns.give_way()
        self.check()

    def pause(self, wait: Callable[[], Any]) -> None:
        """Waits for something, while others have their turn. Does not wait where they cannot have it."""
        if not self.keeps_turn:
            self._turns.release()
            try:
                wait()
            finally:
                self._turns.acquire()
        self.check()

    def criteria(self, kept: Kept) -> StoppingCriteriaList:
        """What makes `generate` look after each token whether it shall end or give way."""
        return StoppingCriteriaList([_BetweenTokens(self, kept)])

    def processors(self) -> LogitsProcessorList:
        """The same for TensorFlow, whose `generate` takes no criteria, but what changes the scores of each token."""

        def unchanged(input_ids: Any, scores: Any, length: int) -> Any:
            self.give_way()
            return scores

        return LogitsProcessorList([unchanged])


class _BetweenTokens(StoppingCriteria):  # type: ignore[misc]  # transformers is not typed
    def __init__(self, job: Job, kept: Kept) -> None:
        self._job = job
        self._kept = kept
        self._tokens = 0

    def __call__(self, input_ids: Any, scores: Any, **more: Any) -> Any:
        if self._tokens < _TELLING:
            self._tokens += 1
            self._job.keeps_turn = self._kept.has_changed()
        self._job.give_way()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


class Turns:
    """A lock that is given in the order of asking, so that none who asks again at once overtakes the others."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()  # each is held until it is its owner's turn

    def acquire(self) -> None:
        """Waits for the turn."""
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        mine.acquire()

    def release(self) -> None:
        """Gives the turn to who has waited longest."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False

    def give_way(self) -> None:
        """Behind those that wait by now."""
        if self._waiting:
            self.release()
            self.acquire()
