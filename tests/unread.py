"""For tests of clients that do not read: a server whose answers are as large as one asks, and a client that waits."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from anyio.from_thread import start_blocking_portal

from mlserve.grpc import dataplane_pb2 as pb
from mlserve.repository import ModelRepository
from mlserve.server import Server
from mlserve.settings import Settings
from mlserve.unsent import Unsent
from tests.serving import write_model

MODELS = '''
import numpy as np
from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput


class Big(MLModel):
    """Answers with so many bytes; asked for -1, with how many chunks it has streamed."""

    async def load(self):
        self.streamed = 0

    def predict(self, request):
        count = int(request.inputs[0].data.to_numpy("INT64", [1])[0])
        values = np.zeros(count, np.uint8) if count >= 0 else np.array([self.streamed], np.uint8)
        output = ResponseOutput(name="y", shape=[len(values)], datatype="UINT8", data=values)
        return InferenceResponse(model_name=self.name, outputs=[output])

    async def predict_stream(self, requests):
        async for request in requests:
            for _ in range(100):
                self.streamed += 1
                yield self.predict(request)
'''
LARGE = 6 << 20  # an answer that the kernel does not keep for a connection


class Running:
    """A server in a thread of this process."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.unsent: Unsent = server.unsent
        self.http = server.addresses["http"]
        self.rest = "http://{}:{}".format(*self.http)
        self.grpc = "{}:{}".format(*server.addresses["grpc"])

    @property
    def waiting(self) -> int:
        """How many calls wait for the model."""
        model = self.server.models.find("big")
        return model.pool.waiting_for(model.number)

    def infer(self, size: int, **headers: str) -> httpx.Response:
        return httpx.post(f"{self.rest}/v2/models/big/infer", json=body(size), headers=headers, timeout=60)

    def ask(self, size: int, verb: str = "infer") -> socket.socket:
        """The connection of a client that has asked over HTTP/1.1, and does not read."""
        content = json.dumps(body(size)).encode()
        sock = connect(self.http)
        sock.sendall(
            f"POST /v2/models/big/{verb} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        )
        sock.sendall(content)
        return sock


@contextmanager
def served(folder: Any, backend: str = "asyncio", **settings: Any) -> Iterator[Running]:
    """A server with the model "big"; ended at once, whatever it still has to send."""
    (write_model(folder, "big", "models.Big") / "models.py").write_text(MODELS)
    made = Settings(parallel_workers=0, host="127.0.0.1", http_port=0, grpc_port=0, metrics_endpoint=None, **settings)
    with start_blocking_portal(backend, {"use_uvloop": True} if backend == "asyncio" else {}) as portal:
        ended, server = portal.start_task(Server(made, ModelRepository(folder)).run)
        try:
            yield Running(server)
        finally:
            portal.call(server.stop)
            portal.call(server.stop)
            ended.result(60)


def body(size: int) -> dict[str, Any]:
    """A request for an answer of so many bytes."""
    return {"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [size]}]}


def message(size: int) -> pb.ModelInferRequest:
    """The same for gRPC; the answer comes raw."""
    made = pb.ModelInferRequest(model_name="big")
    made.inputs.add(name="x", shape=[1], datatype="INT64")
    made.raw_input_contents.append(size.to_bytes(8, "little"))
    return made


def connect(address: tuple[str, int]) -> socket.socket:
    """A connection whose client side keeps little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(60)
    sock.connect(address)
    return sock


def until(condition: Callable[[], bool]) -> None:
    """Waits for something that must happen."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
