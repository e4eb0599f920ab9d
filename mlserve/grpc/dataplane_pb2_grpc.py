"""grpcio's side of the protocol: the stub for clients, and the servicer for who wants to serve it with grpcio.

Works on plain, secure and `grpc.aio` channels. Names are those of code that grpcio's generator would have written.
"""

from __future__ import annotations

from typing import Any

from mlserve.grpc.dataplane_pb2 import DESCRIPTOR
from mlserve.wire.schema import method_classes

__all__ = ["GRPCInferenceServiceServicer", "GRPCInferenceServiceStub", "add_GRPCInferenceServiceServicer_to_server"]

_SERVICE = DESCRIPTOR.services_by_name["GRPCInferenceService"]


def _kind(method: Any) -> str:
    """What grpcio calls a method of this cardinality."""
    ends = (method.client_streaming, method.server_streaming)
    return "_".join("stream" if streams else "unary" for streams in ends)


class GRPCInferenceServiceStub:
    """Calls a server: `GRPCInferenceServiceStub(channel).ModelInfer(request, metadata=..., timeout=...)`."""

    def __init__(self, channel: Any) -> None:
        def multicallable(name: str) -> Any:
            method = _SERVICE.methods_by_name[name]
            request, response = method_classes(_SERVICE.full_name, name)
            return getattr(channel, _kind(method))(
                f"/{_SERVICE.full_name}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )

        self.ServerLive = multicallable("ServerLive")
        self.ServerReady = multicallable("ServerReady")
        self.ModelReady = multicallable("ModelReady")
        self.ServerMetadata = multicallable("ServerMetadata")
        self.ModelMetadata = multicallable("ModelMetadata")
        self.ModelInfer = multicallable("ModelInfer")
        self.ModelStreamInfer = multicallable("ModelStreamInfer")
        self.RepositoryIndex = multicallable("RepositoryIndex")
        self.RepositoryModelLoad = multicallable("RepositoryModelLoad")
        self.RepositoryModelUnload = multicallable("RepositoryModelUnload")


class GRPCInferenceServiceServicer:
    """The base of a servicer for `grpc.server`; a method named like a call of the service answers it."""


def add_GRPCInferenceServiceServicer_to_server(servicer: Any, server: Any) -> None:
    """Registers the methods that a servicer has; grpcio answers UNIMPLEMENTED for the others."""
    import grpc

    handlers = {}
    for method in _SERVICE.methods:
        behaviour = getattr(servicer, method.name, None)
        if behaviour is not None:
            request, response = method_classes(_SERVICE.full_name, method.name)
            make = getattr(grpc, f"{_kind(method)}_rpc_method_handler")
            handlers[method.name] = make(
                behaviour, request_deserializer=request.FromString, response_serializer=response.SerializeToString
            )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers),))
