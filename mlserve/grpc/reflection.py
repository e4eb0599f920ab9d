"""Server reflection, v1 and v1alpha: what grpcurl and its kin ask to learn our services and messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import betterproto
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpclib.const import Handler, Status

from mlserve.wire._proto.grpc.reflection import v1
from mlserve.wire.schema import schema_pool

__all__ = ["ReflectionService"]

_V1, _V1ALPHA = "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"


class ReflectionService(v1.ServerReflectionBase):
    """Answers from our own descriptor pool, which has the schema as protos/ write it."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = sorted({*services, _V1, _V1ALPHA})

    def __mapping__(self) -> dict[str, Handler]:
        """The one method, under both names: the messages of the two versions are the same."""
        (handler,) = super().__mapping__().values()
        return {f"/{name}/ServerReflectionInfo": handler for name in (_V1, _V1ALPHA)}

    async def server_reflection_info(
        self, server_reflection_request_iterator: AsyncIterator[Any]
    ) -> AsyncIterator[Any]:
        """One answer for each question."""
        async for request in server_reflection_request_iterator:
            answer = self._answer(request)
            answer.valid_host, answer.original_request = request.host, request
            yield answer

    def _answer(self, request: Any) -> Any:
        kind, value = betterproto.which_one_of(request, "message_request")
        name = str(value)
        pool = schema_pool()
        try:
            if kind == "list_services":
                services = [v1.ServiceResponse(name=name) for name in self._services]
                return v1.ServerReflectionResponse(list_services_response=v1.ListServiceResponse(service=services))
            if kind == "file_by_filename":
                return _file(pool.FindFileByName, name)
            if kind == "file_containing_symbol":
                return _file(_file_of_symbol, name)
            if kind == "all_extension_numbers_of_type":
                full_name = pool.FindMessageTypeByName(name).full_name
                found = v1.ExtensionNumberResponse(base_type_name=full_name)
                return v1.ServerReflectionResponse(all_extension_numbers_response=found)
            if kind == "file_containing_extension":
                raise KeyError("the protocol has no extensions")
        except KeyError as error:
            return _error(Status.NOT_FOUND, str(error.args[0]))
        return _error(Status.INVALID_ARGUMENT, "the request asks for nothing")


def _file_of_symbol(symbol: str) -> Any:
    """The file that declares a symbol; protobuf's pools do not find methods and fields."""
    pool = schema_pool()
    try:
        return pool.FindFileContainingSymbol(symbol)
    except KeyError:
        parent, _, name = symbol.rpartition(".")
        file = pool.FindFileContainingSymbol(parent)
        service = file.services_by_name.get(parent.rpartition(".")[2])
        if service is None or name not in service.methods_by_name:
            raise
        return file


def _file(find: Callable[[str], Any], name: str) -> Any:
    proto = FileDescriptorProto()
    find(name).CopyToProto(proto)
    found = v1.FileDescriptorResponse(file_descriptor_proto=[proto.SerializeToString()])
    return v1.ServerReflectionResponse(file_descriptor_response=found)


def _error(status: Status, message: str) -> Any:
    return v1.ServerReflectionResponse(error_response=v1.ErrorResponse(error_code=status.value, error_message=message))
