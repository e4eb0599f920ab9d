"""A hundred ends with calls under way: every call that was accepted gets its answer, over REST, SSE and gRPC."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from anyio.from_thread import start_blocking_portal

from mlserve.repository import ModelRepository
from mlserve.server import Server
from mlserve.settings import Settings
from tests.chaos_clients import Grpc, Rest
from tests.chaos_models import Case, write_all
from tests.serving import Running, is_alive

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("DRAINS", "100"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    write_all(place)
    for one in place.iterdir():
        if one.name not in ("batched", "waiting"):
            (one / "model-settings.json").unlink()
    return place


class _Caller:
    """Asks without a pause until the server is gone; what it saw."""

    def __init__(self, rest: str, grpc: str, seed: int) -> None:
        self.statuses: list[object] = []
        self._random = np.random.default_rng(seed)
        self._seed = seed
        self.rest = Rest(rest)
        self.grpc = Grpc(grpc)

    async def one(self, way: int, number: int) -> object:
        case, request_id = Case(self._random), f"{self._seed}-{number}"
        if way == 0:
            return await self.rest.infer("batched", case, request_id)
        if way == 1:
            return await self.rest.stream("waiting", case, request_id)
        return await self.grpc.infer("waiting", case, request_id)

    async def run(self, way: int, stopped: asyncio.Event) -> None:
        """Until the first call that could not begin after the end was asked for."""
        number = 0
        while True:
            number += 1
            late = stopped.is_set()
            try:
                status = await self.one(way, number)
            except ConnectionRefusedError:
                status = "refused"
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                status = f"cut: {type(error).__name__}"
            self.statuses.append(status)
            if status != 200:
                # After the end was asked for, a connection may find no listener any more, and a gRPC channel nobody: also
                # one that took its call just before, and is told to send it elsewhere (GOAWAY) before it has sent it.
                unsent = stopped.is_set() and self.grpc.never_sent
                fine = (late and status == "refused") or (status == 503 and way == 2 and (late or unsent))
                self.statuses[-1] = 200 if fine else status
                break
        self.rest.drop()
        await self.grpc.close()


async def _ask_until_the_end(rest: str, grpc: str, seed: int, stop: Callable[[], object]) -> list[object]:
    """What nine clients see of a server that is asked to end while they ask."""
    stopped = asyncio.Event()
    callers = [_Caller(rest, grpc, seed * 10 + n) for n in range(9)]
    running = [asyncio.create_task(one.run(n % 3, stopped)) for n, one in enumerate(callers)]
    while not all(len(one.statuses) > 2 for one in callers):
        await asyncio.sleep(0.005)
    await asyncio.sleep(random.Random(seed).random() * 0.05)
    stopped.set()
    stop()
    await asyncio.gather(*running)
    return [status for one in callers for status in one.statuses]


async def _one_program(folder: Path, seed: int) -> list[object]:
    """One life of the program, ended by a signal."""
    server = Running(folder, "--parallel-workers", "1", "--set", "metrics_endpoint=null")
    try:
        await asyncio.to_thread(server.wait_started)
        workers = server.workers
        stop = partial(server.process.send_signal, signal.SIGTERM)
        seen = await _ask_until_the_end(server.addresses["REST"], server.grpc, seed, stop)
        assert await asyncio.to_thread(server.process.wait, 100) == 0
        assert not any(is_alive(pid) for pid in workers)
        assert "Traceback" not in server.output, server.output
        return seen
    finally:
        server.process.kill()
        server.process.wait()
        server._reader.join(5)
        server.process.stderr.close()


async def _one_server(folder: Path, seed: int) -> list[object]:
    """One life of a server in a thread of this process, with its models in another."""
    settings = Settings(parallel_workers=0, host="127.0.0.1", http_port=0, grpc_port=0, metrics_endpoint=None)
    with start_blocking_portal("asyncio", {"use_uvloop": True}) as portal:
        ended, server = portal.start_task(Server(settings, ModelRepository(folder)).run)
        rest, grpc = (f"{host}:{port}" for host, port in (server.addresses["http"], server.addresses["grpc"]))
        seen = await _ask_until_the_end(rest, grpc, seed, partial(portal.call, server.stop))
        await asyncio.to_thread(ended.result, 100)
        return seen


def _many(one: Callable[[int], Awaitable[list[object]]], rounds: int, side_by_side: int) -> None:
    seed = int(os.environ.get("CHAOS_SEED", time.time()))
    seen: list[object] = []

    async def series(first: int) -> None:
        for n in range(first, rounds, side_by_side):
            seen.extend(await one(seed + n))

    async def main() -> None:
        await asyncio.gather(*(series(n) for n in range(side_by_side)))

    asyncio.run(main())
    bad = {str(one): seen.count(one) for one in set(seen) if one != 200}
    print(f"\nseed {seed}: {rounds} ends, {len(seen)} calls, not answered: {bad}")
    assert not bad


def test_twenty_ends_of_the_program_cost_no_accepted_call(folder):
    _many(partial(_one_program, folder), ROUNDS // 5, 2)


def test_eighty_ends_of_a_server_cost_no_accepted_call(folder):
    _many(partial(_one_server, folder), ROUNDS - ROUNDS // 5, 1)
