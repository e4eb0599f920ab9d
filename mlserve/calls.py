"""One call on its way through a pool: what it asks, where it is, and what came of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar, Union

from mlserve import frames
from mlserve.errors import DeadlineExceeded, MLServeError
from mlserve.eventloop import Waiter
from mlserve.side_by_side import Flight
from mlserve.types import InferenceRequest, InferenceResponse

CHUNK_CREDIT = 16  # what a worker may send ahead of its client: chunks, large ones counting for several
T = TypeVar("T")


class Call:
    """A unary call. One task waits on `done`; the pool's reader delivers into it."""

    __slots__ = (
        "abandoned",
        "alone",
        "arrived_at",
        "batch",
        "deadline",
        "digest",
        "done",
        "error",
        "form",
        "link",
        "model",
        "number",
        "request",
        "response",
        "rows",
        "waiting",
    )

    def __init__(
        self, model: int, request: InferenceRequest | None, form: str, new_waiter: Callable[[], Waiter]
    ) -> None:
        self.model = model
        self.request = request
        self.form = form
        self.arrived_at = time.monotonic()  # the pool's clock puts its own time here
        self.deadline: float | None = None  # by the same clock: after this it shall not begin
        self.done: Waiter = new_waiter()
        self.response: InferenceResponse | None = None
        self.error: MLServeError | None = None
        self.number = 0  # at its worker; numbers rise in the order of sending
        self.link: Any = None  # the worker it was sent to
        self.waiting = False  # it takes no place in its worker's window: it awaits something, or runs in a batch
        self.abandoned = False  # nobody waits for the answer any more
        self.alone = False  # it shall not share a batch: a worker died while it ran in one
        self.digest: bytes | None = None  # of its content, where that is under suspicion (recovery.py)
        self.rows = 0  # counted where its model has batching; 0: it runs alone
        self.batch: Batch | None = None  # that it was sent with

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for what it still does."""
        return not self.abandoned

    def succeed(self, response: InferenceResponse) -> None:
        self.response = response
        self.done.set()

    def fail(self, error: MLServeError) -> None:
        self.error = error
        self.done.set()

    def result(self) -> InferenceResponse:
        """The response, or the error, once `done` is set. The error is raised once."""
        if self.error is not None:
            raise self._take_error(self.error)
        assert self.response is not None, "result() is asked for after done"
        return self.response

    def _take_error(self, error: MLServeError) -> MLServeError:
        """Lets go of the error: with its traceback, which leads here, it would be a circle around the request."""
        self.error = None
        return error


class Batch:
    """Calls that were sent to run as one, until the last of them is answered."""

    __slots__ = ("busy_seconds", "calls", "flight", "is_whole", "left", "on_end", "rest_seconds", "rows", "sent_at")

    def __init__(self, calls: list[Call], sent_at: float, on_end: Callable[[Batch], None] | None = None) -> None:
        self.calls = calls
        self.flight: Flight | None = None  # the batches of the model that its worker has; None: nobody asks
        self.rest_seconds: float | None = None  # that those ahead of it were to take yet; None: there were none
        self.left = len(calls)  # of them are not answered yet
        self.rows = sum(call.rows for call in calls)
        self.sent_at = sent_at
        self.busy_seconds = 0.0  # of the worker
        self.is_whole = True  # it ran as one, and nothing went wrong
        self.on_end = on_end

    def leaves(self, busy_seconds: float, answered: bool) -> float:
        """One of the calls is done; how long the worker was busy with those that are."""
        self.left -= 1
        self.busy_seconds = max(self.busy_seconds, busy_seconds)
        self.is_whole = self.is_whole and answered
        if not self.left and self.on_end is not None:
            self.on_end(self)
        elif not self.left and self.flight is not None:
            self.flight.drop(self)
        return self.busy_seconds


class ChunkedCall(Call, Generic[T]):
    """A call that is answered in chunks, as many ahead of who takes them as there is credit."""

    __slots__ = ("_new_waiter", "chunks", "ended", "taken_credit", "wake_reader")

    def __init__(self, model: int, form: str, new_waiter: Callable[[], Waiter]) -> None:
        super().__init__(model, None, form, new_waiter)
        self._new_waiter = new_waiter
        self.chunks: deque[T] = deque()
        self.ended = False
        self.taken_credit = 0  # of chunks that came, to be given back once they are taken
        self.wake_reader: Waiter | None = None

    def deliver(self, chunk: T, credit: int) -> None:
        self.chunks.append(chunk)
        self.taken_credit += credit
        if self.wake_reader is not None:
            self.wake_reader.set()

    def fail(self, error: MLServeError) -> None:
        self.error = error
        self.end()

    def end(self) -> None:
        self.ended = True
        self.done.set()
        if self.wake_reader is not None:
            self.wake_reader.set()

    async def next_chunks(self) -> list[T]:
        """All chunks that have come; waits for at least one. An empty list at the end; raises what went wrong."""
        while not self.chunks and not self.ended:
            self.wake_reader = self._new_waiter()
            await self.wake_reader.wait()
        chunks = list(self.chunks)
        self.chunks.clear()
        if not chunks and self.error is not None:
            raise self._take_error(self.error)
        if self.taken_credit >= CHUNK_CREDIT // 2 and self.link is not None:  # not for each chunk: it costs a write
            self.link.took(self, self.taken_credit)
            self.taken_credit = 0
        return chunks


class HandleCall(ChunkedCall[Union[frames.Handled, frames.Piece]]):
    """A call of a custom handler: a request in, an answer out whose body may come in pieces."""

    __slots__ = ("frame", "is_answered")

    def __init__(self, frame: frames.Handle, new_waiter: Callable[[], Waiter]) -> None:
        super().__init__(frame.model, "json", new_waiter)
        self.frame = frame
        self.is_answered = False  # the answer has come, all of it; what follows it may still run

    @property
    def is_wanted(self) -> bool:
        return not (self.abandoned or self.is_answered)

    def handled(self, piece: frames.Handled | frames.Piece) -> None:
        """Some of the answer has come; with the last of it, maybe the end."""
        self.is_answered = not piece.more
        self.deliver(piece, frames.credit_for(len(piece.body)))
        if piece.over:
            self.end()


class StreamCall(ChunkedCall[InferenceResponse]):
    """A streamed call: requests in, chunks out, each side bounded by credit."""

    __slots__ = ("_ahead", "assigned", "request_credit", "wake_feeder")

    def __init__(self, model: int, form: str, request_credit: int, new_waiter: Callable[[], Waiter]) -> None:
        super().__init__(model, form, new_waiter)
        self.assigned: Waiter = new_waiter()  # set once it has a worker, or has ended without
        self.request_credit = request_credit  # what the worker's buffer still has room for: see frames.credit_of
        self._ahead: deque[int] = deque()  # what the requests cost that are there
        self.wake_feeder: Waiter | None = None

    def end(self) -> None:
        super().end()
        self.assigned.set()
        if self.wake_feeder is not None:
            self.wake_feeder.set()

    def pushed(self, credit: int) -> None:
        self.request_credit -= credit
        self._ahead.append(credit)

    def pulled(self) -> None:
        self.request_credit += self._ahead.popleft()
        if self.wake_feeder is not None:
            self.wake_feeder.set()

    async def room(self) -> bool:
        """Waits until the worker takes one more request; False if the stream has ended instead."""
        while self.request_credit <= 0 and not self.ended:
            self.wake_feeder = self._new_waiter()
            await self.wake_feeder.wait()
        return not self.ended


def is_late(call: Call, now: float) -> bool:
    """Fails a call whose time was over while it waited: it shall not begin."""
    if call.deadline is None or call.deadline > now:
        return False
    call.fail(DeadlineExceeded("the call's time was over before a worker could begin it"))
    return True


def error_of(frame: frames.Failed) -> MLServeError:
    """The error that a worker reported."""
    error = MLServeError(frame.message)
    error.http_status = frame.http_status
    error.grpc_status = frame.grpc_status
    error.error_type = frame.error_type
    return error
