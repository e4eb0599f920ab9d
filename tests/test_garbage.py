"""Calls leave nothing behind that only a collection of garbage would free: no circles, whichever way they end.

And what stays for ever is spared by that: see mlserve/garbage.py.
"""

from __future__ import annotations

import gc
import gzip
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import dedent
from types import FrameType

import grpc
import httpx
import pytest
from anyio.from_thread import start_blocking_portal

import mlserve
from mlserve import garbage
from mlserve.repository import ModelRepository
from mlserve.server import Server
from mlserve.settings import Settings
from tests.grpc_calls import connected, message
from tests.serving import serving, write_model

CALLS = 40
BATCH = 4
MODELS = dedent(
    """
    import asyncio
    from starlette.responses import JSONResponse
    from mlserve import MLModel
    from mlserve.errors import MLServeError
    from mlserve.handlers import custom_handler
    from mlserve.types import InferenceResponse, ResponseOutput

    def answer(model, request):
        one = request.inputs[0]
        output = ResponseOutput(name="y", shape=one.shape, datatype=one.datatype, data=one.data)
        return InferenceResponse(model_name=model.name, outputs=[output])

    class Plain(MLModel):
        def predict(self, request):
            return answer(self, request)

        async def predict_stream(self, requests):
            async for request in requests:
                for _ in range(3):
                    yield answer(self, request)

        @custom_handler(rest_path="/handled")
        async def handled(self, request):
            return JSONResponse({"bytes": len(await request.body())})

        @custom_handler(rest_path="/fails")
        async def fails(self, request):
            raise MLServeError("no", 422)

    class Failing(MLModel):
        def predict(self, request):
            raise MLServeError("no", 422)

        async def predict_stream(self, requests):
            async for request in requests:
                yield answer(self, request)
                raise ValueError("none of ours")

    class Sound(MLModel):
        def predict(self, request):
            return answer(self, request)

    class Ill(MLModel):
        def predict(self, request):
            raise MLServeError("no", 422)

    class Slow(MLModel):
        async def predict(self, request):
            await asyncio.sleep(60)

        async def predict_stream(self, requests):
            async for request in requests:
                yield answer(self, request)
                await asyncio.sleep(60)
    """
)
TENSOR = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2.0]}
BODY = json.dumps({"inputs": [TENSOR]}).encode()

SERVICE = "/inference.GRPCInferenceService/"
OURS = str(Path(mlserve.__file__).parent)


class Edge:
    """A server in this process, and clients of it."""

    def __init__(self, server: Server) -> None:
        host, port = server.addresses["http"]
        self.http = httpx.Client(base_url=f"http://{host}:{port}", timeout=60)
        self.http2 = httpx.Client(base_url=f"http://{host}:{port}", timeout=60, http1=False, http2=True)
        self.port = port
        self.grpc_address = "{}:{}".format(*server.addresses["grpc"])
        self.server = server

    def post(self, model: str, verb: str = "infer", body: bytes = BODY, **headers: str) -> int:
        return self.http.post(f"/v2/models/{model}/{verb}", content=body, headers=headers).status_code

    def post2(self, model: str, verb: str = "infer") -> int:
        response = self.http2.post(f"/v2/models/{model}/{verb}", content=BODY)
        assert response.http_version == "HTTP/2"
        return response.status_code

    def leave(self, model: str, verb: str) -> None:
        """Asks, and is gone before the end of the answer."""
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            head = f"POST /v2/models/{model}/{verb} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n"
            client.sendall(head.encode() + BODY)
            if verb == "infer_stream":
                assert client.recv(16)

    def wait(self) -> None:
        """Until nothing is under way."""
        end = time.monotonic() + 60
        while any(pool.running_count or pool.waiting_count for pool in self.server.pools):
            assert time.monotonic() < end
            time.sleep(0.005)

    def rpc(self, model: str) -> None:
        """As many calls at once as make a batch."""
        stub = self.channel.unary_unary(SERVICE + "ModelInfer", _to_bytes, bytes)
        for call in [stub.future(message(model), timeout=60) for _ in range(BATCH)]:
            with suppress(grpc.RpcError):
                call.result()

    def rpc_stream(self, model: str) -> None:
        stub = self.channel.stream_stream(SERVICE + "ModelStreamInfer", _to_bytes, bytes)
        with suppress(grpc.RpcError):
            list(stub(iter([message(model)] * 2), timeout=60))


def _to_bytes(request: object) -> bytes:
    return request.SerializeToString()  # type: ignore[attr-defined]


@pytest.fixture(scope="module", params=[0, 1])
def edge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("garbage")
    for name in ("plain", "failing", "slow"):
        (write_model(folder, name, f"models.{name.capitalize()}") / "models.py").write_text(MODELS)
    batched = {"max_batch_size": BATCH, "max_batch_time": 60.0, "batch_eager": False}
    for name in ("sound", "ill"):
        (write_model(folder, name, f"models.{name.capitalize()}", **batched) / "models.py").write_text(MODELS)
    settings = Settings(
        parallel_workers=request.param, host="127.0.0.1", http_port=0, grpc_port=0, metrics_endpoint=None
    )
    with start_blocking_portal("asyncio") as portal:
        ended, server = portal.start_task(Server(settings, ModelRepository(folder)).run)
        made = Edge(server)
        try:
            with made.http, made.http2, connected(made.grpc_address) as made.channel:
                yield made
        finally:
            portal.call(server.stop)
            ended.result(60)


WAYS: dict[str, Callable[[Edge], int | None]] = {  # each gives the status of an answer over HTTP
    "infer": lambda edge: edge.post("plain"),
    "packed": lambda edge: edge.post("plain", body=gzip.compress(BODY), **{"Content-Encoding": "gzip"}),
    "stream": lambda edge: edge.post("plain", "infer_stream"),
    "HTTP/2": lambda edge: edge.post2("plain"),
    "HTTP/2 stream": lambda edge: edge.post2("plain", "infer_stream"),
    "handler": lambda edge: edge.http.post("/handled", content=b"xyz").status_code,
    "metadata": lambda edge: edge.http.get("/v2/models/plain").status_code,
    "gRPC": lambda edge: edge.rpc("plain"),
    "gRPC stream": lambda edge: edge.rpc_stream("plain"),
    "batch": lambda edge: edge.rpc("sound"),
    "left": lambda edge: edge.leave("slow", "infer"),
    "left stream": lambda edge: edge.leave("slow", "infer_stream"),
}
FAILING: dict[str, tuple[Callable[[Edge], int | None], int | None]] = {
    "failing": (lambda edge: edge.post("failing"), 422),
    "failing stream": (lambda edge: edge.post("failing", "infer_stream"), 200),
    "failing handler": (lambda edge: edge.http.post("/fails", content=b"xyz").status_code, 422),
    "refused": (lambda edge: edge.post("plain", body=b"{"), 400),
    "unknown": (lambda edge: edge.post("unknown"), 404),
    "late": (lambda edge: edge.post("slow", **{"X-Request-Timeout": "0.01"}), 504),
    "gRPC failing": (lambda edge: edge.rpc("failing"), None),
    "gRPC failing stream": (lambda edge: edge.rpc_stream("failing"), None),
    "gRPC unknown": (lambda edge: edge.rpc("unknown"), None),
    "failing batch": (lambda edge: edge.rpc("ill"), None),
}


@pytest.mark.parametrize("way", [*WAYS, *FAILING])
def test_a_call_leaves_no_circle(edge: Edge, way: str) -> None:
    ask, status = FAILING[way] if way in FAILING else (WAYS[way], 200)
    assert ask(edge) in (status, None)  # what is made once, is made now
    edge.wait()
    with collecting() as left:
        for _ in range(CALLS):
            ask(edge)
        edge.wait()
    assert not {kind: count for kind, count in left.items() if count >= CALLS // 2}


@contextmanager
def collecting() -> Iterator[Counter[str]]:
    """What is ours among the garbage that is made meanwhile, by kind; complete at the end."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found.update(filter(None, map(kind_of, gc.garbage)))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def kind_of(thing: object) -> str:
    if isinstance(thing, FrameType):
        return f"frame of {thing.f_code.co_name}" if thing.f_code.co_filename.startswith(OURS) else ""
    kind = type(thing)
    return kind.__qualname__ if kind.__module__.startswith("mlserve.") else ""


# -- what stays -------------------------------------------------------------------------------------------------------

STAYING = dedent(
    """
    import gc
    from pathlib import Path
    from mlserve import MLModel
    from mlserve.types import InferenceResponse, ResponseOutput

    class Part:
        def __init__(self, note):
            self.note = note
            self.itself = self

        def __del__(self):
            self.note.write_text("freed")

    class Staying(MLModel):
        async def load(self):
            self.part = Part(Path(__file__).with_name("note.txt"))
            return True

        async def predict(self, request):
            seen = any(one is self.part for one in gc.get_objects())
            values = [int(seen), gc.get_freeze_count()]
            output = ResponseOutput(name="y", shape=[2], datatype="INT64", data=values)
            return InferenceResponse(model_name=self.name, outputs=[output])
    """
)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_was_loaded_is_looked_at_no_more_and_freed_when_it_is_unloaded(tmp_path: Path, workers: int) -> None:
    folder = write_model(tmp_path, "staying", "models.Staying")
    (folder / "models.py").write_text(STAYING)
    with serving(tmp_path, "--parallel-workers", str(workers)) as server:
        seen, frozen = server.infer("staying", [1.0]).json()["outputs"][0]["data"]
        assert not seen
        assert frozen > 10_000
        assert httpx.post(f"{server.rest}/v2/repository/models/staying/unload", timeout=60).status_code == 200
        assert (folder / "note.txt").read_text() == "freed"


def test_a_process_that_is_not_ours_is_left_alone() -> None:
    """A server within a program of somebody's: what that has is its own business."""
    before = gc.get_freeze_count()
    garbage.set_aside()
    garbage.look_again()
    assert before == gc.get_freeze_count() == 0
