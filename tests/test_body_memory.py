"""What requests take of the memory for bodies: counted as it comes, packed and unpacked, until they are answered."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import grpc
import pytest
from hpack import Encoder

from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.intake import Intake
from mlserve.metrics import Metrics
from mlserve.rest.app import RestApp
from mlserve.rest.h1_server import Limits
from mlserve.settings import Settings
from mlserve.types import InferenceRequest, InferenceResponse
from tests import http_edge
from tests.fake_dataplane import FakeDataPlane
from tests.grpc_edge import BACKENDS, DATA, END_HEADERS, PREFACE, SETTINGS, FakePlane, frame, serving, talk
from tests.h2_client import H2Client
from tests.test_grpc_frames import headers
from tests.unread import until

MIB = 1 << 20
SIZE = 3 * MIB
LIMIT = 10 * MIB  # room for three
TENSOR = {"name": "x", "shape": [1], "datatype": "BYTES", "data": ["a" * SIZE]}
TEXT = json.dumps({"inputs": [TENSOR]}).encode()
EDGES = [
    pytest.param(kind, marks=pytest.mark.own_process) if kind.startswith("trio") else kind for kind in http_edge.KINDS
]


class Gated:
    """A model whose calls wait until they may go on, the intake that counts their requests, and the most it counted."""

    def __init__(self) -> None:
        self.intake = Intake(LIMIT)
        self.begun: list[str] = []
        self.may = threading.Event()

    async def __call__(self, request: InferenceRequest) -> InferenceResponse:
        self.begun.append(str(request.id))
        while not self.may.is_set():
            await anyio.sleep(0.005)
        return InferenceResponse(model_name="", outputs=[])


@pytest.fixture
def model() -> Gated:
    return Gated()


def _three_fit(model: Gated, ask: Callable[[], str], refused: str, well: str) -> None:
    """Three requests run, a fourth is refused, and when they are answered there is room again."""
    with ThreadPoolExecutor(3) as threads:
        running = []
        for count in range(1, 4):
            running.append(threads.submit(ask))
            until(lambda count=count: len(model.begun) == count)
        assert model.intake.held_bytes >= 3 * SIZE
        assert ask() == ask() == refused
        assert 3 * SIZE <= model.intake.held_bytes <= LIMIT
        model.may.set()
        assert [one.result() for one in running] == [well] * 3
    until(lambda: model.intake.held_bytes == 0)
    for _ in range(5):
        assert ask() == well
    until(lambda: model.intake.held_bytes == 0)


def _three_fit_over_http(kind: str, model: Gated, body: bytes, coding: bytes) -> None:
    app = RestApp(FakeDataPlane(gated=model), Metrics(), Settings(), intake=model.intake)
    fields = b"Content-Encoding: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % (coding, len(body))
    with http_edge.running(kind, app) as edge:

        def ask() -> str:
            with edge.connect() as client:
                return str(client.send(http_edge.post(b"/v2/models/gated/infer", fields, body)).response().status)

        _three_fit(model, ask, "429", "200")


@pytest.mark.parametrize("kind", EDGES)
def test_a_packed_body_counts_as_what_it_is_unpacked(kind: str, model: Gated) -> None:
    _three_fit_over_http(kind, model, gzip.compress(TEXT), b"gzip")


@pytest.mark.parametrize("kind", ["uvloop-stock", pytest.param("trio-stock", marks=pytest.mark.own_process)])
def test_a_body_counts_where_the_server_below_does_not_count(kind: str, model: Gated) -> None:
    _three_fit_over_http(kind, model, TEXT, b"identity")


@pytest.mark.parametrize("kind", http_edge.FAST)
@pytest.mark.parametrize("packed", [True, False])
def test_a_body_over_http2_counts_too(kind: str, packed: bool, model: Gated) -> None:
    limits = Limits(intake=model.intake)
    app = RestApp(FakeDataPlane(gated=model), Metrics(), Settings(), intake=model.intake)
    fields = [("content-type", "application/json"), *([("content-encoding", "gzip")] if packed else [])]
    with http_edge.running(kind, app, limits=limits) as edge:

        def ask() -> str:
            with H2Client(edge.address) as client:
                stream = client.ask("/v2/models/gated/infer", method="POST", end=False, extra=fields)
                _upload(client, stream, gzip.compress(TEXT) if packed else TEXT)
                client.h2.end_stream(stream)
                client.send()
                client.until_ended(stream)
                return client.heads[stream][":status"]

        _three_fit(model, ask, "429", "200")


def _upload(client: H2Client, stream: int, content: bytes) -> None:
    """Sends a body, as far as the windows let it."""
    while content:
        client.until(lambda: client.h2.local_flow_control_window(stream) > 0)
        room = min(1 << 14, client.h2.local_flow_control_window(stream))
        client.h2.send_data(stream, content[:room])
        client.send()
        content = content[room:]


@pytest.mark.parametrize("kind", http_edge.FAST)
def test_bodies_that_never_end_over_http2_count_and_those_without_room_are_refused(kind: str, model: Gated) -> None:
    limits = Limits(intake=model.intake)
    app = RestApp(FakeDataPlane(gated=model), Metrics(), Settings(), intake=model.intake)
    with http_edge.running(kind, app, limits=limits) as edge:
        with H2Client(edge.address) as client:
            streams = [client.ask("/v2/models/gated/infer", method="POST", end=False) for _ in range(8)]
            for stream in streams:
                _upload(client, stream, bytes(SIZE))
            client.until_ended(*streams[4:])
            assert {client.heads[stream][":status"] for stream in streams[4:]} == {"429"}
            assert 2 * SIZE < model.intake.held_bytes <= LIMIT
            assert client.get("/v2/health/live") == b""
        until(lambda: model.intake.held_bytes == 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("packed", [True, False])
def test_a_message_counts_as_what_it_is_unpacked(backend: str, packed: bool, model: Gated) -> None:
    message = pb.ModelInferRequest(model_name="gated")
    message.inputs.add(name="x", shape=[SIZE], datatype="UINT8")
    message.raw_input_contents.append(bytes(SIZE))
    compression = grpc.Compression.Gzip if packed else None
    with serving(backend, FakePlane(gated=model), intake=model.intake) as running:

        def ask() -> str:
            with grpc.insecure_channel(running.address) as channel:
                try:
                    GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=60, compression=compression)
                except grpc.RpcError as error:
                    assert "body_memory_bytes" in error.details()
                    return error.code().name
                return "OK"

        _three_fit(model, ask, "RESOURCE_EXHAUSTED", "OK")


# -- half-sent messages of gRPC ---------------------------------------------------------------------------------------


def _announcing(encoder: Encoder, sent: bytes = b"", streams: int = 20) -> bytes:
    """Calls that announce a message each, of nearly all the memory, and send a little of it."""
    ids = range(1, 2 * streams, 2)
    part = b"\0" + (LIMIT - MIB).to_bytes(4, "big") + sent
    return b"".join(headers(encoder, one, END_HEADERS) + frame(DATA, 0, one, part) for one in ids)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def half_sent(backend: str, model: Gated) -> Iterator[Any]:
    """A server on which calls have sent half of their message; its connection stays open."""
    with serving(backend, FakePlane(), intake=model.intake) as running:
        with socket.create_connection(("127.0.0.1", running.port), 60) as sock:
            sock.sendall(PREFACE + frame(SETTINGS, 0, 0) + _announcing(Encoder(), bytes(100_000)))
            until(lambda: model.intake.held_bytes >= 20 * 100_000)
            yield running
        until(lambda: model.intake.held_bytes == 0)


def test_a_message_counts_as_it_comes_not_as_it_is_announced(half_sent: Any, model: Gated) -> None:
    assert model.intake.held_bytes <= 20 * 100_005
    message = pb.ModelInferRequest(model_name="echo")
    message.inputs.add(name="x", shape=[SIZE], datatype="UINT8")
    message.raw_input_contents.append(bytes(SIZE))
    with grpc.insecure_channel(half_sent.address) as channel:
        assert GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=60).outputs


def test_a_message_that_comes_no_further_is_given_up(backend: str, model: Gated) -> None:
    with serving(backend, FakePlane(), intake=model.intake, pause_seconds=0.3) as running:
        heard = talk(
            running.port,
            lambda encoder: _announcing(encoder, bytes(100_000), streams=2),
            lambda heard: None not in (heard.status(1), heard.status(3)),
        )
        assert heard.status(1) == heard.status(3) == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
        until(lambda: model.intake.held_bytes == 0)


def test_a_message_may_take_long_while_it_comes(backend: str, model: Gated) -> None:
    """And a stream between two messages as long as it likes."""
    message = pb.ModelInferRequest(model_name="echo")
    message.inputs.add(name="x", shape=[4000], datatype="UINT8")
    message.raw_input_contents.append(bytes(4000))
    whole = message.SerializeToString()
    whole = b"\0" + len(whole).to_bytes(4, "big") + whole
    path = "/inference.GRPCInferenceService/ModelStreamInfer"
    with (
        serving(backend, FakePlane(), intake=model.intake, pause_seconds=2.0) as running,
        socket.create_connection(("127.0.0.1", running.port), 60) as sock,
    ):
        sock.sendall(PREFACE + frame(SETTINGS, 0, 0) + headers(Encoder(), 1, END_HEADERS, _path=path))
        for place in range(0, len(whole), 500):
            sock.sendall(frame(DATA, 0, 1, whole[place : place + 500]))
            threading.Event().wait(0.3)
        heard = b""
        while b"echo" not in heard:
            heard += sock.recv(65536)
        assert b"grpc-status" not in heard
