"""The standard services beside the protocol's: health and reflection."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from mlserve.wire.schema import schema_class, schema_pool
from tests.grpc_edge import BACKENDS, SECONDS, Running, serving

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = {
    "inference.GRPCInferenceService",
    "inference.model_repository.ModelRepositoryService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


@pytest.fixture(params=BACKENDS)
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(request.param) as running:
        yield running


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def asked(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


def test_health_of_the_server_and_of_models(server: Running, channel: grpc.Channel) -> None:
    """The empty name and the protocol's services are the server; other names are models."""
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "inference.GRPCInferenceService", "echo"):
        assert health.Check(asked(service), timeout=SECONDS).status == SERVING
    server.plane.is_ready = False
    server.plane.unready.add("echo")
    for service in ("", "inference.GRPCInferenceService", "echo"):
        assert health.Check(asked(service), timeout=SECONDS).status == NOT_SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(asked("nope"), timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_watching_health_tells_each_change(server: Running, channel: grpc.Channel) -> None:
    """A model that is not there yet may come later."""
    health = health_pb2_grpc.HealthStub(channel)
    states = health.Watch(asked("later"), timeout=SECONDS)
    assert next(states).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    server.plane.unready.add("later")
    server.plane.models["later"] = server.plane.models["echo"]
    assert next(states).status == NOT_SERVING
    server.plane.unready.clear()
    assert next(states).status == SERVING
    states.cancel()


def test_watching_ends_when_the_server_stops(server: Running, channel: grpc.Channel) -> None:
    """Otherwise a watcher would hold up the shutdown."""
    states = health_pb2_grpc.HealthStub(channel).Watch(asked(""), timeout=SECONDS)
    assert next(states).status == SERVING
    server.stop()
    with pytest.raises(grpc.RpcError) as caught:
        next(states)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_reflection_client_learns_the_schema(channel: grpc.Channel) -> None:
    """From v1alpha, as grpcio-reflection asks: services, their files, and messages that work."""
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == SERVICES
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    assert {"ModelInfer", "ModelStreamInfer", "RepositoryIndex"} <= set(service.methods_by_name)
    contents = pool.FindMessageTypeByName("inference.ModelInferRequest.InferInputTensor").fields_by_name["contents"]
    assert contents.message_type.full_name == "inference.InferTensorContents"
    for name in SERVICES:
        assert pool.FindServiceByName(name).full_name == name


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_every_question_has_its_answer(channel: grpc.Channel, version: str) -> None:
    """In order, on one stream; what is not there is an error in the stream, which goes on."""
    package = f"grpc.reflection.{version}"
    request_type = schema_class(f"{package}.ServerReflectionRequest")
    answer_type = schema_class(f"{package}.ServerReflectionResponse")
    call = channel.stream_stream(
        f"/{package}.ServerReflection/ServerReflectionInfo", request_type.SerializeToString, answer_type.FromString
    )
    extension = schema_class(f"{package}.ExtensionRequest")(
        containing_type="inference.InferParameter", extension_number=9
    )
    questions = [
        request_type(host="h", list_services="*"),
        request_type(file_by_filename="dataplane.proto"),
        request_type(file_by_filename="nope.proto"),
        request_type(file_containing_symbol="inference.GRPCInferenceService.ModelInfer"),
        request_type(file_containing_symbol="inference.GRPCInferenceService.Nope"),
        request_type(file_containing_symbol="inference.InferParameter"),
        request_type(all_extension_numbers_of_type="inference.InferParameter"),
        request_type(all_extension_numbers_of_type="inference.Nope"),
        request_type(file_containing_extension=extension),
        request_type(),
    ]
    answers = list(call(iter(questions), timeout=SECONDS))
    assert [one.original_request for one in answers] == questions
    assert {one.name for one in answers[0].list_services_response.service} == SERVICES
    assert answers[0].valid_host == "h"
    (file,) = answers[1].file_descriptor_response.file_descriptor_proto
    assert file == answers[3].file_descriptor_response.file_descriptor_proto[0]
    assert file == answers[5].file_descriptor_response.file_descriptor_proto[0]
    assert schema_pool().FindFileByName("dataplane.proto").serialized_pb == file
    assert answers[6].all_extension_numbers_response.base_type_name == "inference.InferParameter"
    codes = [one.error_response.error_code for one in answers]
    assert codes == [0, 0, 5, 0, 5, 0, 0, 5, 5, 3]
