"""Server-Sent Events: one for each chunk, comments in silence, errors in either place. On asyncio and trio."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import anyio
import anyio.to_thread
import httpx
import numpy as np
import pytest
import trio.testing

from mlserve.errors import MLServeError
from mlserve.rest.app import RestApp
from mlserve.settings import Settings
from mlserve.types import InferenceResponse
from tests.asgi_caller import Caller, text_request, words
from tests.fake_dataplane import FakeDataPlane
from tests.http_edge import KINDS, PATIENCE, running

pytestmark = pytest.mark.anyio

STREAM = "/v2/models/words/infer_stream"
REQUEST = {"id": "r", "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, 2]}]}


@pytest.fixture
def call() -> Caller:
    return Caller()


@pytest.fixture
def stream_call() -> Caller:
    return Caller(FakeDataPlane(words=words))


@pytest.mark.parametrize("path", [STREAM, "/v2/models/words/generate_stream"])
async def test_a_stream_has_an_event_for_each_answer(stream_call: Caller, path: str) -> None:
    answer = await stream_call("POST", path, text_request("one two"), accept_encoding="gzip")
    assert answer.status == 200
    assert answer.headers == [("content-type", "text/event-stream; charset=utf-8")]
    assert [event for event, _ in answer.events] == ["message", "message"]
    assert [data["outputs"][0]["data"] for _, data in answer.events] == [["one"], ["two"]]
    assert answer.events[0][1]["parameters"] == {"headers": {"Ce-Id": "r", "Ce-Endpoint": "words"}}
    assert [message["more_body"] for message in answer.messages[1:]] == [True, True, False]


async def test_a_stream_of_nothing_is_one(stream_call: Caller) -> None:
    answer = await stream_call("POST", STREAM, text_request(""))
    assert (answer.status, answer.body) == (200, b"")
    assert answer["content-length"] is None


async def test_an_error_before_the_first_event_is_an_ordinary_answer(stream_call: Caller) -> None:
    answer = await stream_call("POST", STREAM, text_request("teapot"))
    assert (answer.status, answer.error) == (418, "short and stout")
    assert (await stream_call("POST", "/v2/models/nope/infer_stream", REQUEST)).status == 404
    assert (await stream_call("POST", STREAM, {"inputs": "x"})).status == 422


async def test_an_error_after_that_is_the_last_event(stream_call: Caller) -> None:
    answer = await stream_call("POST", STREAM, text_request("one teapot two"))
    assert answer.status == 200
    assert [event for event, _ in answer.events] == ["message", "error"]
    assert answer.events[-1][1] == {"error": "short and stout", "status": 418}
    assert answer.messages[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_bug_in_the_middle_of_a_stream_is_not_shown(stream_call: Caller) -> None:
    answer = await stream_call("POST", STREAM, text_request("one bug"))
    assert answer.events[-1][0] == "error"
    assert "secret" not in answer.events[-1][1]["error"]


async def test_line_breaks_in_data_do_not_break_events(call: Caller) -> None:
    body = b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1.5,\r\n\n 2]}]}'
    answer = await call("POST", "/v2/models/echo/infer_stream", body)
    (event,) = answer.events
    assert event[1]["outputs"][0]["data"] == [1.5, 2]


async def test_streams_are_json_even_if_binary_came_in(call: Caller) -> None:
    tensor = {"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    text = json.dumps({"inputs": [tensor]}).encode()
    body = text + np.array([1.5, 2], "<f4").tobytes()
    answer = await call("POST", "/v2/models/echo/infer_stream", body, inference_header_content_length=str(len(text)))
    assert answer.events[0][1]["outputs"][0]["data"] == [1.5, 2]


async def test_chunks_that_come_together_leave_together(call: Caller) -> None:
    """One write for all of them."""

    async def pairs() -> AsyncIterator[Any]:
        for name in ("a", "b"):
            yield [InferenceResponse(model_name="", id=f"{name}{place}", outputs=[]) for place in (1, 2)]

    call = Caller(FakeDataPlane(words=lambda _: pairs()))
    answer = await call("POST", STREAM, text_request(""))
    assert [data["id"] for _, data in answer.events] == ["a1", "a2", "b1", "b2"]
    assert len(answer.messages) == 1 + 2 + 1


# -- silence ----------------------------------------------------------------------------------------------------------

VIRTUAL_TIME = pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}), id="trio")]
)


def pausing(*seconds: float, error: Exception | None = None) -> Caller:
    """A model that lets so many seconds pass before each chunk, and ends with an error, if any."""

    async def answers() -> AsyncIterator[InferenceResponse]:
        for pause in seconds:
            await anyio.sleep(pause)
            yield InferenceResponse(model_name="", id=str(pause), outputs=[])
        if error is not None:
            await anyio.sleep(20)
            raise error

    return Caller(FakeDataPlane(words=lambda _: answers()), stream_keep_alive_seconds=15)


@VIRTUAL_TIME
async def test_there_is_no_silence_longer_than_the_setting_says() -> None:
    call = pausing(40, 1, 100)
    times: list[float] = []
    answer = await call("POST", STREAM, text_request(""), on_send=lambda _: times.append(anyio.current_time()))
    assert max(later - earlier for earlier, later in pairwise(times)) <= 15
    assert answer.body.count(b": still there\n\n") in range(140 // 15, 140 // 7)
    lines = [line for line in answer.body.decode().split("\n") if line.startswith("data: ")]
    assert [json.loads(line[6:])["id"] for line in lines] == ["40", "1", "100"]


@VIRTUAL_TIME
async def test_a_stream_that_is_never_silent_has_no_comments() -> None:
    answer = await pausing(*[5] * 20)("POST", STREAM, text_request(""))
    assert b": still" not in answer.body
    assert len(answer.events) == 20


@VIRTUAL_TIME
async def test_once_a_comment_was_sent_an_error_is_an_event() -> None:
    """The status is out by then."""
    answer = await pausing(error=MLServeError("too late for a status", 418))("POST", STREAM, text_request(""))
    assert answer.status == 200
    assert answer.body.endswith(b'event: error\ndata: {"error":"too late for a status","status":418}\n\n')


@VIRTUAL_TIME
async def test_no_comment_comes_behind_the_end() -> None:
    """Though the client takes its time with the end."""
    times: list[float] = []
    messages: list[Any] = []

    async def slowly(sent: Any) -> None:
        messages.append(sent)
        if not sent.get("more_body", True):
            await anyio.sleep(100)
        times.append(anyio.current_time())

    await pausing(1)("POST", STREAM, text_request(""), on_send=slowly)
    assert times[-1] > 100
    assert [one.get("more_body") for one in messages] == [None, True, False]


@VIRTUAL_TIME
async def test_a_comment_and_an_event_never_come_inside_each_other() -> None:
    """Where the server below takes a large event in pieces, and each message takes longer than the silence may be."""
    times: list[float] = []

    async def slowly(_: Any) -> None:
        await anyio.sleep(20)
        times.append(anyio.current_time())

    async def answers() -> AsyncIterator[InferenceResponse]:
        for place in range(3):
            await anyio.sleep(10)  # the comment that comes after half of the time is under way
            yield InferenceResponse(model_name="", id=f"{place}" * 200_000, outputs=[])

    call = Caller(FakeDataPlane(words=lambda _: answers()), stream_keep_alive_seconds=15)
    answer = await call("POST", STREAM, text_request(""), on_send=slowly)
    blocks = answer.body.decode().split("\n\n")[:-1]
    data = [json.loads(block.removeprefix("data: ")) for block in blocks if block != ": still there"]
    assert [one["id"] for one in data] == [f"{place}" * 200_000 for place in range(3)]
    assert len(data) < len(blocks)
    assert all(later - earlier >= 20 for earlier, later in pairwise(times))  # one at a time


@VIRTUAL_TIME
@pytest.mark.parametrize("setting", [None, 0])
async def test_comments_can_be_switched_off(setting: float | None) -> None:
    call = pausing(100)
    call.app = RestApp(call.dataplane, call.metrics, Settings(stream_keep_alive_seconds=setting))
    answer = await call("POST", STREAM, text_request(""))
    assert [data["id"] for _, data in answer.events] == ["100"]


# -- real clients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_events_arrive_as_they_are_made(kind: str) -> None:
    seen = threading.Event()

    async def ticks() -> AsyncIterator[InferenceResponse]:
        yield InferenceResponse(model_name="", id="first", outputs=[])
        await anyio.to_thread.run_sync(seen.wait, PATIENCE)
        yield InferenceResponse(model_name="", id="second" if seen.is_set() else "late", outputs=[])

    call = Caller(FakeDataPlane(ticks=lambda _: ticks()))
    with running(kind, app=call.app) as edge:
        url = f"http://127.0.0.1:{edge.address[1]}/v2/models/ticks/infer_stream"
        with httpx.Client(trust_env=False) as client, client.stream("POST", url, json={"inputs": []}) as answer:
            ids = []
            for line in answer.iter_lines():
                if line:
                    ids.append(json.loads(line.removeprefix("data: "))["id"])
                    seen.set()
            assert ids == ["first", "second"]
            assert answer.headers["transfer-encoding"] == "chunked"
