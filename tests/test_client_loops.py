"""An AsyncClient in more than one event loop: each has connections of its own, which close with it."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from mlserve.client import AsyncClient
from tests.client_edge import GOOD, KINDS, SECONDS, Scripted, address_of, binary_of, words
from tests.grpc_edge import FakePlane


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def _ask(client: AsyncClient, value: int = 1) -> int:
    return int((await client.infer("echo", [value])).outputs["input-1"].item())


def test_a_client_works_in_one_event_loop_after_the_other(kind: str, recwarn: Any) -> None:
    gc.collect()  # of what other tests have left
    recwarn.clear()
    with address_of(kind, FakePlane()) as address:
        client = AsyncClient(address, binary=binary_of(kind), timeout_seconds=SECONDS, retries=0)
        for number in range(3):
            assert asyncio.run(_ask(client, number)) == number
        asyncio.run(client.aclose())
        assert asyncio.run(_ask(client)) == 1
        del client
        gc.collect()
    assert [str(one.message) for one in recwarn] == []


def test_the_end_of_a_loop_closes_its_connections() -> None:
    for backend in ("asyncio", "trio"):
        with Scripted(GOOD, GOOD) as server:  # its end waits for that of the connections
            client = AsyncClient(server.address)
            for _ in range(2):
                anyio.run(client.infer, "m", [1], backend=backend)
            for thread in server._threads[1:]:
                thread.join(60)
                assert not thread.is_alive()
            assert server.connections == 2
            anyio.run(client.aclose, backend=backend)


def test_a_loop_that_was_closed_by_hand_is_left_behind(kind: str) -> None:
    with address_of(kind, FakePlane()) as address:
        client = AsyncClient(address, binary=binary_of(kind), timeout_seconds=SECONDS, retries=0)
        for number in range(3):
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(_ask(client, number)) == number
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
        assert len(client._transports._homes) == 1


def test_loops_that_run_at_once_do_not_meet(kind: str) -> None:
    begun, release = threading.Event(), threading.Event()
    found: list[str] = []
    with address_of(kind, FakePlane(words=words(50))) as address:
        client = AsyncClient(address, binary=binary_of(kind), timeout_seconds=SECONDS)

        async def stream() -> None:
            async with aclosing(client.stream("words", ["text"])) as answers:
                async for one in answers:
                    found.extend(one.outputs["w"])
                    begun.set()
                    assert await anyio.to_thread.run_sync(release.wait, 60)

        thread = threading.Thread(target=asyncio.run, args=(stream(),))
        thread.start()
        try:
            assert begun.wait(60)
            assert asyncio.run(_ask(client, 7)) == 7  # and its end leaves the other alone
        finally:
            release.set()
            thread.join(60)
        assert found == [f"word {number}" for number in range(50)]


def test_a_forgotten_client_is_closed_by_its_loop(kind: str, recwarn: Any) -> None:
    gc.collect()  # of what other tests have left
    recwarn.clear()

    async def use(address: str) -> None:
        for _ in range(2):
            client = AsyncClient(address, binary=binary_of(kind))
            assert await _ask(client) == 1
            del client
            gc.collect()
            await asyncio.sleep(0)

    with address_of(kind, FakePlane()) as address:
        asyncio.run(use(address))
        gc.collect()
    assert [str(one.message) for one in recwarn] == []


def test_closing_is_for_the_connections_there_are(kind: str) -> None:
    async def close_twice(make: Callable[[], AsyncClient]) -> None:
        async with make() as client:
            await client.aclose()
            assert await _ask(client) == 1

    with address_of(kind, FakePlane()) as address:
        asyncio.run(close_twice(lambda: AsyncClient(address, binary=binary_of(kind))))
