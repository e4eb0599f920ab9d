"""The client: what people give and get, deadlines, retries only where safe, exceptions that say what happened."""

from __future__ import annotations

import datetime
import gc
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import anyio
import numpy as np
import pandas as pd
import pytest

from mlserve import client as client_package
from mlserve import errors
from mlserve.client import AsyncClient, Client, ClientError, Unavailable
from mlserve.client.address import Address
from mlserve.client.bodies import Events, decode_response, encode_request
from mlserve.client.faults import from_grpc, from_http
from mlserve.client.payload import make_request
from mlserve.client.retrying import pause_before_retry
from mlserve.errors import MLServeError, Overloaded, WorkerDied
from mlserve.metrics import Metrics
from mlserve.rest.app import RestApp
from mlserve.settings import Settings
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
    RequestInput,
    ResponseOutput,
    State,
)
from mlserve.wire.v2json import decode_request
from tests.engine import MODELS
from tests.fake_dataplane import echo, failing
from tests.grpc_edge import FakePlane
from tests.grpc_edge import serving as serving_grpc
from tests.http_edge import running as serving_http
from tests.serving import serving, write_model

SECONDS = 10.0
KINDS = ("json", "binary", "grpc", "grpc-typed")


@contextmanager
def connected(kind: str, plane: FakePlane | None = None, **options: Any) -> Iterator[Client]:
    """A client of that kind on a server of a scripted data plane."""
    plane = plane or FakePlane()
    with address_of(kind, plane) as address, Client(address, binary=_binary(kind), **options) as client:
        yield client


@contextmanager
def address_of(kind: str, plane: FakePlane) -> Iterator[str]:
    if kind.startswith("grpc"):
        with serving_grpc(plane=plane) as running:
            yield f"grpc://{running.address}"
    else:
        with serving_http("asyncio-fast", RestApp(plane, Metrics(), Settings())) as edge:
            yield f"http://127.0.0.1:{edge.address[1]}"


def _binary(kind: str) -> bool | None:
    return {"binary": True, "grpc-typed": False}.get(kind)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Cut(bytes):
    """An answer after which the server hangs up."""


class Scripted:
    """An HTTP server that answers requests with what the script says, in order: bytes, or None to hang up.

    An Event in the script is waited for; then the connection is closed.
    """

    def __init__(self, *script: bytes | threading.Event | None) -> None:
        self.requests: queue.Queue[tuple[str, dict[str, str], bytes]] = queue.Queue()
        self.connections = 0
        self._script = list(script)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            while line := file.readline():
                headers = {}
                while (field := file.readline().decode().strip()) != "":
                    name, _, value = field.partition(": ")
                    headers[name.lower()] = value
                body = file.read(int(headers.get("content-length", 0)))
                self.requests.put((line.decode().strip(), headers, body))
                step = self._script.pop(0)
                if isinstance(step, threading.Event):
                    step.wait(SECONDS)
                if not isinstance(step, bytes):
                    return
                connection.sendall(step)
                if isinstance(step, Cut):
                    return

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(SECONDS)

    @property
    def count(self) -> int:
        return self.requests.qsize()


def answer(value: Any, status: str = "200 OK", **headers: str) -> bytes:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    fields = [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
    head = "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body)}", *fields, "", ""])
    return head.encode() + body


OUTPUT = {"name": "y", "shape": [2], "datatype": "FP32", "data": [1, 2]}
GOOD = answer({"model_name": "m", "id": "1", "outputs": [OUTPUT]})
BUSY = answer({"error": "too many"}, "429 Too Many Requests", Retry_After="0")
STOPPING = answer({"error": "the server is stopping"}, "503 Service Unavailable", Retry_After="0")


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# -- what people give and get -----------------------------------------------------------------------------------------


def test_arrays_text_dates_and_numbers_come_back_as_they_went(kind):
    sent = {
        "matrix": np.arange(6, dtype="int16").reshape(2, 3),
        "text": ["a", "é", ""],
        "dates": [datetime.datetime(2024, 1, 2, 3, 4)],
        "flags": np.array([[True], [False]]),
        "numbers": [1.5, 2.5],
        "one": "text",
        "series": pd.Series([1, 2]),
    }
    with connected(kind) as client:
        result = client.infer("echo", sent)
    assert list(result.outputs) == list(sent)
    assert result.outputs["matrix"].dtype == np.int16
    np.testing.assert_array_equal(result.outputs["matrix"], sent["matrix"])
    assert result.outputs["text"] == sent["text"]
    assert result.outputs["dates"] == sent["dates"]
    np.testing.assert_array_equal(result.outputs["flags"], sent["flags"])
    assert result.outputs["numbers"].tolist() == [[1.5], [2.5]]  # [N] is [N, 1] in the protocol's codecs.
    assert result.outputs["one"] == ["text"]
    assert result.outputs["series"].ravel().tolist() == [1, 2]


def test_a_frame_comes_back_as_a_frame(kind):
    frame = pd.DataFrame(
        {"n": [1, 2], "f": [0.5, -1.0], "s": ["x", "y"], "d": pd.to_datetime(["2024-01-01", "2024-01-02"])}
    )
    with connected(kind) as client:
        back = client.infer("echo", frame).to_pandas()
    pd.testing.assert_frame_equal(back.drop(columns="d"), frame.drop(columns="d"))
    assert [one.isoformat() for one in back["d"]] == ["2024-01-01T00:00:00", "2024-01-02T00:00:00"]


@pytest.mark.parametrize("payload", [np.ones((2, 2)), ["a", "b"], "a", 3, [1, 2], (1.0, 2.0), [b"\xff"]], ids=repr)
def test_a_single_value_is_the_only_input(payload):
    with connected("json") as client:
        result = client.infer("echo", payload)
    assert list(result.outputs) == ["input-1"]


def test_a_request_of_the_protocol_is_sent_as_it_is(kind):
    tensor = RequestInput(name="x", shape=[3], datatype="FP32", data=[1, 2, 3])
    request = InferenceRequest(id="mine", inputs=[tensor], parameters=Parameters(key="value"))
    with connected(kind) as client:
        result = client.infer("echo", request)
        again = client.infer("echo", request, id="other", parameters={"more": 1})
    assert (result.id, result.model_name) == ("mine", "echo")
    assert result.parameters["key"] == "value"
    assert result.outputs["x"].tolist() == [1, 2, 3] and result.outputs["x"].dtype == np.float32
    assert (again.id, again.parameters["key"], again.parameters["more"]) == ("other", "value", 1)
    assert request.parameters == {"key": "value"}  # The caller's request is untouched.


def test_what_has_no_form_in_the_protocol_is_refused_before_anything_is_sent():
    with Scripted() as server, Client(server.address) as client:
        for payload in ({"x": object()}, {"x": 1j}, object(), {"x": [[1], [1, 2]]}):
            with pytest.raises(errors.CodecError):
                client.infer("m", payload)
        with pytest.raises(errors.CodecError):
            client.stream("m", object())
        assert server.connections == 0


def test_json_cannot_carry_infinity_but_bytes_can():
    for kind, expected in (("json", [True, True]), ("binary", [False, True]), ("grpc", [False, True])):
        with connected(kind) as client:
            back = client.infer("echo", np.array([np.inf, np.nan])).outputs["input-1"]
        assert np.isnan(back).ravel().tolist() == expected


def test_null_among_text_stays_json_where_the_rest_is_binary():
    request, _ = make_request({"a": ["x", None], "b": np.ones(2)})
    chunks, header_length = encode_request(request, binary=True)
    assert header_length == len(chunks[0]) and len(chunks) == 2
    read = decode_request(b"".join(map(bytes, chunks)), header_length)
    assert [one.data.form for one in read.inputs] == ["json", "raw"]
    assert list(read.inputs[0].data) == ["x", None]


def test_headers_go_out_and_come_back(kind):
    def headers(request: InferenceRequest) -> InferenceResponse:
        response = echo(request)
        seen = request.parameters.headers
        response.parameters = Parameters(headers={"X-Answer": f"{seen['x-all']} {seen['x-call']} {seen['x-own']}"})
        return response

    with connected(kind, FakePlane(headers=headers), headers={"X-All": "1"}) as client:
        request = InferenceRequest(inputs=[], parameters=Parameters(headers={"X-Own": "3"}))
        result = client.infer("headers", request, headers={"X-Call": "2"})
    assert result.headers["x-answer"] == "1 2 3"
    assert "headers" not in result.parameters


def test_outputs_can_be_chosen_and_versions_named(kind):
    plane = FakePlane()
    plane.versions["echo"] = ("v1", "v2")
    with connected(kind, plane) as client:
        result = client.infer("echo", [1], version="v1", outputs=["a"])
        assert result.model_version == "v1"
        (_, version, request, timeout) = plane.calls[-1]
        assert version == "v1" and [one.name for one in request.outputs] == ["a"]
        assert 0 < timeout <= 60
        with pytest.raises(errors.ModelNotFound):
            client.infer("echo", [1], version="v9")


def test_large_tensors_travel_whole(kind):
    array = np.random.default_rng(1).random((300, 1000))
    with connected(kind) as client:
        np.testing.assert_array_equal(client.infer("echo", {"x": array}).outputs["x"], array)


def test_outputs_without_a_content_type_follow_their_datatype():
    outputs = [
        {"name": "n", "shape": [2, 1], "datatype": "INT64", "data": [1, 2]},
        {"name": "s", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]},
        {"name": "b", "shape": [1], "datatype": "BYTES", "data": ["aGk="], "parameters": {"content_type": "base64"}},
    ]
    with Scripted(answer({"model_name": "m", "outputs": outputs})) as server, Client(server.address) as client:
        result = client.infer("m", [1])
    assert result.outputs["n"].tolist() == [[1], [2]]
    assert result.outputs["s"] == ["a", "b"]
    assert result.outputs["b"] == [b"hi"]
    assert repr(result) == "<InferResult m: n INT64[2, 1], s BYTES[2], b BYTES[1]>"


# -- health, metadata, repository -------------------------------------------------------------------------------------


def test_health_metadata_and_the_repository(kind):
    plane = FakePlane()
    tensor = MetadataTensor(name="x", datatype="FP32", shape=[-1, 2], parameters=Parameters(content_type="np"))
    plane.metadata["echo"] = MetadataModelResponse(
        name="echo", versions=["v1"], platform="p", inputs=[tensor], outputs=[], parameters=Parameters(k="v")
    )
    with connected(kind, plane) as client:
        assert client.server_live() and client.server_ready() and client.model_ready("echo")
        assert client.server_metadata().name == "mlserve"
        assert client.model_metadata("echo") == plane.metadata["echo"]
        (item,) = client.repository_index()
        assert (item.name, item.state) == ("echo", State.READY)
        plane.unready.add("echo")
        plane.is_ready = False
        assert not client.server_ready() and not client.model_ready("echo")
        assert [one.state for one in client.repository_index()] == [State.UNAVAILABLE]
        assert client.repository_index(ready=True) == []
        client.repository_load("echo")
        client.repository_unload("echo")
        assert plane.repository == ["load echo", "unload echo"]
        for call in (client.model_ready, client.model_metadata, client.repository_load, client.repository_unload):
            with pytest.raises(errors.ModelNotFound, match="Model nope not found"):
                call("nope")


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
    "address", ["localhost:8080", "ftp://h", "grpc://h", "http://", "grpc://h:1/p", "http://u:p@h", 3]
)
def test_what_is_no_address_is_refused_at_once(address):
    with pytest.raises((ValueError, TypeError, AttributeError)):
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
        with pytest.raises(ValueError, match="line break"):
            client.infer("m", [1], headers={"x": "1\r\ny: 2"})
        assert server.count == 0


# -- deadlines --------------------------------------------------------------------------------------------------------


def test_the_time_goes_to_the_server_and_is_kept_here():
    gate = threading.Event()
    with Scripted(gate) as server, Client(server.address) as client:
        started = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded, match=r"127\.0\.0\.1:\d+ gave no answer within 0.2 s"):
            client.infer("m", [1], timeout_seconds=0.2)
        assert 0.15 < time.monotonic() - started < 5
        assert 0 < float(server.requests.get()[1]["x-request-timeout"]) <= 0.2
        gate.set()


def test_a_deadline_over_grpc_reaches_the_data_plane_and_cancels_there():
    cancelled = threading.Event()

    async def slow(request: InferenceRequest) -> InferenceResponse:
        try:
            await anyio.sleep(SECONDS)
        finally:
            cancelled.set()
        return echo(request)

    plane = FakePlane(slow=slow)
    with connected("grpc", plane) as client:
        with pytest.raises(errors.DeadlineExceeded):
            client.infer("slow", [1], timeout_seconds=0.2)
        assert 0 < plane.calls[0][3] <= 0.2
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
        answer({"error": "failed"}, "500 Internal Server Error"),
        answer({"error": "late"}, "504 Gateway Timeout"),
        Cut(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"),
    ],
    ids=["hung up", "503 without Retry-After", "500", "504", "broke off"],
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


def test_over_grpc_unavailable_is_tried_again():
    tries: list[int] = []

    def model(request: InferenceRequest) -> InferenceResponse:
        tries.append(1)
        if len(tries) < 3:
            raise WorkerDied("gone") if len(tries) == 1 else Overloaded("many")
        return echo(request)

    with connected("grpc", FakePlane(model=model)) as client:
        client.infer("model", [1])
    assert len(tries) == 3


def test_a_pause_beyond_the_deadline_is_not_begun():
    patient = answer({"error": "later"}, "429 Too Many Requests", Retry_After="30")
    with Scripted(patient) as server, Client(server.address) as client:
        started = time.monotonic()
        with pytest.raises(Overloaded) as caught:
            client.infer("m", [1], timeout_seconds=5)
        assert caught.value.retry_after_seconds == 30 and time.monotonic() - started < 4


def test_pauses_double_and_are_never_shorter_than_asked():
    busy, refused = Overloaded("x", 0.0), ClientError("x", "a", arrived=False)
    for error in (busy, refused):
        for tries, longest in ((1, 0.1), (2, 0.2), (5, 1.6), (20, 5.0)):
            pause = pause_before_retry(error, tries, 50)
            assert pause is not None and longest / 2 <= pause <= longest
    assert pause_before_retry(Overloaded("x", 7.0), 1, 1) == 7.0
    assert pause_before_retry(busy, 3, 2) is None
    for error in (
        ClientError("x", "a", arrived=True),
        Unavailable("x"),
        MLServeError("x"),
        errors.DeadlineExceeded("x"),
    ):
        assert pause_before_retry(error, 1, 5) is None


# -- connections ------------------------------------------------------------------------------------------------------


def test_connections_are_kept_and_shared():
    with Scripted(*[GOOD] * 5) as server, Client(server.address) as client:
        for _ in range(5):
            client.infer("m", [1])
        assert server.connections == 1


def test_a_connection_that_the_server_closed_is_not_used_again():
    closing = answer({"model_name": "m", "outputs": [OUTPUT]}, Connection="close")
    silent = GOOD  # And then the server hangs up without having said so.
    with Scripted(closing, silent, GOOD) as server, Client(server.address) as client:
        client.infer("m", [1])
        client.infer("m", [1])
        assert server.connections == 2
        runner = client._running()
        (stream, _) = runner.client._transport._pool._idle[0]
        stream.extra(anyio.abc.SocketAttribute.raw_socket).shutdown(socket.SHUT_RDWR)  # As if the other side had.
        client.infer("m", [1])
        assert server.connections == 3


def test_interim_answers_and_bodies_without_a_length_are_read():
    body = json.dumps({"model_name": "m", "outputs": [OUTPUT]}).encode()
    early = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + GOOD
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with Scripted(early, chunked) as server, Client(server.address) as client:
        assert client.infer("m", [1]).outputs["y"].tolist() == [1, 2]
        assert client.infer("m", [1]).outputs["y"].tolist() == [1, 2]


def test_no_more_connections_than_allowed():
    gates = [threading.Event() for _ in range(3)]
    with Scripted(*gates) as server, Client(server.address, max_connections=2, retries=0) as client:
        caught: queue.Queue[Exception] = queue.Queue()

        def call() -> None:
            try:
                client.infer("m", [1])
            except ClientError as error:
                caught.put(error)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            server.requests.get(timeout=SECONDS)
        assert server.connections == 2
        for gate in gates:
            gate.set()
        for thread in threads:
            thread.join(SECONDS)
        assert caught.qsize() == 3 and server.connections == 3


def test_many_threads_share_a_client(kind):
    with connected(kind) as client:
        found: queue.Queue[tuple[int, float]] = queue.Queue()

        def call(number: int) -> None:
            found.put((number, client.infer("echo", [float(number)]).outputs["input-1"].item()))

        threads = [threading.Thread(target=call, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert sorted(found.queue) == [(number, float(number)) for number in range(12)]


def test_a_closed_client_starts_anew_and_a_forgotten_one_leaves_no_thread():
    def threads() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one.name == "mlserve-client"]

    with Scripted(GOOD, GOOD, GOOD) as server:
        client = Client(server.address)
        client.infer("m", [1])
        client.close()
        client.close()
        assert not threads()
        client.infer("m", [1])
        (thread,) = threads()
        del client
        gc.collect()
        thread.join(SECONDS)
        assert not thread.is_alive()


@pytest.mark.anyio
async def test_it_works_where_a_loop_is_running_already(anyio_backend):
    with Scripted(GOOD) as server, Client(server.address) as client:
        assert client.infer("m", [1]).model_name == "m"


# -- streams ----------------------------------------------------------------------------------------------------------


def words(count: int, then: Exception | None = None, seen: Callable[[], None] = lambda: None) -> Any:
    async def stream(request: InferenceRequest) -> Any:
        try:
            for number in range(count):
                output = ResponseOutput(name="w", shape=[1], datatype="BYTES", data=[f"word {number}"])
                yield InferenceResponse(model_name="", outputs=[output])
                await anyio.sleep(0)
            if then is not None:
                raise then
        finally:
            seen()

    return stream


def test_a_stream_gives_its_answers_one_by_one(kind):
    with connected(kind, FakePlane(words=words(3))) as client:
        said = [one.outputs["w"] for one in client.stream("words", ["text"])]
        assert said == [["word 0"], ["word 1"], ["word 2"]]
        assert [*client.stream("words", "again", timeout_seconds=SECONDS)][-1].outputs["w"] == ["word 2"]


def test_leaving_a_stream_cancels_the_call(kind):
    ended = threading.Event()
    with connected(kind, FakePlane(words=words(1_000_000, seen=ended.set))) as client:
        for one in client.stream("words", ["text"]):
            assert one.outputs["w"] == ["word 0"]
            break
        assert ended.wait(SECONDS)


def test_an_error_before_the_first_answer_and_one_after_it(kind):
    plane = FakePlane(empty=words(0, errors.ModelNotReady("empty")), broken=words(2, errors.ModelError("it broke")))
    with connected(kind, plane) as client:
        with pytest.raises(errors.ModelNotReady):
            next(client.stream("empty", ["text"]))
        answers = client.stream("broken", ["text"])
        assert [next(answers).outputs["w"], next(answers).outputs["w"]] == [["word 0"], ["word 1"]]
        with pytest.raises(errors.ModelError, match="it broke"):
            next(answers)
        with pytest.raises(errors.ModelNotFound):
            next(client.stream("nope", ["text"]))


def test_a_stream_has_the_time_that_it_is_given(kind):
    async def stalls(request: InferenceRequest) -> Any:
        yield echo(request)
        await anyio.sleep(SECONDS)

    with connected(kind, FakePlane(stalls=stalls)) as client:
        answers = client.stream("stalls", ["text"], timeout_seconds=0.5)
        next(answers)
        with pytest.raises(errors.DeadlineExceeded):
            next(answers)


def test_a_stream_is_tried_again_only_before_its_first_answer():
    event = b"data: " + json.dumps({"model_name": "m", "outputs": [OUTPUT]}).encode() + b"\n\n"
    cut = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(event), event)
    with Scripted(BUSY, cut + b"0\r\n\r\n") as server, Client(server.address) as client:
        answers = client.stream("m", ["text"])
        assert next(answers).outputs["y"].tolist() == [1, 2]
        assert list(answers) == []
        assert server.count == 2
    with Scripted(Cut(cut), cut) as server, Client(server.address) as client:
        answers = client.stream("m", ["text"])
        next(answers)
        with pytest.raises(ClientError, match="the connection broke before the answer was complete"):
            next(answers)
        assert server.count == 1


def test_events_are_read_however_they_are_cut():
    text = b': comment\nevent: a\r\ndata: 1\r\n\r\ndata: {"x":\ndata: 2}\n\nid: 3\n\ndata:4\n\n'
    expected = [("a", b"1"), ("message", b'{"x":\n2}'), ("message", b"4")]
    for size in (1, 2, 7, len(text)):
        events = Events()
        found = [one for at in range(0, len(text), size) for one in events.feed(text[at : at + size])]
        assert found == expected


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"{}", 9),
        (b"{}", 0),
        (
            b'{"model_name":"m","outputs":[{"name":"y","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":9}}]}',
            None,
        ),
    ],
)
def test_binary_answers_that_do_not_come_out_even_are_refused(body, length):
    with pytest.raises(ValueError):
        decode_response(body, len(body) if length is None else length)


# -- the asynchronous client ------------------------------------------------------------------------------------------


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.anyio
async def test_the_asynchronous_client_runs_on_both_backends(anyio_backend):
    ended = threading.Event()
    plane = FakePlane(words=words(1_000_000, seen=ended.set))
    with address_of("json", plane) as address:
        async with AsyncClient(address, binary=True) as client:
            assert await client.server_ready() and await client.model_ready("echo")
            results: list[float] = []

            async def call(number: int) -> None:
                results.append((await client.infer("echo", [float(number)])).outputs["input-1"].item())

            async with anyio.create_task_group() as tasks:
                for number in range(10):
                    tasks.start_soon(call, number)
            assert sorted(results) == [float(number) for number in range(10)]
            async with aclosing(client.stream("words", ["text"])) as answers:
                async for one in answers:
                    assert one.outputs["w"] == ["word 0"]
                    break
            assert await anyio.to_thread.run_sync(ended.wait, SECONDS)
            assert repr(client) == f"<AsyncClient {address}>"


@pytest.mark.anyio
async def test_cancelling_closes_the_connection(anyio_backend):
    gate = threading.Event()
    with Scripted(gate, GOOD) as server:
        async with AsyncClient(server.address) as client:
            with anyio.move_on_after(0.2) as scope:
                await client.infer("m", [1])
            assert scope.cancelled_caught
            assert (await client.infer("m", [1])).model_name == "m"
            assert server.connections == 2
        gate.set()


@pytest.mark.anyio
async def test_grpc_runs_on_asyncio_and_says_so_on_trio(anyio_backend):
    with address_of("grpc", FakePlane()) as address:
        async with AsyncClient(address) as client:
            if anyio_backend == "trio":
                with pytest.raises(ClientError, match="gRPC needs asyncio"):
                    await client.server_live()
            else:
                assert (await client.infer("echo", [1])).model_name == "echo"


def test_public_names_are_sorted_and_there():
    assert list(client_package.__all__) == sorted(client_package.__all__)
    assert all(hasattr(client_package, name) for name in client_package.__all__)


# -- the program ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_against_the_real_program(tmp_path):
    for name in ("double", "failing", "sleeper"):
        (write_model(tmp_path, name, f"models.{name.capitalize()}") / "models.py").write_text(MODELS)
    array = np.arange(200_000, dtype="float32").reshape(-1, 2)
    with serving(tmp_path) as server:
        for address, binary in ((server.rest, False), (server.rest, True), (f"grpc://{server.grpc}", None)):
            with Client(address, binary=binary) as client:
                assert client.server_live() and client.server_ready() and client.model_ready("double")
                np.testing.assert_array_equal(client.infer("double", {"x": array}).outputs["x"], array * 2)
                chunks = client.stream("double", {"x": array[:3]}, parameters={"chunks": 3})
                assert [one.outputs["x"].sum() for one in chunks] == [0, 15, 30]
                frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]})
                assert client.infer("double", frame).to_pandas().to_dict("list") == {"a": [2, 4], "b": [1.0, 3.0]}
                with pytest.raises(errors.ModelError, match="golden value"):
                    client.infer("failing", [1.0])
                with pytest.raises(errors.DeadlineExceeded):
                    client.infer("sleeper", np.array([5.0], "float32"), timeout_seconds=0.3)
                assert {one.name for one in client.repository_index(ready=True)} == {"double", "failing", "sleeper"}
                client.repository_unload("double")
                with pytest.raises(errors.ModelNotFound):
                    client.infer("double", [1.0])
                client.repository_load("double")
                assert client.model_ready("double")
        assert server.stop() == 0
