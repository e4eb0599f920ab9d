"""The gRPC edge over real sockets, with grpcio and tritonclient as clients, on both backends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from mlserve import errors
from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
    ResponseOutput,
)
from mlserve.wire.schema import schema_class
from tests.fake_dataplane import failing
from tests.grpc_edge import BACKENDS, SECONDS, FakePlane, Running, serving, wait_for

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture(params=BACKENDS)
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(request.param) as running:
        yield running


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", -1)]) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)


def message(model: str = "echo", values: Any = (1.5, 2.5), **more: Any) -> Any:
    request = pb.ModelInferRequest(model_name=model, **more)
    request.inputs.add(name="x", shape=[len(values)], datatype="FP32").contents.fp32_contents.extend(values)
    return request


def failure(call: Any, *args: Any, **more: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, timeout=more.pop("timeout", SECONDS), **more)
    return caught.value


# -- the calls --------------------------------------------------------------------------------------------------------


def test_health_and_metadata_of_the_server(server: Running, stub: GRPCInferenceServiceStub) -> None:
    """What the data plane says, in the protocol's messages."""
    assert stub.ServerLive(pb.ServerLiveRequest()).live is True
    assert stub.ServerReady(pb.ServerReadyRequest()).ready is True
    server.plane.is_ready = False
    assert stub.ServerReady(pb.ServerReadyRequest()).ready is False
    found = stub.ServerMetadata(pb.ServerMetadataRequest())
    assert (found.name, found.version, list(found.extensions)) == ("mlserve", "0", [])


def test_readiness_of_a_model(server: Running, stub: GRPCInferenceServiceStub) -> None:
    """True, false, and NOT_FOUND for a name or version that there is not."""
    server.plane.versions["echo"] = ("v1",)
    assert stub.ModelReady(pb.ModelReadyRequest(name="echo", version="v1")).ready is True
    server.plane.unready.add("echo")
    assert stub.ModelReady(pb.ModelReadyRequest(name="echo")).ready is False
    for name, version in (("nope", ""), ("echo", "v9")):
        error = failure(stub.ModelReady, pb.ModelReadyRequest(name=name, version=version))
        assert error.code() is grpc.StatusCode.NOT_FOUND


def test_metadata_of_a_model(server: Running, stub: GRPCInferenceServiceStub) -> None:
    """Tensors with their parameters, which falsy values do not drop out of."""
    tensor = MetadataTensor(
        name="s",
        datatype="BYTES",
        shape=[-1, 2],
        parameters=Parameters(content_type="str", flag=False, count=0, share=0.0, none=None, nested={}),
    )
    server.plane.metadata["echo"] = MetadataModelResponse(
        name="echo", versions=["a/1", "a/2"], platform="p", inputs=[tensor], outputs=[], parameters=Parameters(k="v")
    )
    found = stub.ModelMetadata(pb.ModelMetadataRequest(name="echo"))
    assert (found.name, found.platform, list(found.versions)) == ("echo", "p", ["a/1", "a/2"])
    (one,) = found.inputs
    assert (one.name, one.datatype, list(one.shape)) == ("s", "BYTES", [-1, 2])
    kinds = {key: value.WhichOneof("parameter_choice") for key, value in one.parameters.items()}
    assert kinds == {
        "content_type": "string_param",
        "flag": "bool_param",
        "count": "int64_param",
        "share": "double_param",
    }
    assert found.parameters["k"].string_param == "v" and not found.outputs


@pytest.mark.parametrize("service", [SERVICE, "inference.model_repository.ModelRepositoryService"])
def test_repository_calls_under_both_services(server: Running, channel: grpc.Channel, service: str) -> None:
    """The states are spelled as in the protocol."""

    def call(name: str, **fields: Any) -> Any:
        package = "inference" if service == SERVICE else "inference.model_repository"
        request_type, answer_type = (schema_class(f"{package}.{name}{end}") for end in ("Request", "Response"))
        serialize = request_type.SerializeToString
        method = channel.unary_unary(f"/{service}/{name}", serialize, answer_type.FromString)
        return method(request_type(**fields), timeout=SECONDS)

    server.plane.models["other"] = server.plane.models["echo"]
    server.plane.unready.add("other")
    found = call("RepositoryIndex").models
    assert [(one.name, one.state) for one in found] == [("echo", "READY"), ("other", "UNAVAILABLE")]
    assert [one.name for one in call("RepositoryIndex", ready=True).models] == ["echo"]
    call("RepositoryModelLoad", model_name="other")
    call("RepositoryModelUnload", model_name="echo")
    assert server.plane.repository == ["load other", "unload echo"]
    with pytest.raises(grpc.RpcError) as caught:
        call("RepositoryModelLoad", model_name="nope")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_typed_requests_get_typed_answers_and_raw_ones_raw_answers(stub: GRPCInferenceServiceStub) -> None:
    """With id and parameters as they came."""
    sent = message(id="7")
    sent.parameters["content_type"].string_param = "np"
    sent.inputs[0].parameters["flag"].bool_param = False
    answer = stub.ModelInfer(sent)
    assert (answer.model_name, answer.id, answer.parameters["content_type"].string_param) == ("echo", "7", "np")
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("x", "FP32", [2])
    assert list(output.contents.fp32_contents) == [1.5, 2.5] and not answer.raw_output_contents
    assert output.parameters["flag"].WhichOneof("parameter_choice") == "bool_param"

    sent.inputs[0].ClearField("contents")
    sent.raw_input_contents.append(np.float32([1.5, 2.5]).tobytes())
    answer = stub.ModelInfer(sent)
    assert list(answer.raw_output_contents) == [np.float32([1.5, 2.5]).tobytes()]
    assert answer.outputs[0].HasField("contents") and not answer.outputs[0].contents.ListFields()


def test_a_version_is_passed_on(server: Running, stub: GRPCInferenceServiceStub) -> None:
    """And comes back with the answer."""
    server.plane.versions["echo"] = ("v1", "v2")
    assert stub.ModelInfer(message(model_version="v1")).model_version == "v1"
    assert stub.ModelInfer(message()).model_version == "v2"
    assert failure(stub.ModelInfer, message(model_version="v9")).code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT64", "FP16", "FP32", "FP64", "BYTES"])
def test_tritonclient_gets_back_what_it_sent(server: Running, datatype: str) -> None:
    """Raw tensors of every kind, empty ones too."""
    client = triton.InferenceServerClient(server.address)
    for shape in ([2, 3], [0, 3]):
        array = np.arange(np.prod(shape)).reshape(shape)
        if datatype == "BYTES":
            array = np.array([b"\0", "é".encode(), b"", b"a", b"b", b"c"][: array.size], object).reshape(shape)
        else:
            array = array.astype(triton_dtype(datatype))
        tensor = triton.InferInput("x", shape, datatype)
        tensor.set_data_from_numpy(array)
        found = client.infer("echo", [tensor]).as_numpy("x")
        assert found is not None and found.tolist() == array.tolist()
    client.close()


def triton_dtype(datatype: str) -> Any:
    from tritonclient.utils import triton_to_np_dtype

    return triton_to_np_dtype(datatype)


# -- metadata ---------------------------------------------------------------------------------------------------------


def test_metadata_of_the_client_become_headers(server: Running, stub: GRPCInferenceServiceStub) -> None:
    """Several values of a name are joined; binary ones are bytes, the last of each name; what belongs to the transport stays there."""
    metadata = [("x-one", "1"), ("x-two", "a"), ("x-two", "b"), ("x-some-bin", b"\x00\xff"), ("x-empty", "")]
    metadata += [("x-more-bin", b"first"), ("x-more-bin", b"last")]
    stub.ModelInfer(message(), metadata=metadata)
    headers = server.plane.calls[-1][2].parameters.headers
    assert headers is not None
    assert headers.pop("user-agent").startswith("grpc-python")
    assert headers == {"x-one": "1", "x-two": "a,b", "x-some-bin": b"\x00\xff", "x-more-bin": b"last", "x-empty": ""}


def test_a_parameter_called_headers_is_overwritten(server: Running, stub: GRPCInferenceServiceStub) -> None:
    """Headers are what came as metadata."""
    sent = message()
    sent.parameters["headers"].string_param = "made up"
    stub.ModelInfer(sent, metadata=[("x-real", "1")])
    headers = server.plane.calls[-1][2].parameters.headers
    assert headers is not None and headers["x-real"] == "1"


def test_headers_of_the_response_become_trailing_metadata(server: Running, stub: GRPCInferenceServiceStub) -> None:
    """What metadata cannot hold is percent-encoded; what cannot be a name is left out."""
    headers = {
        "X-Plain": "as it is, 100%",
        "x-line": "a\nb",
        "x-name": "名",
        "x-octets-bin": "AP8=",
        "x-more-bin": b"\x01",
        "x-wrong-bin": "?",
        "grpc-status": "5",
        "content-type": "text/html",
        "wrong name": "x",
        "x-number": 5,
    }

    def model(request: InferenceRequest) -> InferenceResponse:
        return InferenceResponse(model_name="", outputs=[], parameters=Parameters(headers=headers, kept=1))

    server.plane.models["headers"] = model
    answer, call = stub.ModelInfer.with_call(message("headers", id="golden"))
    assert list(answer.parameters) == ["kept"]
    assert call.initial_metadata() == ()
    assert dict(call.trailing_metadata()) == {
        "x-plain": "as it is, 100%",
        "x-line": "a%0Ab",
        "x-name": "%E5%90%8D",
        "x-octets-bin": b"\x00\xff",
        "x-more-bin": b"\x01",
        "x-number": "5",
        "ce-id": "golden",
        "ce-endpoint": "headers",
    }


def test_an_id_or_model_that_is_no_ascii_does_no_harm(server: Running, stub: GRPCInferenceServiceStub) -> None:
    """Both go into the trailing metadata."""
    server.plane.models["odd 名前"] = server.plane.models["echo"]
    answer = stub.ModelInfer(message("odd 名前", id="a\nb"))
    assert (answer.model_name, answer.id) == ("odd 名前", "a\nb")


def test_the_deadline_of_the_client_is_passed_on(server: Running, stub: GRPCInferenceServiceStub) -> None:
    """As seconds that are left; none without a deadline. grpcio rounds what it sends up, to a few digits."""
    stub.ModelInfer(message(), timeout=50)
    left = server.plane.calls[-1][3]
    assert left is not None and 40 < left <= 51
    stub.ModelInfer(message())
    assert server.plane.calls[-1][3] is None


# -- errors -----------------------------------------------------------------------------------------------------------

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
        call = stub.ModelInfer.future(message("waiting"), timeout=0.2 if leave == "deadline" else None)
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


# -- sizes and compression --------------------------------------------------------------------------------------------


def raw_message(array: Any, model: str = "echo") -> Any:
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[array.tobytes()])
    request.inputs.add(name="x", shape=array.shape, datatype="FP32")
    return request


@pytest.mark.parametrize("size", [10_000, 1_000_000, 5_000_000])
def test_large_tensors_come_back_whole(stub: GRPCInferenceServiceStub, size: int) -> None:
    """In frames of any size, past the windows of both sides."""
    array = np.random.default_rng(1).random(size, dtype="f4")
    calls = [stub.ModelInfer.future(raw_message(array + at), timeout=SECONDS) for at in range(2)]
    for at, call in enumerate(calls):
        assert call.result().raw_output_contents[0] == (array + at).tobytes()


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("size", [10, 100_000])
def test_packed_messages_are_read_and_answered_in_kind(
    stub: GRPCInferenceServiceStub, algorithm: grpc.Compression, size: int
) -> None:
    """Small ones as well as those that are unpacked beside the event loop."""
    for array in (np.zeros(size, "f4"), np.random.default_rng(1).random(size, dtype="f4")):
        answer = stub.ModelInfer(raw_message(array), compression=algorithm)
        assert answer.raw_output_contents[0] == array.tobytes()


def test_an_answer_is_packed_only_for_clients_that_pack_and_where_it_pays(server: Running) -> None:
    """Seen from the side of the wire: grpcio unpacks unseen."""
    from mlserve.grpc.compression import pack
    from tests.grpc_edge import DATA, END_HEADERS, END_STREAM, HEADERS, frame, framed, talk

    zeros, noise = np.zeros(5_000, "f4"), np.random.default_rng(1).random(5_000, dtype="f4")

    def flag_of(array: Any, encoding: str, accept: str, packed: bool) -> int:
        fields = [
            (":method", "POST"), (":scheme", "http"), (":path", f"/{SERVICE}/ModelInfer"), (":authority", "a"),
            ("te", "trailers"), ("content-type", "application/grpc"), ("grpc-accept-encoding", accept),
            *([("grpc-encoding", encoding)] if encoding else []),
        ]  # fmt: skip
        body = raw_message(array).SerializeToString()
        if packed:
            body = pack([body], len(body), encoding) or body
        data = framed(body, int(packed))
        heard = talk(
            server.port,
            lambda encoder: frame(HEADERS, END_HEADERS, 1, encoder.encode(fields)) + frame(DATA, END_STREAM, 1, data),
            lambda heard: heard.status() is not None,
        )
        assert heard.status() == "0"
        return heard.data()[0]

    assert flag_of(zeros, "gzip", "identity, gzip", packed=True) == 1
    assert flag_of(zeros, "deflate", "deflate", packed=True) == 1
    assert flag_of(zeros, "", "identity,deflate,gzip", packed=False) == 0
    assert flag_of(zeros, "gzip", "identity", packed=True) == 0
    assert flag_of(np.concatenate([noise, zeros[:1]]), "gzip", "gzip", packed=False) == 0


def test_the_limit_holds_before_and_after_unpacking() -> None:
    """`max_body_bytes`, unless `grpc_max_message_length` is set."""
    small, large = np.zeros(100, "f4"), np.zeros(10_000, "f4")
    for settings in ({"max_body_bytes": 4096}, {"grpc_max_message_length": 4096}):
        with serving(**settings) as server, grpc.insecure_channel(server.address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            for compression in (None, grpc.Compression.Gzip):
                error = failure(stub.ModelInfer, raw_message(large), compression=compression)
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert "4096" in (error.details() or "")
                assert len(stub.ModelInfer(raw_message(small), compression=compression).outputs) == 1
    unlimited = serving(max_body_bytes=4096, grpc_max_message_length=-1)
    with unlimited as server, grpc.insecure_channel(server.address) as channel:
        assert len(GRPCInferenceServiceStub(channel).ModelInfer(raw_message(large)).outputs) == 1


# -- metrics ----------------------------------------------------------------------------------------------------------


def test_calls_are_counted_under_the_names_of_mlserver(server: Running, stub: GRPCInferenceServiceStub) -> None:
    """Type, service and method; the code by name; nothing for methods that a client makes up."""
    stub.ModelInfer(message())
    failure(stub.ModelInfer, message("nope"))
    list(stub.ModelStreamInfer(iter([message()])))
    failure(_made_up(server), b"")
    unary = {"grpc_type": "UNARY", "grpc_service": SERVICE, "grpc_method": "ModelInfer"}
    bidi = {"grpc_type": "BIDI_STREAMING", "grpc_service": SERVICE, "grpc_method": "ModelStreamInfer"}
    assert server.counted("grpc_server_started_total", **unary) == 2
    assert server.counted("grpc_server_handled_total", **unary, grpc_code="OK") == 1
    assert server.counted("grpc_server_handled_total", **unary, grpc_code="NOT_FOUND") == 1
    assert server.counted("grpc_server_handling_seconds_count", **unary) == 2
    assert server.counted("grpc_server_handled_total", **bidi, grpc_code="OK") == 1
    assert server.counted("grpc_server_msg_received_total", **bidi) == 1
    assert server.counted("grpc_server_msg_sent_total", **bidi) == 1
    assert server.counted("grpc_server_started_total") == 3


def _made_up(server: Running) -> Any:
    def call(request: bytes, timeout: float) -> None:
        with grpc.insecure_channel(server.address) as channel:
            channel.unary_unary("/made.Up/Call")(request, timeout=timeout)

    return call


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
