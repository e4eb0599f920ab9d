"""The client when something goes wrong: exceptions that say what happened, deadlines, retries only where safe."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import grpc
import pytest

from mlserve import errors
from mlserve.client import Client, ClientError, Unavailable
from mlserve.client.address import Address
from mlserve.client.faults import from_grpc, from_http
from mlserve.client.retrying import pause_before_retry
from mlserve.errors import MLServeError, NoWorker, Overloaded, ServerStopping, WorkerDied
from mlserve.grpc import dataplane_pb2, dataplane_pb2_grpc
from mlserve.metrics import Metrics
from mlserve.rest.app import RestApp
from mlserve.settings import Settings
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    State,
)
from tests.client_edge import (
    BUSY,
    GOOD,
    KINDS,
    SECONDS,
    STOPPING,
    Cut,
    Scripted,
    address_of,
    answer,
    connected,
    unused_port,
)
from tests.fake_dataplane import echo, failing
from tests.grpc_edge import FakePlane
from tests.http_edge import running as serving_http


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- exceptions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (errors.InvalidRequest("bad"), errors.InvalidRequest),
        (errors.ModelNotReady("fails"), errors.ModelNotReady),
        (errors.DeadlineExceeded("late"), errors.DeadlineExceeded),
        (errors.Overloaded("many"), errors.Overloaded),
        (errors.WorkerDied("dead"), Unavailable),
        (errors.BodyTooLarge("9 bytes; the limit is 8 bytes"), errors.BodyTooLarge),
        (ValueError("oh"), errors.ModelError),
        (MLServeError("teapot", 403), MLServeError),
    ],
    ids=lambda one: one.__name__ if isinstance(one, type) else type(one).__name__,
)
def test_errors_of_the_server_come_back_as_what_they_were(kind, raised, expected):
    with connected(kind, FakePlane(fails=failing(raised)), retries=0) as client:
        with pytest.raises(expected) as caught:
            client.infer("fails", [1])
        assert type(caught.value) is expected
        assert caught.value.message == ("ValueError: oh" if isinstance(raised, ValueError) else str(raised))
        if expected is MLServeError:
            assert caught.value.http_status == 403


def test_statuses_without_a_class_of_their_own_keep_their_number():
    assert from_http(418, {}, b"<html>short and stout").http_status == 418
    assert str(from_http(418, {}, b"<html>short and stout")) == "HTTP status 418: <html>short and stout"
    assert str(from_http(422, {}, b'{"detail": [{"loc": 1}]}')) == '[{"loc":1}]'
    assert type(from_http(404, {}, b'{"error": "there is nothing at this path"}', model=("m", None))) is MLServeError
    assert from_grpc("UNAUTHENTICATED", "who").http_status == 401
    assert from_grpc("DATA_LOSS", None).grpc_status == "DATA_LOSS"
    assert isinstance(from_http(500, {}, b"", model=("m", None), loads=True), errors.ModelLoadError)
    assert isinstance(from_grpc("INTERNAL", "x", loads=True), errors.ModelLoadError)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_an_address_without_a_server_is_named_with_the_reason(scheme):
    address = f"{scheme}://127.0.0.1:{unused_port()}"
    with Client(address, retries=0) as client, pytest.raises(ClientError) as caught:
        client.infer("m", [1])
    assert str(caught.value) == f"cannot connect to {address}: Connection refused"
    assert caught.value.address == address and not caught.value.arrived


def test_other_protocols_than_expected_are_told():
    def failure(address: str) -> MLServeError:
        with Client(address, retries=0) as client, pytest.raises(MLServeError) as caught:
            client.infer("m", [1])
        return caught.value

    with address_of("grpc", FakePlane()) as address:
        assert "is it a gRPC port" in str(failure(address.replace("grpc", "http")))
    with address_of("json", FakePlane()) as address:
        assert failure(address.replace("http", "grpc"))
    with Scripted(answer(b"<html>")) as server:
        assert "none of the protocol's" in str(failure(server.address))


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8080",
        "ftp://h",
        "grpc://h",
        "http://",
        "grpc://h:1/p",
        "http://u:p@h",
        3,
        None,
        "http://h:x",
        "http://[::1",
        "http://h:99999",
        "http://h/ü",
        "http://h/a b",
        "",
    ],
)
def test_what_is_no_address_is_refused_at_once(address):
    with pytest.raises(ClientError, match=r"is no address that can be called: .*expected http://HOST:PORT"):
        Client(address)


def test_addresses_have_ports_prefixes_and_ipv6():
    assert str(Address.parse("http://h/a/b/")) == "http://h:80/a/b"
    assert str(Address.parse("https://h")) == "https://h:443"
    assert Address.parse("grpcs://[::1]:1").authority == "[::1]:1"
    with Scripted(GOOD) as server, Client(f"{server.address}/up") as client:
        client.infer("a/b", [1])
        assert server.requests.get()[0] == "POST /up/v2/models/a%2Fb/infer HTTP/1.1"


def test_a_header_cannot_smuggle_a_second_one():
    with Scripted() as server, Client(server.address) as client:
        with pytest.raises(errors.InvalidRequest, match="line break"):
            client.infer("m", [1], headers={"x": "1\r\ny: 2"})
        assert server.count == 0


ENOUGH = (0.2, 2.0, 20.0)  # deadlines, tried until a call reaches the server before them: the machine may be slow


# -- deadlines --------------------------------------------------------------------------------------------------------


def test_the_time_goes_to_the_server_and_is_kept_here():
    gate = threading.Event()
    with Scripted(gate, gate, gate) as server, Client(server.address) as client:
        for seconds in ENOUGH:
            started = time.monotonic()
            with pytest.raises(errors.DeadlineExceeded, match=rf"127\.0\.0\.1:\d+ gave no answer within {seconds:g} s"):
                client.infer("m", [1], timeout_seconds=seconds)
            assert time.monotonic() - started > 0.75 * seconds
            if server.count:
                break
        assert 0 < float(server.requests.get(timeout=SECONDS)[1]["x-request-timeout"]) <= seconds
        gate.set()


def test_a_deadline_over_grpc_reaches_the_data_plane_and_cancels_there():
    cancelled = threading.Event()

    async def slow(request: InferenceRequest) -> InferenceResponse:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        return echo(request)

    plane = FakePlane(slow=slow)
    with connected("grpc", plane) as client:
        for seconds in ENOUGH:
            with pytest.raises(errors.DeadlineExceeded):
                client.infer("slow", [1], timeout_seconds=seconds)
            if plane.calls:
                break
        assert 0 < plane.calls[0][3] <= seconds
        assert cancelled.wait(SECONDS)


def test_no_timeout_means_no_header():
    with Scripted(GOOD) as server, Client(server.address, timeout_seconds=None) as client:
        client.infer("m", [1])
        assert "x-request-timeout" not in server.requests.get()[1]


# -- retries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [BUSY, STOPPING], ids=["429", "503"])
def test_what_the_server_says_may_be_sent_again_is(refusal):
    with Scripted(refusal, refusal, GOOD) as server, Client(server.address) as client:
        assert client.infer("m", [1]).outputs["y"].tolist() == [1, 2]
        assert server.count == 3 and server.connections == 1


def test_retries_end():
    with Scripted(BUSY, BUSY, BUSY) as server, Client(server.address, retries=1) as client:
        with pytest.raises(Overloaded, match="too many"):
            client.infer("m", [1])
        assert server.count == 2


@pytest.mark.parametrize(
    "step",
    [
        None,
        answer({"error": "from a proxy"}, "503 Service Unavailable"),
        answer({"error": "the model's own"}, "429 Too Many Requests"),
        answer({"error": "failed"}, "500 Internal Server Error"),
        answer({"error": "late"}, "504 Gateway Timeout"),
        Cut(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"),
    ],
    ids=["hung up", "503 without Retry-After", "429 without Retry-After", "500", "504", "broke off"],
)
def test_what_may_have_reached_a_model_is_never_sent_again(step):
    with Scripted(step, GOOD) as server, Client(server.address) as client:
        with pytest.raises(MLServeError) as caught:
            client.infer("m", [1])
        if isinstance(caught.value, ClientError):
            assert caught.value.arrived and server.address in str(caught.value)
        assert server.count == 1


def test_a_question_is_asked_again_after_a_broken_connection():
    metadata = answer({"name": "s", "version": "1", "extensions": []})
    with Scripted(None, metadata) as server, Client(server.address) as client:
        assert client.server_metadata().name == "s"


def test_a_server_that_comes_up_late_is_found():
    port = unused_port()
    plane = FakePlane()
    with Client(f"http://127.0.0.1:{port}", retries=20) as client:
        results: queue.Queue[Any] = queue.Queue()
        thread = threading.Thread(target=lambda: results.put(client.infer("echo", [1], timeout_seconds=SECONDS)))
        thread.start()
        with serving_http("asyncio-fast", RestApp(plane, Metrics(), Settings()), port=port):
            assert results.get(timeout=SECONDS).model_name == "echo"
        thread.join()


def test_what_never_reached_a_model_is_tried_again(kind):
    causes: list[MLServeError] = [NoWorker("none"), Overloaded("many", 0.0), ServerStopping("stop")]

    def model(request: InferenceRequest) -> InferenceResponse:
        if causes:
            raise causes.pop()
        return echo(request)

    with connected(kind, FakePlane(model=model), retries=3) as client:
        client.infer("model", [1])


@pytest.mark.parametrize("cause", [WorkerDied("gone"), MLServeError("quota", 429), MLServeError("no", 503)], ids=str)
def test_what_a_model_may_have_run_is_sent_again_only_where_the_user_says_so(kind, cause):
    tries: list[int] = []

    def model(request: InferenceRequest) -> InferenceResponse:
        tries.append(1)
        if len(tries) % 2:
            raise cause
        return echo(request)

    async def stream(request: InferenceRequest) -> Any:
        yield model(request)

    plane = FakePlane(model=model, stream=stream)
    with connected(kind, plane) as client:
        with pytest.raises((Unavailable, Overloaded)) as caught:
            client.infer("model", [1])
        assert len(tries) == 1 and not caught.value.retryable
        tries.clear()
        with pytest.raises((Unavailable, Overloaded)):
            next(client.stream("stream", [1]))
        assert len(tries) == 1
    tries.clear()
    with connected(kind, plane, may_run_twice=True) as client:
        client.infer("model", [1])
        next(client.stream("stream", [1]))
    assert len(tries) == 4


def test_a_broken_connection_is_tried_again_where_the_user_says_so():
    with Scripted(None, GOOD) as server, Client(server.address, may_run_twice=True) as client:
        assert client.infer("m", [1]).model_name == "m"
        assert server.count == 2


def test_the_servers_of_others_say_nothing_of_another_try_over_grpc():
    for trailers in ({}, {"grpc-retry-pushback-ms": "-1"}, {"grpc-retry-pushback-ms": "soon"}):
        assert not from_grpc("UNAVAILABLE", "x", trailers).retryable
        assert not from_grpc("RESOURCE_EXHAUSTED", "x", trailers).retryable
    busy = from_grpc("RESOURCE_EXHAUSTED", "x", {"grpc-retry-pushback-ms": "1500"})
    assert busy.retryable and isinstance(busy, Overloaded) and busy.retry_after_seconds == 1.5


def test_a_pause_beyond_the_deadline_is_not_begun():
    patient = answer({"error": "later"}, "429 Too Many Requests", Retry_After="3000")
    with Scripted(patient) as server, Client(server.address) as client:
        with pytest.raises(Overloaded) as caught:
            client.infer("m", [1], timeout_seconds=2500)  # for which it would wait, longer than a test may
        assert caught.value.retry_after_seconds == 3000


def test_pauses_double_and_are_never_shorter_than_asked():
    busy, refused = Overloaded("x", 0.0), ClientError("x", "a", arrived=False)
    for error in (busy, refused):
        for tries, longest in ((1, 0.1), (2, 0.2), (5, 1.6), (20, 5.0)):
            pause = pause_before_retry(error, tries, 50, may_run_twice=False)
            assert pause is not None and longest / 2 <= pause <= longest
    assert pause_before_retry(Overloaded("x", 7.0), 1, 1, may_run_twice=False) == 7.0
    assert pause_before_retry(busy, 3, 2, may_run_twice=True) is None
    for error in (ClientError("x", "a", arrived=True), Unavailable("x")):
        assert pause_before_retry(error, 1, 5, may_run_twice=False) is None
        assert pause_before_retry(error, 1, 5, may_run_twice=True) is not None
    for never in (MLServeError("x"), errors.DeadlineExceeded("x"), errors.ModelError("x")):
        assert pause_before_retry(never, 1, 5, may_run_twice=True) is None


# -- servers of other people -------------------------------------------------------------------------------------------


class Strange(dataplane_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers as no server of the protocol should, or as only some do."""

    def RepositoryIndex(self, request, context):
        states = ["State.READY"] if request.ready else ["BROKEN"]
        models = [{"name": "m", "state": state} for state in states]
        return dataplane_pb2.RepositoryIndexResponse(models=models)

    def ModelMetadata(self, request, context):
        tensor = {"name": "x", "datatype": "FP4", "shape": [1]}
        return dataplane_pb2.ModelMetadataResponse(name=request.name, inputs=[tensor])

    def ModelInfer(self, request, context):
        output = {"name": "y", "datatype": "FP4", "shape": [1]}
        return dataplane_pb2.ModelInferResponse(model_name="m", outputs=[output])


@pytest.fixture
def strange() -> Iterator[Client]:
    """A client of a server that grpcio runs with our servicer."""
    server = grpc.server(ThreadPoolExecutor(2))
    dataplane_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Strange(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"grpc://127.0.0.1:{port}") as client:
            yield client
    finally:
        server.stop(None).wait(SECONDS)


def test_states_are_read_as_mlserver_writes_them(strange: Client) -> None:
    assert [one.state for one in strange.repository_index(ready=True)] == [State.READY]


@pytest.mark.parametrize("ask", [Client.repository_index, lambda client: client.model_metadata("m")])
def test_an_answer_that_is_none_of_the_protocols_is_told(strange: Client, ask: Callable[[Client], Any]) -> None:
    with pytest.raises(ClientError, match="gave an answer that is none of the protocol's") as caught:
        ask(strange)
    assert caught.value.arrived
    with pytest.raises(MLServeError):
        _ = strange.infer("m", [1]).outputs


def test_a_call_that_the_server_does_not_have_keeps_its_status(strange: Client) -> None:
    with pytest.raises(MLServeError) as caught:
        strange.server_live()
    assert caught.value.http_status == 501
