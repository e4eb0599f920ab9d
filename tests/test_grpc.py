"""The gRPC edge over real sockets, with grpcio and tritonclient as clients, on both backends: calls and metadata."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
)
from mlserve.wire.schema import schema_class
from tests.grpc_calls import SERVICE, connected, failure, message
from tests.grpc_edge import BACKENDS, SECONDS, Running, serving


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
