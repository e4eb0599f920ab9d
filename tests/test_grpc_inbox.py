"""What a stream has received and not read: how much more its sender may send, and what it counts as."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import grpc
import pytest

from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.grpc.inbox import Inbox
from mlserve.http2 import STREAM_WINDOW_BYTES
from mlserve.intake import Intake
from mlserve.types import InferenceRequest, InferenceResponse
from tests.grpc_edge import BACKENDS, SECONDS, FakePlane, Running, serving

MIB = 1 << 20


def framed(size: int) -> bytes:
    return b"\0" + size.to_bytes(4, "big") + bytes(size)


class Box:
    """An inbox, what it gave back, and how often it was full."""

    def __init__(self, limit_bytes: float = float("inf")) -> None:
        self.given_back = 0
        self.full = 0
        self.intake = Intake(limit_bytes)
        self.inbox = Inbox(self._give_back)
        self.inbox.count_in(self.intake, self._be_full)

    def _give_back(self, size: int) -> None:
        self.given_back += size

    def _be_full(self) -> None:
        self.full += 1

    def add(self, data: bytes) -> None:
        self.inbox.add(data, len(data))


def test_only_what_was_read_is_given_back() -> None:
    box, one = Box(), framed(MIB // 4)
    for _ in range(16):
        box.add(one)
    assert box.given_back == 0

    async def read(count: int) -> None:
        for _ in range(count):
            found = await box.inbox.message(MIB)
            assert found is not None and len(found[1]) == MIB // 4

    asyncio.run(read(1))
    assert box.given_back == 0
    asyncio.run(read(9))
    assert 2 * MIB <= box.given_back <= 10 * len(one)
    box.given_back += box.inbox.unacked_size()
    assert box.given_back == 16 * len(one)


def test_a_message_that_is_awaited_is_given_back_as_it_comes() -> None:
    """It may be larger than the window. What comes behind it is not."""
    box, size = Box(), 3 * STREAM_WINDOW_BYTES

    async def run() -> None:
        reading = asyncio.ensure_future(box.inbox.message(1 << 30))
        await asyncio.sleep(0)
        data = memoryview(framed(size))
        for place in range(0, len(data), MIB):
            box.add(bytes(data[place : place + MIB]))
            await asyncio.sleep(0)
        found = await reading
        assert found is not None and len(found[1]) == size
        box.add(framed(2 * MIB))

    asyncio.run(run())
    assert size - MIB <= box.given_back <= size + 5


def test_unread_data_counts_until_it_is_read_or_dropped() -> None:
    box = Box()
    for _ in range(4):
        box.add(framed(MIB))
    assert box.intake.held_bytes == 4 * (MIB + 5)
    asyncio.run(box.inbox.message(MIB))
    assert box.intake.held_bytes <= 3 * (MIB + 5)
    box.inbox.unacked_size()
    assert box.intake.held_bytes == 0


def test_it_is_told_when_there_is_no_room() -> None:
    box = Box(3 * MIB)
    for _ in range(3):
        box.add(framed(MIB))
    assert box.full == 1
    assert box.intake.held_bytes == 2 * (MIB + 5)
    box.inbox.unacked_size()
    assert box.intake.held_bytes == 0


# -- clients ----------------------------------------------------------------------------------------------------------


class Gated:
    """A model that answers each request of a stream when it may."""

    def __init__(self) -> None:
        self.may = threading.Event()

    async def __call__(self, request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        while not self.may.is_set():
            await anyio.sleep(0.01)
        yield InferenceResponse(model_name="", outputs=[])


def large(model: str, size: int = 200_000) -> Any:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", shape=[1], datatype="BYTES").contents.bytes_contents.append(bytes(size))
    return request


def settled(count: list[int]) -> int:
    """How many there are, once there are no more for a while."""
    seen = -1
    while seen != len(count):
        seen = len(count)
        threading.Event().wait(0.5)
    return seen


@pytest.fixture(params=BACKENDS)
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(request.param, FakePlane(gated=Gated())) as running:
        yield running


def test_a_model_that_does_not_read_holds_its_client_up_and_nobody_else(server: Running) -> None:
    sent: list[int] = []

    def requests() -> Iterator[Any]:
        for number in range(200):
            sent.append(number)
            yield large("gated")

    with grpc.insecure_channel(server.address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        answers = stub.ModelStreamInfer(requests(), timeout=SECONDS)
        assert settled(sent) < 100
        for _ in range(20):
            stub.ModelInfer(large("echo", 10), timeout=SECONDS)
        server.plane.models["gated"].may.set()
        assert len(list(answers)) == len(sent) == 200
