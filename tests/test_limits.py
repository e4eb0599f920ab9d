"""Limits and deadlines of a served model, over real sockets: how many calls, how much memory, how long."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import grpc
import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.intake import Intake
from mlserve.repository import ModelRepository
from mlserve.server import Server
from mlserve.settings import Settings
from tests.serving import write_model

MODELS = '''
import asyncio, time
from pathlib import Path
from mlserve import MLModel
from mlserve.handlers import custom_handler
from mlserve.types import InferenceResponse, ResponseOutput

HERE = Path(__file__).parent


def echo(model, request):
    with open(HERE / "seen.txt", "a") as seen:
        seen.write(f"{request.id}\\n")
    output = ResponseOutput(name="y", shape=[1], datatype="INT64", data=[1])
    return InferenceResponse(model_name=model.name, outputs=[output])


class Gated(MLModel):
    """Blocks its worker while the file "gate" is there."""

    def predict(self, request):
        answer = echo(self, request)
        while (HERE / "gate").exists():
            time.sleep(0.005)
        return answer

    @custom_handler(rest_path="/wait", rest_method="GET")
    async def wait(self):
        while (HERE / "gate").exists():
            time.sleep(0.005)
        return {}


class Awaiting(MLModel):
    """Says how many of its calls run side by side, at most; they wait while the file "gate" is there."""

    async def load(self):
        self.running = self.most = 0

    async def predict(self, request):
        self.running += 1
        self.most = max(self.most, self.running)
        while (HERE / "gate").exists():
            await asyncio.sleep(0.005)
        self.running -= 1
        output = ResponseOutput(name="most", shape=[1], datatype="INT64", data=[self.most])
        return InferenceResponse(model_name=self.name, outputs=[output])

    async def predict_stream(self, requests):
        async for request in requests:
            while True:
                await asyncio.sleep(0.05)
                yield echo(self, request)
'''
TENSOR = {"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}


class Served:
    """A server in a thread of this process."""

    def __init__(self, server: Server, folder) -> None:
        self.server = server
        self.folder = folder
        self.rest = "http://{}:{}".format(*server.addresses["http"])
        self.grpc = "{}:{}".format(*server.addresses["grpc"])

    @property
    def gate(self):
        return self.folder / "gated/gate"

    def infer(self, model: str, request_id: str = "", **headers: str) -> httpx.Response:
        body = {"id": request_id, "inputs": [TENSOR]}
        return httpx.post(f"{self.rest}/v2/models/{model}/infer", json=body, headers=headers)

    def seen(self) -> list[str]:
        path = self.folder / "gated/seen.txt"
        return path.read_text().split() if path.exists() else []


@contextmanager
def _served(folder, models: dict[str, dict[str, object]], **settings: object):
    for name, more in models.items():
        kind = str(more.pop("kind", name)).capitalize()
        (write_model(folder, name, f"models.{kind}", **more) / "models.py").write_text(MODELS)
    made = Settings(parallel_workers=0, host="127.0.0.1", http_port=0, grpc_port=0, metrics_endpoint=None, **settings)
    with start_blocking_portal("asyncio") as portal:
        ended, server = portal.start_task(Server(made, ModelRepository(folder)).run)
        try:
            yield Served(server, folder)
        finally:
            (folder / "gated/gate").unlink(missing_ok=True)
            portal.call(server.stop)
            ended.result(60)


def _until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_calls_beyond_the_queue_are_refused_at_once_on_every_way(tmp_path):
    with _served(tmp_path, {"gated": {"max_queue_size": 1}}) as served, ThreadPoolExecutor(4) as threads:
        served.gate.touch()
        running = threads.submit(served.infer, "gated", "running")
        _until(lambda: served.seen() == ["running"])
        waiting = threads.submit(served.infer, "gated", "waiting")
        model = served.server.models.find("gated")
        _until(lambda: model.pool.waiting_for(model.number) == 1)
        for answer in (
            served.infer("gated", "a"),
            httpx.post(f"{served.rest}/v2/models/gated/infer_stream", json={"inputs": [TENSOR]}),
            httpx.get(f"{served.rest}/wait"),
        ):
            assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
            assert "wait for model 'gated' already" in answer.json()["error"]
        with grpc.insecure_channel(served.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
            GRPCInferenceServiceStub(channel).ModelInfer(_message("gated"), timeout=60)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        served.gate.unlink()
        assert running.result().status_code == waiting.result().status_code == 200
        assert served.seen() == ["running", "waiting"]


def _message(model: str, request_id: str = "") -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=model, id=request_id)
    message.inputs.add(name="x", shape=[1], datatype="INT64").contents.int64_contents.append(1)
    return message


def test_an_asynchronous_model_runs_as_many_calls_side_by_side_as_it_may(tmp_path):
    with _served(tmp_path, {"awaiting": {"max_running_calls": 3}}) as served, ThreadPoolExecutor(12) as threads:
        gate = tmp_path / "awaiting/gate"
        gate.touch()
        calls = [threads.submit(served.infer, "awaiting", str(n)) for n in range(12)]
        model = served.server.models.find("awaiting")
        _until(lambda: model.pool.running_count == 3 and model.pool.waiting_for(model.number) == 9)
        gate.unlink()
        assert max(call.result().json()["outputs"][0]["data"][0] for call in calls) == 3


@pytest.mark.parametrize("batching", [{}, {"max_batch_size": 8, "max_batch_time": 0.01, "batch_eager": False}])
def test_a_call_whose_time_is_over_while_it_waits_is_told_so_and_never_run(tmp_path, batching):
    with _served(tmp_path, {"gated": batching}) as served, ThreadPoolExecutor(8) as threads:
        served.gate.touch()
        with grpc.insecure_channel(served.grpc) as channel:
            stub = GRPCInferenceServiceStub(channel)
            running = threads.submit(served.infer, "gated", "running")
            _until(lambda: served.seen() == ["running"])
            answer = served.infer("gated", "late", **{"X-Request-Timeout": "0.2"})
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(_message("gated", "late"), timeout=0.2)
        assert answer.status_code == 504 and "within 0.2 s" in answer.json()["error"]
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        served.gate.unlink()
        assert running.result().status_code == 200
        assert served.infer("gated", "after").status_code == 200
        assert "late" not in served.seen()


def test_the_shortest_of_header_model_and_server_holds(tmp_path):
    models = {"gated": {"request_timeout_seconds": 0.2}}
    with _served(tmp_path, models, request_timeout_seconds=5.0) as served:
        served.gate.touch()
        assert "within 0.2 s" in served.infer("gated").json()["error"]
        assert "within 0.1 s" in served.infer("gated", **{"X-Request-Timeout": "0.1"}).json()["error"]
        assert "within 0.2 s" in served.infer("gated", **{"X-Request-Timeout": "9"}).json()["error"]


def test_custom_handlers_and_streams_have_deadlines_too(tmp_path):
    models = {"gated": {}, "awaiting": {}}
    with _served(tmp_path, models) as served:
        served.gate.touch()
        answer = httpx.get(f"{served.rest}/wait", headers={"X-Request-Timeout": "0.2"})
        assert answer.status_code == 504
        served.gate.unlink()
        url = f"{served.rest}/v2/models/awaiting/infer_stream"
        for seconds in ("0.4", "4", "40"):  # a busy machine may need more for the first answers, or cut them off
            with suppress(httpx.RemoteProtocolError):
                answer = httpx.post(url, json={"inputs": [TENSOR]}, headers={"X-Request-Timeout": seconds})
                if answer.text.count("data: ") > 2:
                    break
        assert answer.text.count("data: ") > 2 and "event: error" in answer.text and f"{seconds} s" in answer.text


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "inf", "1s"])
@pytest.mark.parametrize("path", ["/v2/models/awaiting/infer", "/v2/models/awaiting/infer_stream", "/wait"])
def test_a_deadline_that_is_none_is_refused(refuser, path, text):
    method = "GET" if path == "/wait" else "POST"
    answer = httpx.request(
        method, f"{refuser.rest}{path}", json={"inputs": [TENSOR]}, headers={"X-Request-Timeout": text}
    )
    assert answer.status_code == 400 and "X-Request-Timeout" in answer.json()["error"]


@pytest.fixture(scope="module")
def refuser(tmp_path_factory):
    with _served(tmp_path_factory.mktemp("models"), {"gated": {}, "awaiting": {}}) as served:
        yield served


def test_large_bodies_share_a_bounded_memory_and_small_ones_need_none(tmp_path):
    size = 3 << 20
    with _served(tmp_path, {"awaiting": {}}, body_memory_bytes=8 << 20) as served:
        host, port = served.rest.removeprefix("http://").split(":")
        head = f"POST /v2/models/awaiting/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
        open_ones = [socket.create_connection((host, int(port))) for _ in range(2)]
        for sock in open_ones:
            sock.sendall(head + b" " * (size - 1))

        def large(size=size):
            tensor = {"name": "x", "shape": [1], "datatype": "BYTES", "data": ["a" * size]}
            return httpx.post(f"{served.rest}/v2/models/awaiting/infer", json={"inputs": [tensor]})

        message = pb.ModelInferRequest(model_name="awaiting")
        message.inputs.add(name="x", shape=[size], datatype="UINT8")
        message.raw_input_contents.append(bytes(size))
        with grpc.insecure_channel(served.grpc) as channel:
            stub = GRPCInferenceServiceStub(channel)
            _until(lambda: large().status_code == 429)
            assert "body_memory_bytes" in large().json()["error"]
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(message, timeout=60)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert served.infer("awaiting").status_code == 200
            for sock in open_ones:
                sock.close()
            _until(lambda: large(7 << 20).status_code == 200)  # which needs all of it
            for _ in range(10):  # nothing is counted twice, or never counted out
                assert large().status_code == 200
                assert stub.ModelInfer(message, timeout=60).outputs


def test_the_intake_counts_in_and_out():
    intake = Intake(10)
    assert intake.take(6) and not intake.take(5) and intake.take(4)
    intake.give(6)
    assert intake.held_bytes == 4


def test_hundreds_of_callers_that_leave_at_once_do_not_freeze_the_server(tmp_path):
    with _served(tmp_path, {"gated": {}, "awaiting": {}}) as served:
        served.gate.touch()
        host, port = served.rest.removeprefix("http://").split(":")
        body = json.dumps({"inputs": [TENSOR]}).encode()
        head = f"POST /v2/models/gated/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        socks = [socket.create_connection((host, int(port))) for _ in range(150)]
        for sock in socks:
            sock.sendall(head + body)
        model = served.server.models.find("gated")
        _until(lambda: model.pool.waiting_for(model.number) >= 149)
        closing = threading.Thread(target=lambda: [sock.close() for sock in socks])
        closing.start()
        assert httpx.get(f"{served.rest}/v2/health/live").status_code == 200
        closing.join()
        _until(lambda: model.pool.waiting_for(model.number) == 0)
        served.gate.unlink()
        assert served.infer("gated").status_code == 200
