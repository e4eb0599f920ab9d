"""Traces: what a collector gets to see of calls over REST and gRPC. The collector is a real gRPC server."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.settings import Settings
from mlserve.tracing import open_tracing
from tests.serving import Running, serving, write_model

pytestmark = pytest.mark.slow

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
REQUEST: dict[str, Any] = {
    "id": "r",
    "parameters": {"count": 3},
    "inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["a"]}],
}

RAISING = """
from mlserve import MLModel
from mlserve.errors import MLServeError
from mlserve.types import InferenceResponse


class Busy(MLServeError):
    http_status = 429


class Raising(MLModel):
    def predict(self, request):
        raise {"ValueError": ValueError, "Busy": Busy}[request.parameters.raises]("of the model")

    def predict_stream(self, requests):
        for request in requests:
            yield InferenceResponse(model_name=self.name, outputs=[])
            self.predict(request)
"""


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps all spans that are sent to it."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            self.services.add(names["service.name"])
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def wait(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """The spans of this name, as soon as there are so many."""
        end = time.monotonic() + 60
        while len(found := [span for span in self.spans if span.name == name]) < count:
            assert time.monotonic() < end, [span.name for span in self.spans]
            time.sleep(0.02)
        return [_plain(span) for span in found]


def _plain(span: Any) -> dict[str, Any]:
    attributes = {one.key: one.value.string_value or one.value.int_value for one in span.attributes}
    events = [event.name for event in span.events]
    return {
        **attributes,
        "trace": span.trace_id.hex(),
        "span": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "events": events,
        "status": span.status.message,
    }


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[Collector, str]]:
    server = grpc.server(ThreadPoolExecutor(4))
    servicer = Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def traced(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, collector: tuple[Collector, str]
) -> Iterator[tuple[Running, Collector]]:
    spans, address = collector
    folder = tmp_path_factory.mktemp("models")
    place = write_model(folder, "counter", "streaming_models.Counter", parameters={"version": "v1"})
    shutil.copy(Path(__file__).with_name("streaming_models.py"), place)
    (write_model(folder, "raising", "raising.Raising") / "raising.py").write_text(RAISING)
    variables = {"MLSERVER_TRACING_SERVER": address, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with serving(folder, "--backend", request.param, env=variables) as server:
        spans.spans.clear()
        yield server, spans
        assert server.stop() == 0


def test_a_call_continues_the_trace_of_its_caller(traced: tuple[Running, Collector]) -> None:
    server, collector = traced
    url = f"{server.rest}/v2/models/counter/versions/v1/infer"
    httpx.post(url, json=REQUEST, headers={"traceparent": PARENT}).raise_for_status()
    (span,) = collector.wait("infer counter")
    assert (span["trace"], span["parent"]) == (TRACE, "b7ad6b7169203331")
    assert span["mlserve.model.version"] == "v1"
    assert span["mlserve.request.id"] == "r"
    assert collector.services == {"mlserve"}


def test_a_stream_is_one_span_with_its_chunks(traced: tuple[Running, Collector]) -> None:
    server, collector = traced
    url = f"{server.rest}/v2/models/counter/generate_stream"
    assert httpx.post(url, json=REQUEST).text.count("data: ") == 3
    (span,) = collector.wait("infer_stream counter")
    assert (span["mlserve.chunks"], span["events"], span["parent"]) == (3, ["first chunk"], "")
    request = pb.ModelInferRequest(model_name="counter", id="g")
    request.parameters["count"].int64_param = 2
    with grpc.insecure_channel(server.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert len(list(stub.ModelStreamInfer(iter([request]), metadata=[("traceparent", PARENT)], timeout=60))) == 2
    _, span = collector.wait("infer_stream counter", 2)
    assert (span["trace"], span["mlserve.chunks"], span["mlserve.request.id"]) == (TRACE, 2, "g")


def test_a_failure_is_said_in_the_span(traced: tuple[Running, Collector]) -> None:
    server, collector = traced
    assert httpx.post(f"{server.rest}/v2/models/nobody/infer", json=REQUEST).status_code == 404
    (span,) = collector.wait("infer nobody")
    assert span["error.type"] == "ModelNotFound"
    assert "nobody" in span["status"]


def test_what_a_model_raises_is_named_in_the_span(traced: tuple[Running, Collector]) -> None:
    server, collector = traced
    request = {**REQUEST, "parameters": {"raises": "ValueError"}}
    url = f"{server.rest}/v2/models/raising"
    assert httpx.post(f"{url}/infer", json=request).status_code == 500
    assert '"status":500' in httpx.post(f"{url}/generate_stream", json=request).text
    assert httpx.post(f"{url}/infer", json={**REQUEST, "parameters": {"raises": "Busy"}}).status_code == 429
    (stream,) = collector.wait("infer_stream raising")
    failed, busy = collector.wait("infer raising", 2)
    assert (failed["error.type"], failed["status"]) == ("ValueError", "ValueError: of the model")
    assert (stream["error.type"], stream["mlserve.chunks"]) == ("ValueError", 1)
    assert (busy["error.type"], busy["status"]) == ("Busy", "of the model")


def test_a_stream_that_is_refused_has_a_span(traced: tuple[Running, Collector]) -> None:
    server, collector = traced
    path = f"{server.rest}/v2/models/nostream/generate_stream"
    assert httpx.post(path, json=REQUEST, headers={"traceparent": PARENT}).status_code == 404
    with grpc.insecure_channel(server.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for form in ("mlserver", "triton"):
            asked = iter([pb.ModelInferRequest(model_name="nostream", id=form)])
            metadata = [("traceparent", PARENT), ("mlserve-stream-response", form)]
            with suppress(grpc.RpcError):
                list(stub.ModelStreamInfer(asked, metadata=metadata, timeout=60))
    for span in collector.wait("infer_stream nostream", 3):
        assert (span["trace"], span["error.type"]) == (TRACE, "ModelNotFound")


def test_a_collector_that_does_not_answer_holds_no_end_up(tmp_path: Path) -> None:
    place = write_model(tmp_path, "counter", "streaming_models.Counter")
    shutil.copy(Path(__file__).with_name("streaming_models.py"), place)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        variables = {"MLSERVE_TRACING_SERVER": f"127.0.0.1:{silent.getsockname()[1]}", "OTEL_BSP_SCHEDULE_DELAY": "50"}
        variables["OTEL_EXPORTER_OTLP_TIMEOUT"] = "60"
        with serving(tmp_path, "--set", "shutdown_timeout_seconds=20", env=variables) as server:
            assert httpx.post(f"{server.rest}/v2/models/counter/infer", json=REQUEST).status_code == 200
            with silent.accept()[0]:
                assert server.stop(seconds=60) == 0
    assert "still run" not in server.output
    assert "the last spans did not reach" in server.output


def test_without_a_collector_calls_are_answered_and_the_server_ends(tmp_path: Path) -> None:
    place = write_model(tmp_path, "counter", "streaming_models.Counter")
    shutil.copy(Path(__file__).with_name("streaming_models.py"), place)
    with serving(tmp_path, env={"MLSERVE_TRACING_SERVER": "127.0.0.1:1"}) as server:
        assert httpx.post(f"{server.rest}/v2/models/counter/infer", json=REQUEST).status_code == 200
        assert server.stop() == 0


def test_without_its_packages_there_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    assert open_tracing(Settings(tracing_server="localhost:4317")) is None
    assert "pip install 'mlserve-core[tracing]'" in caplog.text
    assert open_tracing(Settings()) is None
