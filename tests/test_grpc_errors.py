"""gRPC calls that fail, are refused, or whose clients leave early, over real sockets on both backends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import anyio
import grpc
import numpy as np
import pytest

from mlserve import errors
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    ResponseOutput,
)
from tests.fake_dataplane import failing
from tests.grpc_calls import SERVICE, connected, failure, message
from tests.grpc_edge import BACKENDS, SECONDS, FakePlane, Running, serving, wait_for


@pytest.fixture(params=BACKENDS)
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(request.param) as running:
        yield running


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    with connected(server.address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)


PUSHBACK = {"full": "1000", "gone": "-1", "none": "2500", "stop": "1000", "quota": "-1"}  # "-1" is: never
RAISED = [
    (errors.InvalidRequest("no 名 100%"), "INVALID_ARGUMENT"),
    (errors.InferenceError("no"), "INVALID_ARGUMENT"),
    (errors.ModelNotFound("m"), "NOT_FOUND"),
    (errors.ModelNotReady("m"), "FAILED_PRECONDITION"),
    (errors.ModelError("no"), "INTERNAL"),
    (errors.DeadlineExceeded("late"), "DEADLINE_EXCEEDED"),
    (errors.Overloaded("full"), "RESOURCE_EXHAUSTED"),
    (errors.WorkerDied("gone"), "UNAVAILABLE"),
    (errors.NoWorker("none", 2.5), "UNAVAILABLE"),
    (errors.MLServeError("quota", 429), "RESOURCE_EXHAUSTED"),
    (errors.ServerStopping("stop"), "UNAVAILABLE"),
    (errors.MLServeError("teapot", 418), "INVALID_ARGUMENT"),
    (errors.MLServeError("conflict", 409), "ABORTED"),
    (ValueError("in the model"), "INTERNAL"),
]


@pytest.mark.parametrize(("error", "code"), RAISED, ids=[f"{type(one).__name__}-{code}" for one, code in RAISED])
def test_errors_become_statuses(error: Exception, code: str) -> None:
    """With their message, whatever characters it has, and no metadata but whether, and when, to send the call again."""
    with serving(plane=FakePlane(failing=failing(error))) as server, grpc.insecure_channel(server.address) as channel:
        found = failure(GRPCInferenceServiceStub(channel).ModelInfer, message("failing"))
    assert found.code().name == code
    assert str(error) in (found.details() or "")
    pushback = PUSHBACK.get(str(error))
    assert found.trailing_metadata() == ((("grpc-retry-pushback-ms", pushback),) if pushback else ())


def test_a_content_type_that_is_no_text_does_not_reach_the_model(stub: GRPCInferenceServiceStub) -> None:
    request = message()
    request.inputs[0].parameters["content_type"].int64_param = 3
    found = failure(stub.ModelInfer, request)
    assert found.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert found.details() == "inputs[0].parameters.content_type: expected a text, got 3"


def test_an_unexpected_error_says_nothing_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """No traceback, no text of a bug of ours reaches the client."""

    async def broken(request: InferenceRequest) -> InferenceResponse:
        raise KeyError("secret")

    with serving(plane=FakePlane(broken=broken)) as server, grpc.insecure_channel(server.address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        found = failure(stub.ModelInfer, message("broken"))
        assert stub.ModelInfer(message()).id == "an-id"
    assert found.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (found.details() or "")
    assert [one.exc_info is not None for one in caplog.records if one.levelno >= logging.ERROR] == [True]


def test_a_long_message_is_shortened_to_what_clients_take(server: Running, stub: GRPCInferenceServiceStub) -> None:
    """grpcio refuses trailers over 8 KiB, and shows another error instead."""
    server.plane.models["failing"] = failing(errors.InvalidRequest("名" * 2_000 + "x" * 100_000))
    found = failure(stub.ModelInfer, message("failing"))
    assert found.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "(shortened)" in (found.details() or "")


@pytest.mark.parametrize(
    ("method", "request_bytes", "code"),
    [
        (f"{SERVICE}/ModelInfer", b"\xff\xff\xff\xff", "INVALID_ARGUMENT"),
        (f"{SERVICE}/ModelInfer", b"\x0a\x02\xff\xfe", "INVALID_ARGUMENT"),
        (f"{SERVICE}/ModelInfer", b"", "NOT_FOUND"),
        (f"{SERVICE}/ModelReady", b"\x0a\x02\xff\xfe", "INVALID_ARGUMENT"),
        (f"{SERVICE}/ModelReady", b"\xff\xff\xff\xff", "INVALID_ARGUMENT"),
        (f"{SERVICE}/ModelStatistics", b"", "UNIMPLEMENTED"),
        (f"{SERVICE}/SystemSharedMemoryStatus", b"", "UNIMPLEMENTED"),
        (f"{SERVICE}/Nope", b"", "UNIMPLEMENTED"),
        ("some.Service/ModelInfer", b"", "UNIMPLEMENTED"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    channel: grpc.Channel, method: str, request_bytes: bytes, code: str
) -> None:
    """Broken messages, invalid UTF-8, methods that there are not."""
    assert failure(channel.unary_unary(f"/{method}"), request_bytes).code().name == code


# -- leaving early ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", ["cancel", "deadline", "close"])
def test_a_call_ends_when_its_client_leaves(server: Running, leave: str) -> None:
    """The model's task is cancelled; the metrics say CANCELLED."""
    began, ended = threading.Event(), threading.Event()

    async def waiting(request: InferenceRequest) -> InferenceResponse:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    server.plane.models["waiting"] = waiting
    with grpc.insecure_channel(server.address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        grpc.channel_ready_future(channel).result(60)
        call = stub.ModelInfer.future(message("waiting"), timeout=2.0 if leave == "deadline" else None)
        wait_for(began)
        if leave == "cancel":
            call.cancel()
        elif leave == "close":
            channel.close()
        wait_for(ended)
    server.stop()
    wait_for(server.ended)
    assert server.counted("grpc_server_handled_total", grpc_code="OK") == 0
    assert server.counted("grpc_server_handled_total") == 1


def test_many_calls_at_once_are_all_answered(stub: GRPCInferenceServiceStub) -> None:
    """More than HTTP/2's usual 100 streams."""
    calls = [stub.ModelInfer.future(message(id=str(at)), timeout=SECONDS) for at in range(300)]
    assert [one.result().id for one in calls] == [str(at) for at in range(300)]


def test_a_response_may_have_outputs_of_no_client_form(server: Running, stub: GRPCInferenceServiceStub) -> None:
    """FP16 has no typed form: the whole answer is raw then."""

    def model(request: InferenceRequest) -> InferenceResponse:
        half = ResponseOutput(name="h", shape=[1], datatype="FP16", data=np.float16([0.5]))
        full = ResponseOutput(name="f", shape=[1], datatype="FP32", data=np.float32([0.5]))
        return InferenceResponse(model_name="", outputs=[half, full])

    server.plane.models["half"] = model
    answer = stub.ModelInfer(message("half"))
    assert list(answer.raw_output_contents) == [np.float16(0.5).tobytes(), np.float32(0.5).tobytes()]


def test_an_output_that_is_not_what_it_says_is_the_models_fault(
    server: Running, stub: GRPCInferenceServiceStub
) -> None:
    """INTERNAL, and the model is named."""

    def model(request: InferenceRequest) -> InferenceResponse:
        return InferenceResponse(
            model_name="", outputs=[ResponseOutput(name="o", shape=[1], datatype="UINT8", data=[300])]
        )

    server.plane.models["wrong"] = model
    found = failure(stub.ModelInfer, message("wrong"))
    assert found.code() is grpc.StatusCode.INTERNAL
    assert "wrong" in (found.details() or "") and "300" in (found.details() or "")
