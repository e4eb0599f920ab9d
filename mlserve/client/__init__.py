"""A client for the Open Inference Protocol: `Client` and `AsyncClient`, over REST or gRPC by the scheme of the address.

    with Client("http://localhost:8080") as client:
        client.infer("iris", {"x": array}).outputs["predict"]

One implementation, the asynchronous one, on what the server needs anyway, so that a client costs no dependency:
httptools parses HTTP/1.1 on anyio's sockets (asyncio and trio), grpclib speaks gRPC (asyncio). `Client` runs it on an
event loop in a thread of its own: it works where a loop is running already (notebooks), all threads share its
connections, and a call costs a hop between threads, some 0.1 ms. httpx and grpcio would each be one more dependency,
and two ways to fail and to time out that this client would then have to hide.
"""

from __future__ import annotations

from mlserve.client.async_client import AsyncClient
from mlserve.client.faults import ClientError, Unavailable
from mlserve.client.result import InferResult
from mlserve.client.sync_client import Client

__all__ = ["AsyncClient", "Client", "ClientError", "InferResult", "Unavailable"]
