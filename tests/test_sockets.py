"""Connections that are accepted send at once, notice clients that are gone, and leave descriptors: on every loop."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.rest.h1_server import Limits
from mlserve.sockets import GONE_SECONDS
from tests import grpc_edge, http_edge
from tests.grpc_calls import failure, message

has_options = pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="the system has no such option")


@contextmanager
def accepted(client: socket.socket) -> Iterator[socket.socket]:
    """The server's end of a connection, which is in this process too."""
    for name in os.listdir("/dev/fd"):
        try:
            found = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # no socket, or closed by now
            continue
        with found:
            try:
                if found.getpeername() == client.getsockname():
                    yield found
                    return
            except OSError:  # not connected
                pass
    raise AssertionError("nobody has accepted the connection")


def check(client: socket.socket) -> None:
    with accepted(client) as server:
        assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
        idle, again, times = (
            server.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + again * times == GONE_SECONDS <= 120


@has_options
@pytest.mark.parametrize("backend", grpc_edge.BACKENDS)
def test_connections_over_grpc(backend: str) -> None:
    with grpc_edge.serving(backend) as server, socket.create_connection(("127.0.0.1", server.port), 30) as client:
        client.sendall(grpc_edge.PREFACE + grpc_edge.frame(grpc_edge.SETTINGS, 0, 0))
        assert client.recv(1)  # the server has accepted it
        check(client)


@has_options
@pytest.mark.parametrize("kind", http_edge.KINDS)
def test_connections_over_rest(kind: str) -> None:
    with http_edge.running(kind) as edge, edge.connect() as client:
        assert client.alive()
        check(client.sock)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Every connection takes one of the last descriptors; `undo` changes that."""
    monkeypatch.setattr("mlserve.sockets.descriptor_limit", lambda: 3)
    yield monkeypatch


@pytest.mark.parametrize("kind", http_edge.FAST)
def test_there_is_no_room_for_another_connection_over_rest(kind: str, short: pytest.MonkeyPatch) -> None:
    """It is told so, whether it asks or not, and closed; later ones are served again."""
    with http_edge.running(kind, limits=Limits(leaves_descriptors=True)) as edge:
        with edge.connect() as client:
            answer = client.get("/anything").response()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert b"ulimit -n" in answer.body
            assert client.closed()
        with edge.connect() as silent:
            assert silent.response().status == 503
            assert silent.closed()
        short.undo()
        with edge.connect() as client:
            assert client.alive()


def test_the_metrics_are_for_who_wants_to_know_why(short: pytest.MonkeyPatch) -> None:
    """Listeners that are not told to leave descriptors serve on."""
    with http_edge.running("uvloop-fast") as edge, edge.connect() as client:
        assert client.alive()


@pytest.mark.parametrize("backend", grpc_edge.BACKENDS)
def test_there_is_no_room_for_another_connection_over_grpc(backend: str, short: pytest.MonkeyPatch) -> None:
    """Its first call is told so, it is told to go, and closed; later ones are served again."""
    with grpc_edge.serving(backend) as server:
        with grpc.insecure_channel(server.address) as channel:
            error = failure(GRPCInferenceServiceStub(channel).ModelInfer, message())
            assert (error.code(), "ulimit -n" in str(error.details())) == (grpc.StatusCode.UNAVAILABLE, True)
            assert dict(error.trailing_metadata() or ())["grpc-retry-pushback-ms"] == "1000"
        assert server.plane.calls == []
        hello = grpc_edge.talk(server.port, lambda encoder: b"", lambda heard: False)
        assert hello.goaway() == 0, "one that asks nothing goes too"
        short.undo()
        with grpc.insecure_channel(server.address) as channel:
            assert GRPCInferenceServiceStub(channel).ModelInfer(message(), timeout=grpc_edge.SECONDS).outputs
