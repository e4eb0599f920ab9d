"""Connections that are accepted send at once, and notice clients whose network is gone: both protocols, every loop."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mlserve.sockets import GONE_SECONDS
from tests import grpc_edge, http_edge

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="the system has no such option")


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


@pytest.mark.parametrize("backend", grpc_edge.BACKENDS)
def test_grpc(backend: str) -> None:
    with grpc_edge.serving(backend) as server, socket.create_connection(("127.0.0.1", server.port), 30) as client:
        client.sendall(grpc_edge.PREFACE + grpc_edge.frame(grpc_edge.SETTINGS, 0, 0))
        assert client.recv(1)  # the server has accepted it
        check(client)


@pytest.mark.parametrize("kind", http_edge.KINDS)
def test_rest(kind: str) -> None:
    with http_edge.running(kind) as edge, edge.connect() as client:
        assert client.alive()
        check(client.sock)
