"""Streams through the whole program, with worker processes, compression and metrics on, and real clients."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from tests.serving import Running
from tests.stream_clients import COUNTING, PLACES, body, events, message, places, series, served, told, url
from tests.unread import until

pytestmark = pytest.mark.slow
PAUSES = (0.3, 3.0, 10.0)  # tried one after the other: whoever reads may come late on a busy machine


@pytest.fixture(scope="module", params=PLACES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from served(request, tmp_path_factory)


@pytest.fixture
def stub(server: Running) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield GRPCInferenceServiceStub(channel)


# -- what comes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", COUNTING)
def test_all_chunks_come_in_order(server: Running, stub: GRPCInferenceServiceStub, model: str) -> None:
    found = list(events(server, model, body(count=300)))
    assert places(found) == list(range(300))
    assert {data["id"] for _, data in found} == {"r"}
    assert told(stub.ModelStreamInfer(iter([message(model, count=300)]), timeout=60)) == list(range(300))


@pytest.mark.parametrize("model", COUNTING)
def test_chunks_have_the_id_of_the_request_that_they_answer(stub: GRPCInferenceServiceStub, model: str) -> None:
    """Also where the requests behind it have been read already."""
    requests = [message(model, count=1) for _ in range(20)]
    for at, request in enumerate(requests):
        request.id = str(at) if at % 2 else ""
    answers = list(stub.ModelStreamInfer(iter(requests), timeout=60))
    assert [answer.id for answer in answers] == [request.id for request in requests]


@pytest.mark.parametrize("verb", ["infer_stream", "generate_stream"])
@pytest.mark.parametrize("version", ["", "/versions/v1"])
def test_both_verbs_stream_with_and_without_a_version(server: Running, verb: str, version: str) -> None:
    answer = httpx.post(url(server, f"counter{version}", verb), json=body(count=2))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.count("data: ") == 2


@pytest.mark.parametrize("model", [*COUNTING, "quick"])
def test_the_first_chunk_does_not_wait_for_the_second(server: Running, model: str) -> None:
    """Also where the model computes without giving way, and where the first is there at once."""

    def gap(pause: float) -> float:
        stream = events(server, model, body(count=2, pause=pause))
        next(stream)
        first_at = time.monotonic()
        next(stream)
        return time.monotonic() - first_at

    assert any(gap(pause) > 0.6 * pause for pause in PAUSES)


def test_the_arguments_of_a_stream_may_be_named(server: Running) -> None:
    found = list(events(server, "words", body("a quick fox")))
    assert [data["outputs"][0]["data"] for _, data in found] == [["a"], ["quick"], ["fox"]]


def test_many_requests_may_have_one_answer(stub: GRPCInferenceServiceStub) -> None:
    def requests() -> Iterator[Any]:
        for value in (1.0, 2.0, 4.0):
            request = pb.ModelInferRequest(model_name="total")
            request.inputs.add(name="x", shape=[1], datatype="FP64").contents.fp64_contents.append(value)
            yield request

    (answer,) = stub.ModelStreamInfer(requests(), timeout=60)
    assert answer.outputs[0].contents.fp64_contents == [7.0]


@pytest.mark.parametrize("model", ["counter", "plain"])
def test_a_conversation_goes_back_and_forth(stub: GRPCInferenceServiceStub, model: str) -> None:
    questions: queue.SimpleQueue[Any] = queue.SimpleQueue()
    answers = stub.ModelStreamInfer(iter(questions.get, None), timeout=60)
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
    answers = stub.ModelStreamInfer(iter([message("counter", count=2)]), metadata=[("x-asked", "for")], timeout=60)
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
    assert len(list(events(server, "counter", body(count=5)))) == 5
    after = [value + more for value, more in zip(before, [5, 1, 5])]
    until(lambda: [series(server, name, "counter") for name in names] == after)
    stream = events(server, "counter", body(count=100_000, pause=0.05))
    next(stream)
    assert series(server, "model_stream_open", "counter") == 1
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    until(lambda: series(server, "model_stream_open", "counter") == 0)


# -- other people's clients -------------------------------------------------------------------------------------------


def test_curl_shows_events_as_they_come(server: Running) -> None:
    command = ["curl", "-sN", url(server, "counter"), "-H", "Content-Type: application/json"]

    def between(pause: float) -> float:
        with subprocess.Popen([*command, "-d", json.dumps(body(count=3, pause=pause))], stdout=subprocess.PIPE) as curl:
            assert curl.stdout is not None
            times = [time.monotonic() for line in curl.stdout if line.startswith(b"data: ")]
        assert curl.returncode == 0
        assert len(times) == 3
        return times[2] - times[0]

    assert any(between(pause) > pause for pause in PAUSES)


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

    def pieces(pause: float) -> int:
        whole = [*command, url(server, "counter"), json.dumps(body(count=4, pause=pause))]
        found = json.loads(subprocess.run(whole, capture_output=True, check=True, timeout=60).stdout)
        assert found["type"].startswith("text/event-stream")
        assert [one.strip() for one in found["tokens"]] == ["0", "1", "2", "3"]
        return int(found["pieces"])

    assert any(pieces(pause) >= 3 for pause in PAUSES)


def test_tritonclients_stream_api(server: Running) -> None:
    """Two requests at once: the answers of each come in order, beside those of the other."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    tensor = triton.InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b""], object))
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)), headers={FORM: "triton"})
        for name, extra in (("a", {}), ("b", {"boom": 2})):
            client.async_stream_infer("counter", [tensor], request_id=name, parameters={"count": 3, **extra})
        found = [answers.get(timeout=60) for _ in range(6)]
        client.stop_stream()
    told: dict[str, list[str]] = {"a": [], "b": []}
    for result, error in found:
        if error is None:
            told[result.get_response().id].append(result.as_numpy("token")[0].decode().strip())
        else:
            told["b"].append(str(error))
    assert told["a"] == ["0", "1", "2"]
    assert told["b"][:2] == ["0", "1"] and "the counter met its boom" in told["b"][2]


FORM = "mlserve-stream-response"
