"""How streams end: errors, clients that leave or do not read, deadlines, lost workers, the end of the server."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived

from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from tests.serving import Running, serving
from tests.stream_clients import (
    COUNTING,
    PLACES,
    body,
    closing,
    events,
    message,
    places,
    served,
    told,
    url,
    write_models,
)
from tests.unread import until

pytestmark = pytest.mark.slow

SOON_SECONDS = 0.1
ENOUGH = (0.5, 5.0, 50.0)  # deadlines, tried until something happens before them: the machine may be slow
TRIES = 30  # the machine may have other things to do


@pytest.fixture(scope="module", params=PLACES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from served(request, tmp_path_factory)


@pytest.fixture
def stub(server: Running) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield GRPCInferenceServiceStub(channel)


# -- ends -------------------------------------------------------------------------------------------------------------


def test_an_error_in_the_middle_is_an_event_and_the_connection_lives_on(server: Running) -> None:
    with httpx.Client(trust_env=False) as client:
        for _ in range(2):
            answer = client.post(url(server, "counter"), json=body(count=5, boom=2))
            blocks = answer.text.split("\n\n")
            assert [one[:5] for one in blocks] == ["data:", "data:", "event", ""]
            assert blocks[2] == 'event: error\ndata: {"error":"the counter met its boom","status":418}'


def test_an_error_before_the_first_chunk_is_an_answer(server: Running) -> None:
    answer = httpx.post(url(server, "counter"), json=body(boom=0))
    assert (answer.status_code, answer.json()) == (418, {"error": "the counter met its boom"})


def test_an_error_ends_a_grpc_stream_with_its_status(stub: GRPCInferenceServiceStub) -> None:
    found = []
    with pytest.raises(grpc.RpcError) as caught:
        for answer in stub.ModelStreamInfer(iter([message("counter", count=5, boom=2)]), timeout=60):
            found.append(answer)
    assert told(found) == [0, 1]
    assert caught.value.details() == "the counter met its boom"


@pytest.mark.parametrize("model", COUNTING)
def test_a_client_that_leaves_ends_the_models_generator(server: Running, model: str) -> None:
    def leave() -> float:
        closed = closing(server, model)
        stream = events(server, model, body(count=100_000, pause=0.01))
        for _ in range(3):
            next(stream)
        left_at = time.time()
        stream.close()  # type: ignore[attr-defined]  # it is a generator
        return closed()[0] - left_at

    assert any(leave() < SOON_SECONDS for _ in range(TRIES))


@pytest.mark.parametrize("model", COUNTING)
def test_a_cancelled_grpc_call_ends_the_models_generator(
    stub: GRPCInferenceServiceStub, server: Running, model: str
) -> None:
    def leave() -> float:
        closed = closing(server, model)
        answers = stub.ModelStreamInfer(iter([message(model, count=100_000, pause=0.01)]), timeout=60)
        for _ in range(3):
            next(answers)
        left_at = time.time()
        answers.cancel()
        return closed()[0] - left_at

    assert any(leave() < SOON_SECONDS for _ in range(TRIES))


@pytest.mark.parametrize("model", ["counter", "plain"])
def test_a_model_that_waits_for_more_requests_ends_with_its_client(
    stub: GRPCInferenceServiceStub, server: Running, model: str
) -> None:
    def leave() -> float:
        closed = closing(server, model)
        questions: queue.SimpleQueue[Any] = queue.SimpleQueue()
        answers = stub.ModelStreamInfer(iter(questions.get, None), timeout=60)
        questions.put(message(model, count=1))
        next(answers)
        left_at = time.time()
        answers.cancel()
        questions.put(None)
        return closed()[0] - left_at

    assert any(leave() < SOON_SECONDS for _ in range(TRIES))


@pytest.mark.parametrize("model", ["counter", "plain"])
def test_any_number_of_streams_may_wait_for_their_clients(
    stub: GRPCInferenceServiceStub, server: Running, model: str
) -> None:
    questions: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in range(60)]
    streams = [stub.ModelStreamInfer(iter(one.get, None), timeout=60) for one in questions]
    for one in questions:
        one.put(message(model, count=1))
    assert [told([next(one)]) for one in streams] == [[0]] * 60
    assert places(list(events(server, model, body(count=3)))) == [0, 1, 2]
    for one in questions:
        one.put(None)
    assert all(list(one) == [] for one in streams)


def test_a_plain_generator_does_not_hold_its_worker_up(server: Running) -> None:
    """Also with arguments by name."""
    gate = server.folder / "steps/gate"
    gate.touch()
    try:
        stream = events(server, "steps", body("a b c d e f g h"))
        found = [next(stream)]
        for _ in range(10):
            assert httpx.post(url(server, "counter", "infer"), json=body()).status_code == 200
    finally:
        gate.unlink()
    found += stream
    assert [data["outputs"][0]["data"] for _, data in found] == [[one] for one in "abcdefgh"]


def test_a_plain_generator_may_come_from_a_method(server: Running) -> None:
    assert places(list(events(server, "returned", body(count=3)))) == [0, 1, 2]


def test_a_request_without_an_id_gets_one(server: Running, stub: GRPCInferenceServiceStub) -> None:
    """The same in all chunks; over gRPC it stays without, as on MLServer."""
    request = {**body(count=2), "id": None}
    (first, second) = (data for _, data in events(server, "counter", request))
    assert len(first["id"]) == 36
    assert first["id"] == second["id"] == first["parameters"]["headers"]["Ce-Id"]
    asked = message("counter", count=2)
    asked.ClearField("id")
    ids = [one.id for one in stub.ModelStreamInfer(iter([asked]), timeout=60)]
    assert ids == ["", ""]


def test_a_stream_has_a_deadline(server: Running, stub: GRPCInferenceServiceStub) -> None:
    for seconds in ENOUGH:
        closed = closing(server, "counter")
        asked = body(count=100_000, pause=0.05)
        with suppress(httpx.RemoteProtocolError):  # a server that comes half a second late only cuts it off
            answer = httpx.post(url(server, "counter"), json=asked, headers={"X-Request-Timeout": f"{seconds}"})
            if answer.status_code == 200:
                break
    assert "event: error" in answer.text and f"within {seconds:g} s" in answer.text.split("\n\n")[-2]
    closed()
    for seconds in ENOUGH:
        closed = closing(server, "counter")
        found: list[Any] = []
        with pytest.raises(grpc.RpcError) as caught:
            found.extend(stub.ModelStreamInfer(iter([message("counter", count=100_000, pause=0.05)]), timeout=seconds))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if found:
            break
    closed()


def ask_and_never_read(server: Running, *headers: str) -> tuple[socket.socket, bool]:
    """The connection, and whether a stream has begun on it."""
    text = json.dumps(body(count=100_000, size=50_000)).encode()
    host, port = server.addresses["REST"].split(":")
    client = socket.create_connection((host, int(port)))
    lines = ["POST /v2/models/counter/generate_stream HTTP/1.1", "Host: a", f"Content-Length: {len(text)}", *headers]
    client.sendall("\r\n".join([*lines, "", ""]).encode() + text)
    return client, client.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read_holds_its_model_up(server: Running) -> None:
    """Not the server's memory: what was made meanwhile fits into buffers of the system and of the stream."""
    closed = closing(server, "counter")
    client, has_begun = ask_and_never_read(server)
    with client:
        time.sleep(1.5)  # for what a defect would make meanwhile
    _, place = closed()
    assert has_begun and 0 < place < 500


def test_a_client_of_http2_that_gives_no_window_back_holds_its_model_up(server: Running) -> None:
    closed = closing(server, "counter")
    host, port = server.addresses["REST"].split(":")
    text = json.dumps(body(count=100_000, size=50_000)).encode()
    asked = H2Connection(H2Configuration(client_side=True))
    asked.initiate_connection()
    head = {":method": "POST", ":scheme": "http", ":authority": "a", ":path": "/v2/models/counter/generate_stream"}
    asked.send_headers(1, head.items())
    asked.send_data(1, text, end_stream=True)
    with socket.create_connection((host, int(port))) as client:
        client.sendall(asked.data_to_send())
        while not any(isinstance(one, DataReceived) for one in asked.receive_data(client.recv(65536))):
            pass
        time.sleep(1.5)  # for what a defect would make meanwhile
    _, place = closed()
    assert 0 < place < 100


def test_the_deadline_of_a_client_that_does_not_read_holds_too(server: Running, stub: GRPCInferenceServiceStub) -> None:
    for seconds in ENOUGH:
        closed = closing(server, "counter")
        client, has_begun = ask_and_never_read(server, f"X-Request-Timeout: {seconds}")
        with client:
            if has_begun:
                closed()
                break
    assert has_begun
    for seconds in ENOUGH:
        closed = closing(server, "counter")
        answers = stub.ModelStreamInfer(iter([message("counter", count=100_000, size=50_000)]), timeout=seconds)
        with suppress(grpc.RpcError):
            next(answers)
            closed()
            break
    answers.cancel()


def test_streams_side_by_side_are_whole_beside_unary_calls_a_slow_reader_and_one_that_leaves(server: Running) -> None:
    stop = threading.Event()

    def unary() -> int:
        calls = 0
        with httpx.Client(trust_env=False, timeout=60) as client:
            while not stop.is_set():
                assert client.post(url(server, "counter", "infer"), json=body()).status_code == 200
                calls += 1
        return calls

    def slow() -> list[int]:
        found = []
        for one in events(server, "counter", body(count=100, size=10_000)):
            found.append(one)
            time.sleep(0.01)
        return places(found)

    def leaving() -> None:
        for _ in range(10):
            stream = events(server, "counter", body(count=10_000))
            next(stream)
            stream.close()  # type: ignore[attr-defined]

    with ThreadPoolExecutor(30) as threads:
        asking = threads.submit(unary)
        slow_one, left = threads.submit(slow), threads.submit(leaving)
        many = [threads.submit(lambda: places(list(events(server, "counter", body(count=200))))) for _ in range(24)]
        assert all(one.result(100) == list(range(200)) for one in many)
        assert slow_one.result(100) == list(range(100))
        left.result(100)
        stop.set()
        assert asking.result(100) > 0


def test_a_drain_lets_streams_finish(tmp_path: Path) -> None:
    write_models(tmp_path)
    with serving(tmp_path) as server:
        stream = events(server, "counter", body(count=20, pause=0.1))
        found = [next(stream)]
        asked = message("counter", count=20, pause=0.1)
        with grpc.insecure_channel(server.grpc) as channel:
            answers = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([asked]), timeout=60)
            others = [next(answers)]
            server.process.send_signal(signal.SIGTERM)
            assert places(found + list(stream)) == list(range(20))
            assert told(others + list(answers)) == list(range(20))
        assert server.stop() == 0


@pytest.mark.parametrize("pause", [0.01, 30.0])
def test_a_finally_may_await_something(server: Running, stub: GRPCInferenceServiceStub, pause: float) -> None:
    """Wherever the generator is when its client leaves or its time is over: at a `yield`, or awaiting something."""
    request = body(count=100_000, pause=pause)
    begun = server.folder / "cleaner/begun"
    begun.unlink(missing_ok=True)
    cleaned = closing(server, "cleaner")
    text = json.dumps(request).encode()
    with socket.create_connection(tuple(server.addresses["REST"].split(":"))) as client:  # type: ignore[arg-type]
        client.sendall(
            b"POST /v2/models/cleaner/generate_stream HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(text)
        )
        client.sendall(text)
        until(begun.exists)
        time.sleep(0.1)  # it is on its way through its loop
    cleaned()
    begun.unlink()
    cleaned = closing(server, "cleaner")
    answers = stub.ModelStreamInfer(iter([message("cleaner", count=100_000, pause=pause)]), timeout=60)
    until(begun.exists)
    time.sleep(0.1)
    answers.cancel()
    cleaned()
    begun.unlink()
    for seconds in ENOUGH:
        cleaned = closing(server, "cleaner")
        httpx.post(url(server, "cleaner"), json=request, headers={"X-Request-Timeout": f"{seconds}"})
        if begun.exists():
            break
    cleaned()


def test_a_finally_may_await_something_when_the_server_ends(tmp_path: Path) -> None:
    write_models(tmp_path)
    with serving(tmp_path, "--set", "shutdown_timeout_seconds=3") as server:
        server.folder = tmp_path
        cleaned = closing(server, "cleaner")
        stream = events(server, "cleaner", body(count=1000, pause=0.05))
        next(stream)
        assert server.stop() == 0
        *_, last = stream
        assert last == ("error", {"error": "the server stopped before the end of the stream", "status": 503})
        cleaned()


def test_what_is_no_generator_is_told(server: Running) -> None:
    answer = httpx.post(url(server, "listing"), json=body())
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "model 'listing': predict_stream() returned list, not a generator; write it with `yield`"
    }


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_stream_ends_at_once_at_the_second_signal(tmp_path: Path, backend: str) -> None:
    write_models(tmp_path)
    with serving(tmp_path, "--backend", backend) as server:
        stream = events(server, "counter", body(count=1000, pause=0.1))
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        *_, last = stream
        assert last == ("error", {"error": "the server stopped before the end of the stream", "status": 503})
        assert server.stop() == 0


def test_a_stream_whose_worker_dies_ends_with_an_error(tmp_path: Path) -> None:
    write_models(tmp_path)
    with serving(tmp_path) as server:
        stream = events(server, "counter", body(count=1000, pause=0.05))
        next(stream)

        os.kill(server.workers[0], signal.SIGKILL)
        *_, last = stream
        assert last[0] == "error"
        assert "the worker process died" in last[1]["error"]
