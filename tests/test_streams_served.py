"""Streams through the whole program, with worker processes, compression and metrics on, and real clients."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import httpx_sse
import numpy as np
import pytest
import tritonclient.grpc as triton

from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from tests.serving import Running, serving, write_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MODELS = ("Counter", "Plain", "Quick", "Returned", "Spinner", "Steps", "Total", "Words")
COUNTING = ("counter", "plain", "spinner")
SOON_SECONDS = 0.1
TRIES = 3  # the machine may have other things to do


def write_models(folder: Path) -> None:
    for name in MODELS:
        parameters = {"version": "v1"} if name == "Counter" else {}
        place = write_model(folder, name.lower(), f"streaming_models.{name}", parameters=parameters)
        shutil.copy(Path(__file__).with_name("streaming_models.py"), place)


@pytest.fixture(scope="module", params=["0 asyncio", "1 asyncio", "2 trio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    workers, backend = request.param.split()
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    with serving(folder, "--parallel-workers", workers, "--backend", backend) as running:
        running.folder = folder
        yield running


# -- clients ----------------------------------------------------------------------------------------------------------


def body(text: str = "", **parameters: Any) -> dict[str, Any]:
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text], "parameters": {"content_type": "str"}}
    return {"id": "r", "parameters": parameters, "inputs": [tensor]}


def url(server: Running, model: str, verb: str = "generate_stream") -> str:
    return f"{server.rest}/v2/models/{model}/{verb}"


def events(server: Running, model: str, request: dict[str, Any], **headers: str) -> Iterator[tuple[str, Any]]:
    """(event, data) of each, as httpx-sse reads them."""
    with (
        httpx.Client(trust_env=False, timeout=60) as client,
        httpx_sse.connect_sse(client, "POST", url(server, model), json=request, headers=headers) as source,
    ):
        for event in source.iter_sse():
            yield event.event, json.loads(event.data)


def places(found: list[tuple[str, Any]]) -> list[int]:
    return [int(data["outputs"][0]["data"][0].split()[0]) for kind, data in found if kind == "message"]


def message(model: str, text: str = "", **parameters: Any) -> Any:
    request = pb.ModelInferRequest(model_name=model, id="r")
    request.inputs.add(name="text", shape=[1], datatype="BYTES").contents.bytes_contents.append(text.encode())
    for name, value in parameters.items():
        field = "double_param" if isinstance(value, float) else "int64_param"
        setattr(request.parameters[name], field, value)
    return request


def told(answers: Any) -> list[int]:
    return [int(one.outputs[0].contents.bytes_contents[0].split()[0]) for one in answers]


@pytest.fixture
def stub(server: Running) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield GRPCInferenceServiceStub(channel)


def closing(server: Running, model: str) -> Callable[[], tuple[float, int]]:
    """Waits for the next note that a generator of a model was closed: when, and where it was."""
    notes = server.folder / model / "notes.txt"
    seen = notes.read_text().count("\n") if notes.exists() else 0

    def wait() -> tuple[float, int]:
        end = time.monotonic() + 20
        while not notes.exists() or notes.read_text().count("\n") <= seen:
            assert time.monotonic() < end, f"no generator of {model} was closed"
            time.sleep(0.005)
        _, at, *words = notes.read_text().splitlines()[seen].split()
        return float(at), int(words[-1])

    return wait


def series(server: Running, name: str, model: str) -> float:
    page = httpx.get(f"http://{server.addresses['metrics']}/metrics").text
    found = re.search(rf'^{name}\{{[^}}]*"{model}"[^}}]*\}} (\S+)$', page, re.MULTILINE)
    return float(found[1]) if found else 0.0


# -- what comes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", COUNTING)
def test_all_chunks_come_in_order(server: Running, stub: GRPCInferenceServiceStub, model: str) -> None:
    found = list(events(server, model, body(count=300)))
    assert places(found) == list(range(300))
    assert {data["id"] for _, data in found} == {"r"}
    assert told(stub.ModelStreamInfer(iter([message(model, count=300)]), timeout=60)) == list(range(300))


@pytest.mark.parametrize("verb", ["infer_stream", "generate_stream"])
@pytest.mark.parametrize("version", ["", "/versions/v1"])
def test_both_verbs_stream_with_and_without_a_version(server: Running, verb: str, version: str) -> None:
    answer = httpx.post(url(server, f"counter{version}", verb), json=body(count=2))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.count("data: ") == 2


@pytest.mark.parametrize("model", [*COUNTING, "quick"])
def test_the_first_chunk_does_not_wait_for_the_second(server: Running, model: str) -> None:
    """Also where the model computes without giving way, and where the first is there at once."""
    stream = events(server, model, body(count=2, pause=0.5))
    next(stream)
    first_at = time.monotonic()
    next(stream)
    assert time.monotonic() - first_at > 0.3


def test_the_arguments_of_a_stream_may_be_named(server: Running) -> None:
    found = list(events(server, "words", body("a quick fox")))
    assert [data["outputs"][0]["data"] for _, data in found] == [["a"], ["quick"], ["fox"]]


def test_many_requests_may_have_one_answer(stub: GRPCInferenceServiceStub) -> None:
    def requests() -> Iterator[Any]:
        for value in (1.0, 2.0, 4.0):
            request = pb.ModelInferRequest(model_name="total")
            request.inputs.add(name="x", shape=[1], datatype="FP64").contents.fp64_contents.append(value)
            yield request

    (answer,) = stub.ModelStreamInfer(requests(), timeout=30)
    assert answer.outputs[0].contents.fp64_contents == [7.0]


@pytest.mark.parametrize("model", ["counter", "plain"])
def test_a_conversation_goes_back_and_forth(stub: GRPCInferenceServiceStub, model: str) -> None:
    questions: queue.SimpleQueue[Any] = queue.SimpleQueue()
    answers = stub.ModelStreamInfer(iter(questions.get, None), timeout=30)
    for count in (1, 3, 2):
        questions.put(message(model, count=count))
        assert told(next(answers) for _ in range(count)) == list(range(count))
    questions.put(None)
    assert list(answers) == []


def test_headers_go_in_and_come_back(server: Running, stub: GRPCInferenceServiceStub) -> None:
    """In each chunk over REST, where the answer's own are sent before it; at the end over gRPC."""
    found = list(events(server, "counter", body(count=2), **{"X-Asked": "for"}))
    headers = [data["parameters"]["headers"] for _, data in found]
    assert [(one["X-Place"], one["X-Asked"]) for one in headers] == [("0", "for"), ("1", "for")]
    assert headers[0]["Ce-Id"] == "r"
    answers = stub.ModelStreamInfer(iter([message("counter", count=2)]), metadata=[("x-asked", "for")], timeout=30)
    assert len(list(answers)) == 2
    trailing = dict(answers.trailing_metadata())
    assert (trailing["x-place"], trailing["x-asked"], trailing["ce-id"]) == ("1", "for", "r")


def test_streams_pass_untouched_where_answers_are_packed(server: Running) -> None:
    asked = {"Accept-Encoding": "gzip"}
    answer = httpx.post(url(server, "counter"), json=body(count=50, size=100), headers=asked)
    assert "content-encoding" not in answer.headers
    answer = httpx.post(url(server, "counter", "infer"), json=body(size=5000), headers=asked)
    assert answer.headers["content-encoding"] == "gzip"


def test_streams_are_counted(server: Running) -> None:
    names = ("model_stream_chunks_total", "model_stream_first_chunk_seconds_count", "numbers_counted_count")
    before = [series(server, name, "counter") for name in names]
    stream = events(server, "counter", body(count=5, pause=0.05))
    next(stream)
    assert series(server, "model_stream_open", "counter") >= 1
    assert len(list(stream)) == 4
    after = [series(server, name, "counter") for name in names]
    assert [now - then for now, then in zip(after, before)] == [5, 1, 5]


# -- other people's clients -------------------------------------------------------------------------------------------


def test_curl_shows_events_as_they_come(server: Running) -> None:
    command = ["curl", "-sN", url(server, "counter"), "-H", "Content-Type: application/json"]
    with subprocess.Popen([*command, "-d", json.dumps(body(count=3, pause=0.3))], stdout=subprocess.PIPE) as curl:
        assert curl.stdout is not None
        times = [time.monotonic() for line in curl.stdout if line.startswith(b"data: ")]
    assert curl.returncode == 0
    assert len(times) == 3
    assert times[2] - times[0] > 0.3


def test_a_page_reads_the_stream_with_fetch(server: Running) -> None:
    """As browsers do it: EventSource cannot POST."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine")
    script = """
        const answer = await fetch(process.argv[1], {method: "POST", body: process.argv[2],
                                                     headers: {"Content-Type": "application/json"}});
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        let text = "", pieces = 0;
        for (let read; !(read = await reader.read()).done; pieces++) text += read.value;
        const tokens = text.split("\\n\\n").filter(one => one.startsWith("data: "))
                           .map(one => JSON.parse(one.slice(6)).outputs[0].data[0]);
        console.log(JSON.stringify({type: answer.headers.get("content-type"), pieces, tokens}));
    """
    command = [node, "--input-type=module", "-e", script, "--"]
    command += [url(server, "counter"), json.dumps(body(count=4, pause=0.1))]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)
    assert found["type"].startswith("text/event-stream")
    assert [one.strip() for one in found["tokens"]] == ["0", "1", "2", "3"]
    assert found["pieces"] >= 3


def test_tritonclients_stream_api(server: Running) -> None:
    """Two requests at once; the second one's answers follow the first one's."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    tensor = triton.InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b""], object))
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)), headers={FORM: "triton"})
        for name, extra in (("a", {}), ("b", {"boom": 2})):
            client.async_stream_infer("counter", [tensor], request_id=name, parameters={"count": 3, **extra})
        found = [answers.get(timeout=20) for _ in range(6)]
        client.stop_stream()
    ids = [result.get_response().id for result, error in found[:5]]
    assert ids == ["a"] * 3 + ["b"] * 2
    assert "the counter met its boom" in str(found[5][1])


FORM = "mlserve-stream-response"


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
        for answer in stub.ModelStreamInfer(iter([message("counter", count=5, boom=2)]), timeout=30):
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
        at, place = closed()
        assert place < 1000
        return at - left_at

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
    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(lambda: list(events(server, "steps", body("a b c d e f g h"))))
        for _ in range(10):
            assert httpx.post(url(server, "counter", "infer"), json=body()).status_code == 200
        assert not slow.done(), "its eight steps take half a second each"
        assert [data["outputs"][0]["data"] for _, data in slow.result()] == [[one] for one in "abcdefgh"]


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
    ids = [one.id for one in stub.ModelStreamInfer(iter([asked]), timeout=30)]
    assert ids == ["", ""]


def test_a_stream_has_a_deadline(server: Running, stub: GRPCInferenceServiceStub) -> None:
    closed = closing(server, "counter")
    found = list(events(server, "counter", body(count=1000, pause=0.05), **{"X-Request-Timeout": "0.5"}))
    assert found[-1][0] == "error"
    assert "within 0.5 s" in found[-1][1]["error"]
    assert closed()[1] < 30
    closed = closing(server, "counter")
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ModelStreamInfer(iter([message("counter", count=1000, pause=0.05)]), timeout=0.5))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert closed()[1] < 30


def ask_and_never_read(server: Running, *headers: str) -> socket.socket:
    text = json.dumps(body(count=100_000, size=50_000)).encode()
    host, port = server.addresses["REST"].split(":")
    client = socket.create_connection((host, int(port)))
    lines = ["POST /v2/models/counter/generate_stream HTTP/1.1", "Host: a", f"Content-Length: {len(text)}", *headers]
    client.sendall("\r\n".join([*lines, "", ""]).encode() + text)
    client.recv(1000)
    return client


def test_a_client_that_does_not_read_holds_its_model_up(server: Running) -> None:
    """Not the server's memory: what was made meanwhile fits into buffers of the system and of the stream."""
    closed = closing(server, "counter")
    with ask_and_never_read(server):
        time.sleep(1.5)
    _, place = closed()
    assert 0 < place < 500


def test_the_deadline_of_a_client_that_does_not_read_holds_too(server: Running, stub: GRPCInferenceServiceStub) -> None:
    closed = closing(server, "counter")
    with ask_and_never_read(server, "X-Request-Timeout: 0.5"):
        closed()
    closed = closing(server, "counter")
    answers = stub.ModelStreamInfer(iter([message("counter", count=100_000, size=50_000)]), timeout=1)
    next(answers)
    closed()
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
        assert all(one.result(60) == list(range(200)) for one in many)
        assert slow_one.result(60) == list(range(100))
        left.result(60)
        stop.set()
        assert asking.result(60) > 0


def test_a_drain_lets_streams_finish(tmp_path: Path) -> None:
    write_models(tmp_path)
    with serving(tmp_path) as server:
        stream = events(server, "counter", body(count=20, pause=0.1))
        found = [next(stream)]
        asked = message("counter", count=20, pause=0.1)
        with grpc.insecure_channel(server.grpc) as channel:
            answers = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([asked]), timeout=30)
            others = [next(answers)]
            server.process.send_signal(signal.SIGTERM)
            assert places(found + list(stream)) == list(range(20))
            assert told(others + list(answers)) == list(range(20))
        assert server.stop() == 0


def test_a_stream_ends_at_once_at_the_second_signal(tmp_path: Path) -> None:
    write_models(tmp_path)
    with serving(tmp_path) as server:
        stream = events(server, "counter", body(count=1000, pause=0.1))
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.HTTPError):
            list(stream)
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
