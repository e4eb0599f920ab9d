"""What answers of gRPC streams count among those that clients have not taken, and that it is given back."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator

import anyio
import h2.config
import h2.connection
import numpy as np
import pytest

from mlserve.grpc.streaming import STREAM_FORM_KEY
from mlserve.types import InferenceRequest, InferenceResponse, ResponseOutput
from mlserve.unsent import Unsent
from tests.grpc_calls import SERVICE, say
from tests.grpc_edge import BACKENDS, SECONDS, FakePlane, framed, serving
from tests.unread import until

_CHUNK = np.zeros(1 << 20, "u1")


class Client:
    """Asks for streams in Triton's form, on one HTTP/2 stream, and reads nothing until it has left."""

    def __init__(self, port: int) -> None:
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._sock = socket.create_connection(("127.0.0.1", port), SECONDS)
        self._h2.initiate_connection()
        fields = {":method": "POST", ":scheme": "http", ":path": f"/{SERVICE}/ModelStreamInfer", ":authority": "x"}
        fields |= {"te": "trailers", "content-type": "application/grpc", STREAM_FORM_KEY: "triton"}
        self._h2.send_headers(1, list(fields.items()))

    def ask(self, model: str, times: int = 1, *, cancel: bool = False) -> None:
        """Asks so many times, and resets the stream, in one segment."""
        for _ in range(times):
            self._h2.send_data(1, framed(say("x", model).SerializeToString()))
        if cancel:
            self._h2.reset_stream(1, 8)
        self._send()

    def cancel(self) -> None:
        self._h2.reset_stream(1, 8)
        self._send()

    def leave(self) -> None:
        """Closes the connection; returns when the server has, too."""
        self._sock.shutdown(socket.SHUT_WR)
        while self._sock.recv(1 << 16):
            pass
        self._sock.close()

    def _send(self) -> None:
        self._sock.sendall(self._h2.data_to_send())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_that_is_cancelled_and_whose_connection_closes_gives_back_all_that_waited(backend: str) -> None:
    """While its models still clean up, too."""
    cleaning, go = threading.Semaphore(0), threading.Event()

    async def large(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        try:
            while True:
                output = ResponseOutput(name="y", shape=[len(_CHUNK)], datatype="UINT8", data=_CHUNK)
                yield InferenceResponse(model_name="", outputs=[output])
        finally:
            cleaning.release()
            with anyio.CancelScope(shield=True):
                while not go.is_set():
                    await anyio.sleep(0.005)

    async def plain(request: InferenceRequest) -> InferenceResponse:
        return InferenceResponse(
            model_name="",
            outputs=[ResponseOutput(name="y", shape=[len(_CHUNK)], datatype="UINT8", data=_CHUNK)],
        )

    unsent = Unsent()
    with serving(backend, FakePlane(large=large, plain=plain), unsent=unsent) as server:
        client = Client(server.port)
        for model in ("large", "large", "plain"):
            client.ask(model)
        until(lambda: unsent.held_bytes > 8 * len(_CHUNK))
        client.cancel()
        assert all(cleaning.acquire(timeout=SECONDS) for _ in range(2))
        client.leave()  # on trio what waited may have been given back by now
        go.set()
        until(lambda: server.counted("grpc_server_handled_total") == 1)
        until(lambda: unsent.held_bytes == 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_calls_that_are_cancelled_before_their_first_step_give_back_the_room_that_was_kept_for_them(
    backend: str,
) -> None:
    async def plain(request: InferenceRequest) -> InferenceResponse:
        return InferenceResponse(
            model_name="",
            outputs=[ResponseOutput(name="y", shape=[len(_CHUNK)], datatype="UINT8", data=_CHUNK)],
        )

    unsent = Unsent(64 << 20)
    with serving(backend, FakePlane(plain=plain), unsent=unsent) as server:
        for _ in range(4):
            client = Client(server.port)
            client.ask("plain")
            until(lambda: unsent.held_bytes > len(_CHUNK) // 2)  # how large such answers are is known now
            client.ask("plain", times=20, cancel=True)
            client.leave()
            until(lambda: (unsent.held_bytes, unsent.ahead_bytes) == (0, 0))
