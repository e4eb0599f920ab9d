"""The load generator for streams: a process that keeps a number of event streams open, one after the other each.

Every stream must have all its events, in order: one that does not fails the run.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import time
from dataclasses import dataclass, field
from typing import Any

import httptools

__all__ = ["StreamOutcome", "StreamPlan", "run_streams"]

_PLACE = re.compile(rb"token (\d+)")
_WARM_STREAMS = 2  # for each connection, before anything counts


@dataclass(frozen=True)
class StreamPlan:
    """So many connections, so many streams on each, so many events in each."""

    port: int
    path: str
    body: bytes
    events: int
    connections: int
    streams: int


@dataclass
class StreamOutcome:
    """What one round gave. Times in seconds."""

    events: int = 0
    elapsed: float = 0.0
    first_event: list[float] = field(default_factory=list)  # from the request to the first event, of each stream
    errors: list[str] = field(default_factory=list)


class _Connection(asyncio.Protocol):
    def __init__(self, plan: StreamPlan, streams: int, outcome: StreamOutcome) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._plan = plan
        self._left = streams
        self._outcome = outcome
        self._request = (
            f"POST {plan.path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(plan.body)}\r\n\r\n"
        ).encode() + plan.body

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._complete = False
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)
        if self._complete:
            self._end()

    def on_body(self, piece: bytes) -> None:
        if not self._body:
            self._outcome.first_event.append(time.perf_counter() - self._began)
        self._body.append(piece)

    def on_message_complete(self) -> None:
        self._complete = True

    def _end(self) -> None:
        body = b"".join(self._body)
        places = [int(one) for one in _PLACE.findall(body)]
        if self._parser.get_status_code() != 200 or places != list(range(self._plan.events)):
            self._outcome.errors.append(
                f"status {self._parser.get_status_code()}, {len(places)} events: {body[:200]!r}"
            )
        self._outcome.events += len(places)
        self._left -= 1
        if self._left and not self._outcome.errors:
            self._next()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._left and not self._outcome.errors:
            self._outcome.errors.append(f"connection lost ({error})")
        if not self.done.done():
            self.done.set_result(None)


async def _round(plan: StreamPlan, streams: int) -> StreamOutcome:
    outcome = StreamOutcome()
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    made = [
        await loop.create_connection(lambda: _Connection(plan, streams, outcome), "127.0.0.1", plan.port)
        for _ in range(plan.connections)
    ]
    await asyncio.gather(*(connection.done for _, connection in made))
    outcome.elapsed = time.perf_counter() - began
    return outcome


def _main(pipe: Any, plan: StreamPlan) -> None:
    asyncio.run(_round(plan, _WARM_STREAMS))
    pipe.send("warm")
    pipe.recv()
    pipe.send(asyncio.run(_round(plan, plan.streams)))


def run_streams(plan: StreamPlan, before: Any) -> StreamOutcome:
    """One round in a process of its own; `before()` is called between its warm-up and its start."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_main, args=(theirs, plan), daemon=True)
    process.start()
    theirs.close()
    try:
        ours.recv()
        before()
        ours.send("go")
        outcome: StreamOutcome = ours.recv()
    finally:
        process.join(5)
        process.kill()
    return outcome
