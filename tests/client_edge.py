"""Helpers for tests of the client: servers of a scripted data plane, and an HTTP server that says what it is told."""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from mlserve.client import Client
from mlserve.metrics import Metrics
from mlserve.rest.app import RestApp
from mlserve.settings import Settings
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    ResponseOutput,
)
from tests.grpc_edge import FakePlane
from tests.grpc_edge import serving as serving_grpc
from tests.http_edge import running as serving_http

SECONDS = 60.0  # more than anything here takes, also on a busy machine
KINDS = ("json", "binary", "grpc", "grpc-typed")


@contextmanager
def connected(kind: str, plane: FakePlane | None = None, **options: Any) -> Iterator[Client]:
    """A client of that kind on a server of a scripted data plane."""
    plane = plane or FakePlane()
    with address_of(kind, plane) as address, Client(address, binary=binary_of(kind), **options) as client:
        yield client


@contextmanager
def address_of(kind: str, plane: FakePlane) -> Iterator[str]:
    if kind.startswith("grpc"):
        with serving_grpc(plane=plane) as running:
            yield f"grpc://{running.address}"
    else:
        with serving_http("asyncio-fast", RestApp(plane, Metrics(), Settings())) as edge:
            yield f"http://127.0.0.1:{edge.address[1]}"


def binary_of(kind: str) -> bool | None:
    return {"binary": True, "grpc-typed": False}.get(kind)


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
