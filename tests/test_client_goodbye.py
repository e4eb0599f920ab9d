"""The client over gRPC when its server leaves: calls under way finish, others begin on a new connection."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

import anyio
import h2.config
import h2.connection
import h2.events
import pytest

from mlserve.client import Client, ClientError
from mlserve.types import InferenceRequest
from tests.fake_dataplane import echo
from tests.grpc_edge import FakePlane, framed, serving

SECONDS = 60.0


class Waiting:
    """A model that answers when it may."""

    def __init__(self) -> None:
        self.begun, self.may = threading.Event(), threading.Event()

    async def __call__(self, request: InferenceRequest) -> Any:
        self.begun.set()
        await anyio.to_thread.run_sync(self.may.wait, SECONDS)
        return echo(request)

    async def stream(self, request: InferenceRequest) -> Any:
        yield echo(request)
        yield await self(request)


def infer(client: Client) -> list[Any]:
    return [client.infer("waits", [7.0])]


def stream(client: Client) -> list[Any]:
    return list(client.stream("streams", [7.0]))


@pytest.mark.parametrize("call", [infer, stream])
def test_a_call_under_way_finishes_though_the_server_leaves(call: Callable[[Client], list[Any]]) -> None:
    model = Waiting()
    answers: queue.Queue[Any] = queue.Queue()
    plane = FakePlane(waits=model, streams=model.stream)
    with serving(plane=plane) as server, Client(f"grpc://{server.address}", retries=0) as client:

        def run() -> None:
            try:
                answers.put(call(client))
            except Exception as error:
                answers.put(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert model.begun.wait(SECONDS)
        server.stop()
        told = ""
        while "cannot connect" not in told:  # until the goodbye has arrived: the first connection is not used any more
            try:
                client.server_live()
            except ClientError as error:
                told = str(error)  # it may also have come while this was on its way
        model.may.set()
        thread.join(SECONDS)
        found = answers.get_nowait()
    assert isinstance(found, list), found
    assert [one.outputs["input-1"].item() for one in found] == [7.0] * len(found) and found


class Leaver:
    """Says goodbye on its first connection when a call has come, and answers it on the second one."""

    def __init__(self, last_stream_id: int, error_code: int = 0) -> None:
        self.calls: list[int] = []  # streams, one list for all connections
        self._goodbye = (last_stream_id, error_code)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"grpc://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for number in range(2):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._talk(connection, is_first=number == 0)

    def _talk(self, connection: socket.socket, is_first: bool) -> None:
        protocol = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        protocol.initiate_connection()
        connection.sendall(protocol.data_to_send())
        while data := connection.recv(1 << 16):
            for event in protocol.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    self.calls.append(event.stream_id)
                if isinstance(event, h2.events.StreamEnded) and is_first:
                    last, code = self._goodbye
                    protocol.close_connection(code, last_stream_id=last)
                    connection.sendall(protocol.data_to_send())
                    while connection.recv(1 << 16):
                        pass  # until the client closes it
                    return
                if isinstance(event, h2.events.StreamEnded):
                    protocol.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
                    protocol.send_data(event.stream_id, framed(b"\x08\x01"))
                    protocol.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
            connection.sendall(protocol.data_to_send())

    def __enter__(self) -> Leaver:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


def test_a_call_that_the_leaving_server_did_not_take_is_sent_again_on_a_new_connection() -> None:
    with Leaver(last_stream_id=0) as server, Client(server.address) as client:
        assert client.server_live()
        assert server.calls == [1, 1]


def test_a_connection_is_closed_once_its_last_call_has_ended() -> None:
    """The server would wait for ever otherwise: it takes its second connection when the first one is closed."""
    with Leaver(last_stream_id=0) as server, Client(server.address, retries=0) as client:
        with pytest.raises(ClientError):
            client.server_live()
        assert client.server_live()


def test_a_server_that_leaves_in_anger_breaks_its_calls() -> None:
    with (
        Leaver(last_stream_id=1, error_code=2) as server,
        Client(server.address, retries=0) as client,
        pytest.raises(ClientError, match="connection broke"),
    ):
        client.server_live()
