"""The load generator: a process that makes one kind of call over a number of connections, and times the answers.

It is a process of its own, so that its processor time counts for nobody, and it does as little as possible per call:
prebuilt bytes, raw sockets, no client library. A closed loop: each caller sends its next call when its answer is in.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from grpc_client import GrpcConnection
from http_client import HttpConnection
from oip import Call
from tally import Tally

__all__ = ["Load", "LoadError", "Outcome", "Plan"]

_GRACE_SECONDS = 60.0  # for the last answers of a round


class LoadError(Exception):
    """Some answers were wrong, or none came."""


@dataclass(frozen=True)
class Plan:
    """What to do in one round."""

    call: Call
    port: int
    connections: int = 1
    streams: int = 1  # gRPC: calls under way per connection
    seconds: float = 2.0
    warm_seconds: float = 0.3
    least_calls: int = 0  # go on past `seconds` until so many are answered
    host: str = "127.0.0.1"


@dataclass(frozen=True)
class Outcome:
    """What one round gave. Percentiles in milliseconds."""

    calls: int
    elapsed_seconds: float
    p50_ms: float
    p99_ms: float
    client_cpu_seconds: float


class Load:
    """The other process, between its warm-up and its end: `with Load(plan) as load: load.go()`."""

    def __init__(self, plan: Plan) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._plan = plan
        self._process = context.Process(target=_main, args=(theirs, plan), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Load:
        """Wait until all connections are open and warm."""
        try:
            self._receive(30 + self._plan.warm_seconds + _GRACE_SECONDS)
        except BaseException:
            self._end()
            raise
        return self

    def go(self) -> Outcome:
        """Make the measured calls. LoadError if any answer is not what it should be."""
        self._pipe.send("go")
        outcome = self._receive(self._plan.seconds + 2 * _GRACE_SECONDS)
        assert isinstance(outcome, Outcome)
        return outcome

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _receive(self, timeout_seconds: float) -> Any:
        if not self._pipe.poll(timeout_seconds):
            raise LoadError(f"the load generator said nothing for {timeout_seconds:.0f} s")
        try:
            message = self._pipe.recv()
        except EOFError:
            raise LoadError("the load generator died") from None
        if isinstance(message, LoadError):
            raise message
        return message

    def _end(self) -> None:
        self._process.join(1)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()


# -- in the other process ----------------------------------------------------------------------------------------------


def _main(pipe: Connection, plan: Plan) -> None:
    gc.disable()  # a collection would be somebody's p99
    try:
        _loop_run(_rounds(pipe, plan))
    except LoadError as error:
        pipe.send(error)
    except Exception as error:
        pipe.send(LoadError(f"{type(error).__name__}: {error}"))


def _loop_run(main: Any) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


async def _rounds(pipe: Connection, plan: Plan) -> None:
    tally = Tally()
    connections = [await _connect(plan, tally) for _ in range(plan.connections)]
    await _round(tally, connections, plan.warm_seconds, 1)
    pipe.send("ready")
    pipe.recv()
    cpu = time.process_time()
    await _round(tally, connections, plan.seconds, plan.least_calls)
    cpu = time.process_time() - cpu
    pipe.send(_outcome(tally, cpu))
    for connection in connections:
        connection.close()


async def _connect(plan: Plan, tally: Tally) -> HttpConnection | GrpcConnection:
    authority = f"{plan.host}:{plan.port}"

    def make() -> HttpConnection | GrpcConnection:
        if plan.call.transport == "grpc":
            return GrpcConnection(plan.call, authority, tally, plan.streams)
        return HttpConnection(plan.call, authority, tally)

    _, connection = await asyncio.get_running_loop().create_connection(make, plan.host, plan.port)
    await connection.ready()
    return connection


async def _round(
    tally: Tally, connections: list[HttpConnection | GrpcConnection], seconds: float, least_calls: int
) -> None:
    tally.begin(seconds, least_calls, sum(connection.streams for connection in connections))
    for connection in connections:
        connection.start()
    await tally.finish(seconds + _GRACE_SECONDS)
    if tally.errors:
        total = len(tally.latencies) + tally.errors.total()
        kinds = "; ".join(f"{count} × {text}" for text, count in tally.errors.most_common(3))
        raise LoadError(f"{tally.errors.total()} of {total} calls failed: {kinds}")


def _outcome(tally: Tally, cpu: float) -> Outcome:
    ordered = sorted(tally.latencies)
    return Outcome(
        calls=len(ordered),
        elapsed_seconds=tally.elapsed,
        p50_ms=ordered[len(ordered) // 2] * 1e3,
        p99_ms=ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1e3,
        client_cpu_seconds=cpu,
    )
