"""The very moment in which a listener closes: who was accepted by then is answered, and nobody is left hanging."""

from __future__ import annotations

import gc
import logging
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived

from mlserve.rest.h1_exchange import LAST_WORDS
from mlserve.rest.h1_server import H1Server
from mlserve.rest.serve import serve

pytestmark = pytest.mark.anyio

TURNS = range(8)  # between a client's connecting and the end of the listener, in turns of the event loop


async def _app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The peers of all connections that were taken from a listening socket."""
    peers: list[Any] = []
    accept = socket.socket.accept

    def noting(sock: socket.socket) -> Any:
        client, peer = accept(sock)
        peers.append(peer)
        return client, peer

    monkeypatch.setattr(socket.socket, "accept", noting)
    yield peers


def _outcome(client: socket.socket) -> bytes:
    client.settimeout(60)
    try:
        return client.recv(1000)
    except ConnectionError:
        return b""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    # uvloop accepts in one step, unseen by Python
    return (request.param, {"use_uvloop": False}) if request.param == "asyncio" else request.param


@pytest.mark.parametrize("turns", TURNS)
async def test_who_was_accepted_as_the_listener_closed_is_answered(turns: int, accepted: list[Any]) -> None:
    stop = anyio.Event()
    with socket.socket() as client:
        async with anyio.create_task_group() as tasks:
            serving = partial(serve, _app, host="127.0.0.1", port=0, shutdown_trigger=stop.wait)
            address = await tasks.start(serving)
            client.connect(address)  # the kernel accepts it: this waits for nobody
            client.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            stop.set()
            outcome = await anyio.to_thread.run_sync(_outcome, client)
    assert outcome.endswith(b"ok") == bool(accepted), outcome


async def test_a_connection_that_comes_after_the_end_is_closed() -> None:
    class Late:
        aborted = False

        def abort(self) -> None:
            self.aborted = True

    server, late = H1Server(_app, spawn=lambda run: None), Late()
    server.abort()
    server.enter(late)  # type: ignore[arg-type]  # has what is asked of it
    assert late.aborted


@pytest.mark.parametrize("begun", [True, False])
async def test_streams_that_are_ended_at_once_say_so_before_their_connections_close(begun: bool) -> None:
    """As at a second signal, however long their application takes to end; one that has not begun is a 503."""
    stop, running = anyio.Event(), anyio.Event()
    waiting = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal waiting
        await send({"type": "http.response.start", "status": 200, "headers": [], LAST_WORDS: b"farewell"})
        if begun:
            await send({"type": "http.response.body", "body": b"a part", "more_body": True})
        waiting += 1
        if waiting == len(clients):
            running.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()  # it takes its time to end

    clients = [socket.socket() for _ in range(16)]
    async with anyio.create_task_group() as tasks:
        serving = partial(serve, app, host="127.0.0.1", port=0, shutdown_trigger=stop.wait)
        address = await tasks.start(serving)
        for client in clients:
            client.connect(address)
            client.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        await running.wait()
        stop.set()
        for _ in range(20):  # it begins to drain
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    for client in clients:
        with client, client.makefile("rb") as answer:
            text = answer.read()
        assert text.startswith(b"HTTP/1.1 200" if begun else b"HTTP/1.1 503"), text
        assert text.endswith(b"8\r\nfarewell\r\n0\r\n\r\n") == begun, text


async def test_a_connection_on_which_nothing_was_asked_closes_without_a_word() -> None:
    stop = anyio.Event()
    with socket.socket() as client:
        async with anyio.create_task_group() as tasks:
            serving = partial(serve, _app, host="127.0.0.1", port=0, shutdown_trigger=stop.wait)
            address = await tasks.start(serving)
            client.connect(address)
            client.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await anyio.to_thread.run_sync(_outcome, client)).endswith(b"ok")
            stop.set()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert _outcome(client) == b""


@pytest.mark.parametrize("at_once", [True, False])
async def test_streams_of_http2_that_are_ended_say_so_and_leave_no_trace_in_the_log(
    at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    stop, running = anyio.Event(), anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], LAST_WORDS: b"farewell"})
        await send({"type": "http.response.body", "body": b"a part", "more_body": True})
        running.set()
        await anyio.sleep_forever()

    connection = H2Connection(H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    head = {":method": "GET", ":path": "/", ":scheme": "http", ":authority": "a"}
    connection.send_headers(1, list(head.items()), end_stream=True)
    with socket.socket() as client:
        async with anyio.create_task_group() as tasks:
            serving = partial(
                serve, app, host="127.0.0.1", port=0, shutdown_trigger=stop.wait, graceful_timeout=1000 * at_once
            )
            client.connect(await tasks.start(serving))
            client.sendall(connection.data_to_send())
            await running.wait()
            stop.set()
            if at_once:
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        client.settimeout(60)
        with client.makefile("rb") as answer:
            said = [event for event in connection.receive_data(answer.read()) if isinstance(event, DataReceived)]
    assert b"".join(event.data for event in said) == b"a partfarewell"
    assert said[-1].stream_ended is not None
    gc.collect()  # of a coroutine that was never awaited
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
