"""The gRPC server's beginning and end: addresses, draining, and what is left afterwards."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import grpc
import pytest

from mlserve.errors import StartupError
from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.grpc.server import GrpcServer, bind
from mlserve.metrics import Metrics
from mlserve.settings import Settings
from mlserve.types import InferenceRequest, InferenceResponse
from tests.grpc_edge import (
    BACKENDS,
    END_HEADERS,
    HEADERS,
    PREFACE,
    SECONDS,
    SETTINGS,
    FakePlane,
    frame,
    run,
    serving,
    wait_for,
)


class Gate:
    """A model that says when it runs, and answers when it is told to."""

    def __init__(self) -> None:
        self.began, self.ended = threading.Event(), threading.Event()
        self.open = False

    async def __call__(self, request: InferenceRequest) -> InferenceResponse:
        self.began.set()
        try:
            while not self.open:
                await anyio.sleep(0.005)
        finally:
            self.ended.set()
        return InferenceResponse(model_name="", outputs=[])


@pytest.mark.parametrize("backend", BACKENDS)
def test_running_calls_finish_and_new_ones_are_refused(backend: str) -> None:
    """A drain: the client is told to go elsewhere, and gets its answer."""
    gate = Gate()
    with serving(backend, FakePlane(gate=gate)) as server, grpc.insecure_channel(server.address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        call = stub.ModelInfer.future(pb.ModelInferRequest(model_name="gate", id="1"), timeout=SECONDS)
        wait_for(gate.began)
        server.stop()
        wait_until(lambda: refuses(server.port))
        assert not server.ended.is_set()
        gate.open = True
        assert call.result().id == "1"
        wait_for(server.ended)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ServerLive(pb.ServerLiveRequest(), timeout=SECONDS)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("backend", BACKENDS)
def test_calls_that_do_not_finish_in_time_get_unavailable(backend: str) -> None:
    """Unary ones and streams; their models are cancelled."""
    gate = Gate()
    with serving(backend, FakePlane(gate=gate), grace=0.05) as server, grpc.insecure_channel(server.address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        call = stub.ModelInfer.future(pb.ModelInferRequest(model_name="gate"), timeout=SECONDS)
        wait_for(gate.began)
        more = threading.Event()
        idle = stub.ModelStreamInfer(_until(more, pb.ModelInferRequest(model_name="echo")), timeout=SECONDS)
        next(idle)
        server.stop()
        for one in (call.result, partial(next, idle)):
            with pytest.raises(grpc.RpcError) as caught:
                one()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "stopping" in (caught.value.details() or "")
        wait_for(gate.ended)
        more.set()


def _until(event: threading.Event, first: Any) -> Any:
    yield first
    event.wait(SECONDS)


@pytest.mark.parametrize("backend", BACKENDS)
def test_idle_and_silent_connections_do_not_hold_up_the_end(backend: str) -> None:
    """One that never said a word, one that is idle, and one in the middle of its request."""
    with serving(backend) as server:
        address = ("127.0.0.1", server.port)
        socks = [socket.create_connection(address, SECONDS) for _ in range(3)]
        socks[1].sendall(PREFACE + frame(SETTINGS, 0, 0))
        socks[2].sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, b"")[:5])
        for sock in socks:
            assert sock.recv(9)  # The server has seen them all.
        server.stop()
        wait_for(server.ended)
        for sock in socks:
            while sock.recv(1000):
                pass
            sock.close()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("draining", [False, True])
def test_cancelling_the_server_ends_it_at_once(backend: str, draining: bool) -> None:
    """Also while it drains: that is what a second signal does. The calls get UNAVAILABLE."""
    gate = Gate()
    codes: list[str] = []

    def ask(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(pb.ModelInferRequest(model_name="gate"), timeout=SECONDS)
            codes.append(caught.value.code().name)

    async def main() -> None:
        server = GrpcServer(FakePlane(gate=gate), Metrics(), Settings())
        async with anyio.create_task_group() as clients, anyio.create_task_group() as servers:
            stop = anyio.Event()
            _, port = await servers.start(partial(server.serve, shutdown_trigger=stop.wait, graceful_timeout=60))
            clients.start_soon(anyio.to_thread.run_sync, ask, port)
            await anyio.to_thread.run_sync(wait_for, gate.began)
            if draining:
                stop.set()
                await anyio.to_thread.run_sync(wait_until, lambda: refuses(port))
            servers.cancel_scope.cancel()

    run(backend, main)
    assert codes == ["UNAVAILABLE"]
    assert gate.ended.is_set()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_server_can_be_started_again(backend: str) -> None:
    """There is no global state, and the port is free at once."""

    async def main() -> None:
        server = GrpcServer(FakePlane(), Metrics(), Settings())
        port = 0
        for _ in range(2):
            async with anyio.create_task_group() as tasks:
                stop = anyio.Event()
                host, port = await tasks.start(partial(server.serve, port=port, shutdown_trigger=stop.wait))
                assert host == "127.0.0.1"
                await anyio.to_thread.run_sync(alive, port)
                stop.set()

    run(backend, main)


def test_a_server_serves_a_socket_that_was_bound_before() -> None:
    """So that a port can be taken before the models are loaded."""

    async def main() -> None:
        sock = bind("localhost", 0)
        port = sock.getsockname()[1]
        async with anyio.create_task_group() as tasks:
            stop = anyio.Event()
            server = GrpcServer(FakePlane(), Metrics(), Settings())
            assert (await tasks.start(partial(server.serve, sock=sock, shutdown_trigger=stop.wait)))[1] == port
            await anyio.to_thread.run_sync(alive, port)
            stop.set()
        assert sock.fileno() == -1

    anyio.run(main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_taken_port_is_named_and_nothing_is_started(backend: str) -> None:
    """With the setting that changes it; it comes as itself, in no group."""
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        server = GrpcServer(FakePlane(), Metrics(), Settings())
        with pytest.raises(StartupError, match=f"port {port} .* is taken .*grpc_port"):
            run(backend, partial(server.serve, port=port))


@pytest.mark.parametrize("host", ["256.256.256.256", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    """A name that is none, and an address of another machine."""
    with pytest.raises(StartupError, match=host):
        bind(host, 0)


def test_on_trio_without_trio_asyncio_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """grpclib knows asyncio only."""
    monkeypatch.setitem(sys.modules, "trio_asyncio", None)
    server = GrpcServer(FakePlane(), Metrics(), Settings())
    with pytest.raises(StartupError, match="pip install trio-asyncio"):
        anyio.run(partial(server.serve, port=0), backend="trio")


def alive(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=SECONDS).live


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), SECONDS).close()
    except ConnectionError:
        return True
    return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits for something that must become true."""
    pause = threading.Event()
    for _ in range(int(SECONDS * 100)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen")
