"""The memory of requests in Triton's form of gRPC streams: counted until each is answered, and bounded for a stream."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import anyio
import pytest

from mlserve.grpc import dataplane_pb2 as pb
from mlserve.intake import Intake
from mlserve.types import InferenceRequest, InferenceResponse
from tests.grpc_edge import BACKENDS, FakePlane, serving
from tests.triton_talk import Talk, round_trips
from tests.unread import until

SIZE = 300 << 10
LIMIT = 8 << 20


class Plane:
    """A model that waits until it may go on, on a server that counts requests."""

    def __init__(self) -> None:
        self.intake = Intake(LIMIT)
        self.begun: list[str] = []
        self.go = threading.Event()

    async def slow(self, request: InferenceRequest) -> InferenceResponse:
        self.begun.append(str(request.id))
        while not self.go.is_set():
            await anyio.sleep(0.005)
        return InferenceResponse(model_name="", outputs=[])


@pytest.fixture
def plane() -> Plane:
    return Plane()


@pytest.fixture(params=BACKENDS)
def talk(request: pytest.FixtureRequest, plane: Plane) -> Iterator[Talk]:
    with serving(request.param, FakePlane(slow=plane.slow), intake=plane.intake) as running:
        made = Talk(running.address)
        yield made
        plane.go.set()
        made.leave()


def _ask(talk: Talk, id: str, size: int = SIZE) -> None:
    message = pb.ModelInferRequest(model_name="slow")
    message.inputs.add(name="x", shape=[size], datatype="UINT8")
    message.raw_input_contents.append(bytes(size))
    talk.ask(message, id)


def test_requests_count_until_they_are_answered_and_one_stream_reads_its_share(talk: Talk, plane: Plane) -> None:
    names = [str(at) for at in range(12)]
    for name in names:
        _ask(talk, name)
    until(lambda: len(plane.begun) >= 4)
    round_trips(talk.address)
    assert plane.begun == names[:4], "an eighth of the memory"
    assert plane.intake.held_bytes > 4 * SIZE
    plane.go.set()
    assert [talk.hear() for _ in names] == names
    until(lambda: plane.intake.held_bytes == 0)


def test_small_requests_are_not_bounded_by_their_memory(talk: Talk, plane: Plane) -> None:
    names = [str(at) for at in range(40)]
    for name in names:
        _ask(talk, name, 1000)
    until(lambda: len(plane.begun) == 40)
    plane.go.set()
    assert [talk.hear() for _ in names] == names


def test_nothing_counts_any_more_when_the_client_has_left(talk: Talk, plane: Plane) -> None:
    for at in range(12):
        _ask(talk, str(at))
    until(lambda: len(plane.begun) == 4)
    talk.leave()
    until(lambda: plane.intake.held_bytes == 0)
