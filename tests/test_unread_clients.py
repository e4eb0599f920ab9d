"""A client that takes nothing of its answer is disconnected, on every transport, and what was kept for it is free."""

from __future__ import annotations

import gc
import json
import time
from contextlib import closing
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamReset
from h2.settings import SettingCodes

from mlserve.grpc.listener import Listener
from mlserve.metrics import Metrics
from mlserve.rest.app import RestApp
from mlserve.rest.h1_server import H1Server
from mlserve.settings import Settings
from mlserve.unsent import Unsent
from tests import http_edge
from tests.fake_dataplane import FakeDataPlane
from tests.unread import LARGE, body, connect, message, served, until

BACKENDS = ["asyncio", pytest.param("trio", marks=pytest.mark.own_process)]
REST = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/v2/models/big/infer")]
GRPC = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "x"),
    (":path", "/inference.GRPCInferenceService/ModelInfer"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


class Http2Client:
    """Asks once over HTTP/2, with windows of a size, and gives nothing of them back."""

    def __init__(self, address: tuple[str, int], headers: Any, content: bytes, windows: int) -> None:
        self.sock = connect(address)
        self._h2 = H2Connection(H2Configuration(client_side=True))
        if windows > 65535:
            self._h2.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = windows
        self._h2.initiate_connection()
        if windows > 65535:
            self._h2.increment_flow_control_window(windows - 65535)
        self._h2.send_headers(1, headers)
        self._h2.send_data(1, content, end_stream=True)
        self.sock.sendall(self._h2.data_to_send())

    def open_the_streams_window(self) -> None:
        """And not the connection's, so that nothing fits."""
        self._h2.increment_flow_control_window(1, 1)
        self.sock.sendall(self._h2.data_to_send())

    def read_to_the_reset(self) -> None:
        """Reads until the server gives the call up, which gives no window back."""
        while not any(isinstance(event, StreamReset) for event in self._h2.receive_data(self.sock.recv(1 << 16))):
            pass

    def close(self) -> None:
        self.sock.close()


def _over(transport: str, running: Any, windows: int) -> Http2Client:
    if transport == "REST":
        return Http2Client(running.http, REST, json.dumps(body(LARGE)).encode(), windows)
    content = message(LARGE).SerializeToString()
    framed = b"\0" + len(content).to_bytes(4, "big") + content
    return Http2Client(running.server.addresses["grpc"], GRPC, framed, windows)


def _connections() -> int:
    """How many connections the servers of this process have open. The client cannot tell: it does not read."""
    return sum(len(one._open) for one in gc.get_objects() if isinstance(one, H1Server | Listener))


def _until_held(running: Any) -> None:
    """Its answer waits, or has done so: a busy machine may see it too late."""
    until(lambda: running.unsent.held_bytes > 0 or _has_been_answered(running))


def _until_held_and_free(running: Any) -> None:
    until(lambda: _has_been_answered(running))
    until(lambda: running.unsent.held_bytes == 0)


def _has_been_answered(running: Any) -> bool:
    return running.server.dataplane.admitted == 1 and not running.server.dataplane.in_flight


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("verb", ["infer", "infer_stream"])
def test_a_client_that_does_not_read_over_http1_is_disconnected(tmp_path, backend, verb):
    with served(tmp_path, backend, send_timeout_seconds=0.5) as running, closing(running.ask(LARGE, verb)):
        _until_held(running)
        _until_held_and_free(running)
        until(lambda: not _connections())
        assert running.infer(1).status_code == 200


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", ["REST", "gRPC"])
def test_a_connection_of_http2_that_is_not_read_is_closed(tmp_path, backend, transport):
    with served(tmp_path, backend, send_timeout_seconds=0.5) as running:
        with closing(_over(transport, running, 1 << 30)):
            _until_held(running)
            _until_held_and_free(running)
            until(lambda: not _connections())
        assert running.infer(1).status_code == 200


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transport", ["REST", "gRPC"])
def test_a_stream_of_http2_whose_window_stays_shut_ends(tmp_path, backend, transport):
    with served(tmp_path, backend, send_timeout_seconds=0.5) as running:
        with closing(_over(transport, running, 65535)) as client:
            _until_held(running)
            client.read_to_the_reset()
            _until_held_and_free(running)
        assert running.infer(1).status_code == 200


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_of_grpc_ends_whose_window_opens_where_its_connections_stays_shut(tmp_path, backend):
    with served(tmp_path, backend, send_timeout_seconds=0.5) as running:
        with closing(_over("gRPC", running, 65535)) as client:
            _until_held(running)
            for _ in range(40):  # sixteen times as long; a connection that opens windows for nothing is closed after 50
                client.open_the_streams_window()
                time.sleep(0.2)
                if not running.unsent.held_bytes:
                    break
            assert running.unsent.held_bytes == 0
        assert running.infer(1).status_code == 200


def test_stock_hypercorn_keeps_no_answer_for_a_client_that_does_not_read():
    """On trio it cannot be kept from waiting for such a client; there the memory is bounded, and no more."""
    held: list[int] = []

    class Noting(Unsent):
        def hold(self, size_bytes: int) -> None:
            super().hold(size_bytes)
            held.append(self.held_bytes)

    unsent = Noting()
    app = RestApp(FakeDataPlane(), Metrics(), Settings(send_timeout_seconds=0.5), unsent)
    text = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["a" * LARGE]}]}).encode()
    with http_edge.running("uvloop-stock", app) as edge, closing(connect(edge.address)) as sock:
        sock.sendall(http_edge.post(b"/v2/models/echo/infer", b"Content-Length: %d\r\n" % len(text), text))
        until(lambda: held)
        until(lambda: unsent.held_bytes == 0)
        with edge.connect() as client:
            assert client.get("/v2/health/live").response().status == 200
