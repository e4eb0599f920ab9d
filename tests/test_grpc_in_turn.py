"""The memory of answers that wait for their turn in Triton's form of streams: counted once, bounded, and never a knot."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest

from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.in_turn import Kept, Sizes
from mlserve.types import InferenceRequest, InferenceResponse, ResponseOutput
from mlserve.unsent import Unsent
from tests.grpc_calls import say
from tests.grpc_edge import BACKENDS, FakePlane, Running, serving
from tests.serving import write_model
from tests.triton_talk import WAIT_SECONDS, Talk, round_trips
from tests.unread import body, message, served, until

LARGE = 128 << 10


class Plane:
    """Models "large" and "slow", which waits until it may go on; what has begun, and what is counted."""

    def __init__(self, running: Running, unsent: Unsent) -> None:
        self.running = running
        self.unsent = unsent
        self.begun: list[str] = []
        self.go = threading.Event()
        running.plane.models |= {"large": self.large, "slow": self.slow}

    def large(self, request: InferenceRequest) -> InferenceResponse:
        self.begun.append(str(request.id))
        zeros = np.zeros(LARGE, np.uint8)
        output = ResponseOutput(name="y", shape=[LARGE], datatype="UINT8", data=zeros)
        return InferenceResponse(model_name="", outputs=[output])

    async def slow(self, request: InferenceRequest) -> InferenceResponse:
        while not self.go.is_set():
            await anyio.sleep(0.005)
        return InferenceResponse(model_name="", outputs=[])


@pytest.fixture(params=BACKENDS)
def plane(request: pytest.FixtureRequest) -> Iterator[Plane]:
    unsent = Unsent(8 * LARGE)
    with serving(request.param, FakePlane(), unsent=unsent) as running:
        yield Plane(running, unsent)


@pytest.fixture
def talk(plane: Plane) -> Iterator[Talk]:
    made = Talk(plane.running.address)
    yield made
    plane.go.set()
    made.leave()


def test_as_many_run_before_their_turn_as_there_is_memory_for_their_answers(plane: Plane, talk: Talk) -> None:
    """As far as the size of a model's answers is known. All are answered, in order, and nothing stays counted."""
    talk.ask(say("a", "large"), "first")
    assert talk.hear() == "first"
    talk.ask(say("a", "slow"), "slow")
    names = [str(at) for at in range(20)]
    for name in names:
        talk.ask(say("a", "large"), name)
    until(lambda: len(plane.begun) == 4)
    round_trips(plane.running.address)
    assert plane.begun == ["first", *names[:3]], "half of the memory, and their messages are a little larger"
    assert 3 * LARGE < plane.unsent.ahead_bytes < 4 * LARGE and not plane.unsent.held_bytes
    plane.go.set()
    assert [talk.hear() for _ in range(21)] == ["slow", *names]
    until(lambda: plane.unsent.ahead_bytes == plane.unsent.held_bytes == 0)


def test_answers_of_a_client_that_leaves_before_their_turn_are_not_counted_any_more(plane: Plane, talk: Talk) -> None:
    talk.ask(say("a", "slow"), "slow")
    for at in range(12):
        talk.ask(say("a", "large"), str(at))
    until(lambda: plane.unsent.ahead_bytes > LARGE)
    assert not plane.unsent.full, "no client could change that"
    talk.leave()
    until(lambda: plane.unsent.ahead_bytes == plane.unsent.held_bytes == 0)


def test_an_answer_of_a_stream_counts_once_while_it_is_sent(plane: Plane, talk: Talk) -> None:
    counted: list[int] = []
    hold, count_ahead = plane.unsent.hold, plane.unsent.count_ahead

    def noted(size_bytes: int, by: Any) -> None:
        by(size_bytes)
        counted.append(plane.unsent.held_bytes + plane.unsent.ahead_bytes)

    plane.unsent.hold = lambda size: noted(size, hold)  # type: ignore[method-assign]
    plane.unsent.count_ahead = lambda size: noted(size, count_ahead)  # type: ignore[method-assign]
    talk.ask(say("a", "large"), "1")
    assert talk.hear() == "1"
    assert LARGE < max(counted) < LARGE + 1000


MODELS = '''
import asyncio
from pathlib import Path

import numpy as np
from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput


class Plain(MLModel):
    """Answers with so many bytes, with one answer for each request."""

    def predict(self, request):
        values = np.zeros(int(request.inputs[0].data.to_numpy("INT64", [1])[0]), np.uint8)
        output = ResponseOutput(name="y", shape=[len(values)], datatype="UINT8", data=values)
        return InferenceResponse(model_name=self.name, outputs=[output])


class Gated(Plain):
    """While a file is there, its answers come when that has gone."""

    async def predict(self, request):
        while Path(__file__).with_name("gate").exists():
            Path(__file__).with_name("begun").touch()
            await asyncio.sleep(0.002)
        return super().predict(request)
'''


@pytest.mark.parametrize("backend", ["asyncio", pytest.param("trio", marks=pytest.mark.own_process)])
def test_answers_that_wait_for_a_call_do_not_keep_it_from_beginning(tmp_path: Path, backend: str) -> None:
    """It waits for another client's call of its model; meanwhile those behind it fill the memory for answers."""
    folder = write_model(tmp_path, "gated", "models.Gated", max_running_calls=1)
    for place in (folder, write_model(tmp_path, "plain", "models.Plain")):
        (place / "models.py").write_text(MODELS)
    gate = folder / "gate"
    with served(tmp_path, backend, answer_memory_bytes=4 * LARGE) as running:
        url = f"{running.rest}/v2/models/gated/infer"
        assert httpx.post(url, json=body(LARGE), timeout=WAIT_SECONDS).status_code == 200  # it is known to be large
        gate.touch()
        other = threading.Thread(target=lambda: httpx.post(url, json=body(1), timeout=2 * WAIT_SECONDS))
        other.start()
        until((folder / "begun").exists)
        talk = Talk(running.grpc)
        try:
            talk.ask(_asking("gated", LARGE), "0")
            for at in range(1, 21):
                talk.ask(_asking("plain", LARGE), str(at))
            until(lambda: not running.unsent.has_room_ahead(LARGE))
            gate.unlink()
            assert [talk.hear() for _ in range(21)] == [str(at) for at in range(21)]
            until(lambda: running.unsent.ahead_bytes == running.unsent.held_bytes == 0)
        finally:
            gate.unlink(missing_ok=True)
            talk.leave()
            other.join(WAIT_SECONDS)


def _asking(model: str, size: int) -> pb.ModelInferRequest:
    made = message(size)
    made.model_name = model
    return made


def test_what_is_expected_of_a_model_is_forgotten_by_and_by() -> None:
    sizes = Sizes()
    for size in (10, LARGE, 5 * LARGE, LARGE):
        sizes.note("m", size)
    assert 4 * LARGE < sizes.expected("m") < 5 * LARGE and sizes.expected("other") == 0
    for _ in range(100):
        sizes.note("m", LARGE)
    assert sizes.expected("m") == LARGE
    for _ in range(100):
        sizes.note("m", 1)
    assert not sizes._expected


def test_room_that_is_kept_for_an_answer_becomes_the_answer() -> None:
    unsent, sizes = Unsent(4 * LARGE), Sizes()
    sizes.note("m", LARGE)
    kept, more = Kept(unsent, sizes, "m"), Kept(unsent, sizes, "m")
    assert kept.may_begin() and more.may_begin() and not Kept(unsent, sizes, "m").may_begin()
    kept.add([b"some"])
    assert unsent.ahead_bytes == 2 * LARGE
    kept.complete(learn=False)
    assert unsent.ahead_bytes == LARGE + 4
    assert sizes.expected("m") == LARGE, "of calls that failed nothing is learnt: clients choose what they are named"
    assert kept.take() == [[b"some"]] and more.take() == []
    assert unsent.ahead_bytes == 0 and kept.take() == []
