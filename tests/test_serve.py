"""serve(): binding, lifespan, draining and stopping, and stock Hypercorn where the fast path cannot be taken."""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import os
import socket
import time
import weakref
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from mlserve.errors import StartupError
from mlserve.rest.h1_server import H1Server
from mlserve.rest.serve import bind, fast_path_problem, serve
from tests.http_edge import FAST, KINDS, PATIENCE, Application, answer, running


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- binding -----------------------------------------------------------------------------------------------------------


def test_port_0_takes_a_free_one_and_is_served_once_it_is_reported(kind: str) -> None:
    with running(kind) as edge, edge.connect() as client:
        assert edge.address[0] == "127.0.0.1"
        assert edge.address[1] > 0
        assert client.alive()


def test_ipv6_is_served_too(kind: str) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("no IPv6 here")
    with running(kind, host="::1") as edge, socket.create_connection(edge.address) as client:
        client.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b" 200 " in client.recv(1000)


def test_a_name_is_resolved_and_ipv4_preferred() -> None:
    with bind("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_a_busy_port_is_named_with_what_helps(kind: str) -> None:
    with running(kind) as edge:
        port = edge.address[1]
        with pytest.raises(StartupError, match=f"port {port} on 127.0.0.1 is in use .* choose another port"):
            anyio.run(lambda: serve(edge.app, host="127.0.0.1", port=port, shutdown_trigger=anyio.sleep_forever))


def test_a_port_can_be_taken_again_at_once(kind: str) -> None:
    with running(kind) as edge, edge.connect() as client:
        assert client.alive()
        address = edge.address
    with running(kind, port=address[1]) as edge, edge.connect() as client:
        assert client.alive()


def test_a_foreign_address_is_named() -> None:
    with pytest.raises(StartupError, match=r"192\.0\.2\.1 is not an address of this machine"), bind("192.0.2.1", 0):
        pass


def test_a_name_that_does_not_exist_is_named() -> None:
    with (
        pytest.raises(StartupError, match=r"'no-such-host\.invalid' cannot be resolved"),
        bind("no-such-host.invalid", 0),
    ):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may take every port")
def test_a_privileged_port_is_named() -> None:
    with pytest.raises(StartupError, match=r"port 1 .* above 1023"), bind("127.0.0.1", 1):
        pass


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the system has no such option")
def test_the_kernel_is_told_to_buffer_little() -> None:
    with bind("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 16384
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


# -- stopping ----------------------------------------------------------------------------------------------------------


def test_stopping_closes_idle_connections_and_lets_busy_ones_finish(kind: str) -> None:
    with running(kind, graceful_timeout=PATIENCE) as edge, edge.connect() as busy, edge.connect() as idle:
        assert idle.alive()
        busy.get("/hold")
        assert edge.app.next_event() == "held"
        edge.shut_down()
        assert idle.closed()
        edge.app.permits.put(1)
        response = busy.response()
        assert response.body == b"released"
        assert busy.closed()
        edge.ended.result(PATIENCE)
        if edge.fast:
            assert response.headers["connection"] == "close"
        with pytest.raises(ConnectionRefusedError):
            edge.connect()


def test_requests_that_take_too_long_are_cancelled_when_the_time_is_over(kind: str) -> None:
    with running(kind, graceful_timeout=0.2) as edge, edge.connect() as busy:
        busy.get("/hold")
        assert edge.app.next_event() == "held"
        edge.shut_down()
        edge.ended.result(PATIENCE)
        assert edge.app.next_event() == "cancelled"
        if edge.fast:
            assert busy.response().status == 503
            assert busy.closed()


def test_a_connection_that_has_not_sent_its_request_yet_does_not_hold_up_the_end(kind: str) -> None:
    with running(kind, graceful_timeout=PATIENCE * 2) as edge, edge.connect() as silent:
        with edge.connect() as other:
            assert other.alive()  # so silent was accepted
        edge.shut_down()
        edge.ended.result(PATIENCE)
        assert silent.closed()


def test_an_idle_http_2_connection_does_not_hold_up_the_end() -> None:
    for kind in FAST:
        with running(kind, graceful_timeout=PATIENCE * 2) as edge, edge.connect() as client:
            client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            client._exactly(9)
            edge.shut_down()
            edge.ended.result(PATIENCE)


def test_cancelling_ends_at_once_with_connections_open(kind: str) -> None:
    with running(kind, graceful_timeout=0.2) as edge, edge.connect() as busy, edge.connect() as idle:
        assert idle.alive()
        busy.get("/hold")
        assert edge.app.next_event() == "held"
        began = time.monotonic()
        edge.ended.cancel()
        assert edge.app.next_event() == "cancelled"
        assert idle.closed()
        assert time.monotonic() - began < PATIENCE / 2


@pytest.mark.parametrize("kind", FAST)
def test_closed_connections_are_freed_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the collector of cycles."""
    opened: list[weakref.ref[object]] = []
    enter = H1Server.enter

    def noting(server: H1Server, connection: Any) -> None:
        opened.append(weakref.ref(connection))
        enter(server, connection)

    monkeypatch.setattr(H1Server, "enter", noting)
    with running(kind) as edge:
        gc.disable()
        try:
            for _ in range(20):
                with edge.connect() as client:
                    assert client.alive()
            end = time.monotonic() + PATIENCE
            while any(one() is not None for one in opened):
                assert time.monotonic() < end
                time.sleep(0.01)
        finally:
            gc.enable()
    assert len(opened) == 20


# -- lifespan ----------------------------------------------------------------------------------------------------------


class WithLifespan:
    """An application that writes down its life."""

    def __init__(self, fails: str = "") -> None:
        self.life: list[str] = []
        self.fails = fails

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            self.life.append("request")
            seen = scope["state"]["model"]
            scope["state"]["model"] = "changed"
            await answer(send, seen.encode())
            return
        for stage in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{stage}"
            self.life.append(stage)
            scope["state"]["model"] = "loaded"
            if self.fails == stage:
                await send({"type": f"lifespan.{stage}.failed", "message": "no model"})
                return
            await send({"type": f"lifespan.{stage}.complete"})


def test_the_lifespan_surrounds_the_requests_and_its_state_reaches_each_of_them(kind: str) -> None:
    app = WithLifespan()
    with running(kind, app) as edge, edge.connect() as client:
        for _ in range(2):
            assert client.get("/").response().body == b"loaded"
    assert app.life == ["startup", "request", "request", "shutdown"]


def test_an_application_that_cannot_start_is_a_startup_error(kind: str) -> None:
    app = WithLifespan("startup")
    with pytest.raises(StartupError, match="the application cannot start: no model"), running(kind, app):
        pass


def test_a_shutdown_that_fails_is_logged(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with running(kind, WithLifespan("shutdown")):
        pass
    assert "shutdown failed: no model" in caplog.text


# -- stock Hypercorn ---------------------------------------------------------------------------------------------------


@pytest.fixture
def unknown_hypercorn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.1.0")
    yield


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_installed_hypercorn_is_known(backend: str) -> None:
    assert fast_path_problem(backend) is None


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.usefixtures("unknown_hypercorn")
def test_an_unknown_hypercorn_serves_itself_with_one_warning(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("none here")
        seen.append(scope["extensions"])
        await answer(send, b"x")

    with running(kind, app) as edge, edge.connect() as client:
        assert client.get("/").response().body == b"x"
    assert seen == [{}]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "Hypercorn 9.1.0 is not known here" in warnings[0]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_hypercorn_that_is_built_otherwise_is_noticed(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"hypercorn.{backend}.task_group.TaskGroup", lambda app, stream: None)
    assert "TaskGroup takes ('app', 'stream')" in str(fast_path_problem(backend))
    monkeypatch.undo()
    monkeypatch.delattr(f"hypercorn.{backend}.task_group.TaskGroup")
    assert "TaskGroup is missing" in str(fast_path_problem(backend))


def test_the_choice_of_stock_needs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with running("uvloop-stock", Application()) as edge, edge.connect() as client:
        assert client.alive()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
