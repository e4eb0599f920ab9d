"""The services of the protocol: each call of GRPCInferenceService and ModelRepositoryService on the data plane."""

from __future__ import annotations

from typing import Any

from grpclib.const import Cardinality, Handler

from mlserve.grpc.call import Call
from mlserve.grpc.plane import Plane
from mlserve.grpc.streaming import StreamInfer
from mlserve.types import MetadataTensor, Parameters, RepositoryIndexRequest
from mlserve.wire._proto import inference
from mlserve.wire._proto.inference import model_repository
from mlserve.wire.json_data import encodable
from mlserve.wire.v2proto import decode_request, encode_response

__all__ = ["InferenceService", "RepositoryService"]

_PATH = "/inference.GRPCInferenceService"


class _RepositoryCalls:
    """The three repository calls; `_messages` is the module with the classes of their answers."""

    _messages: Any
    _plane: Plane

    async def repository_index(self, repository_index_request: Any) -> Any:
        """The models in the repository, with their states."""
        items = await self._plane.repository_index(RepositoryIndexRequest(ready=repository_index_request.ready or None))
        index = self._messages.RepositoryIndexResponseModelIndex
        return self._messages.RepositoryIndexResponse(
            models=[
                index(
                    name=encodable(one.name),
                    version=encodable(one.version or ""),
                    state=str(one.state),
                    reason=encodable(one.reason or ""),
                )
                for one in items
            ]
        )

    async def repository_model_load(self, repository_model_load_request: Any) -> Any:
        """Loads a model, or loads it again."""
        await self._plane.repository_load(repository_model_load_request.model_name)
        return self._messages.RepositoryModelLoadResponse()

    async def repository_model_unload(self, repository_model_unload_request: Any) -> Any:
        """Unloads a model."""
        await self._plane.repository_unload(repository_model_unload_request.model_name)
        return self._messages.RepositoryModelUnloadResponse()


class RepositoryService(_RepositoryCalls, model_repository.ModelRepositoryServiceBase):
    """The repository calls under MLServer's older service name."""

    _messages = model_repository

    def __init__(self, plane: Plane) -> None:
        self._plane = plane


class InferenceService(_RepositoryCalls, inference.GrpcInferenceServiceBase):
    """The inference protocol. `stream_form` is the default form of stream answers, "mlserver" or "triton"."""

    _messages = inference

    def __init__(self, plane: Plane, stream_form: str = "mlserver") -> None:
        self._plane = plane
        self._stream_infer = StreamInfer(plane, stream_form)

    def __mapping__(self) -> dict[str, Handler]:
        """The methods by path; inference passes betterproto by."""
        mapping: dict[str, Handler] = super().__mapping__()
        mapping[f"{_PATH}/ModelInfer"] = Handler(self._infer, Cardinality.UNARY_UNARY, bytes, bytes)
        stream = self._stream_infer
        mapping[f"{_PATH}/ModelStreamInfer"] = Handler(stream, Cardinality.STREAM_STREAM, bytes, bytes)
        return mapping

    async def _infer(self, call: Call) -> None:
        """One inference."""
        request, name, version, form = decode_request(await call.recv_message(), call.headers)
        timeout = call.time_left()
        response = await self._plane.infer(request, name, version, form=form, timeout_seconds=timeout)
        if response.parameters is not None:
            call.trailing = response.parameters.headers or {}
        await call.send_message(encode_response(response, form))

    async def server_live(self, server_live_request: Any) -> Any:
        """Whether the process answers at all."""
        return inference.ServerLiveResponse(live=self._plane.server_live())

    async def server_ready(self, server_ready_request: Any) -> Any:
        """Whether the server takes inference requests."""
        return inference.ServerReadyResponse(ready=self._plane.server_ready())

    async def model_ready(self, model_ready_request: Any) -> Any:
        """Whether one model takes inference requests."""
        name, version = model_ready_request.name, model_ready_request.version or None
        return inference.ModelReadyResponse(ready=self._plane.model_ready(name, version))

    async def server_metadata(self, server_metadata_request: Any) -> Any:
        """What the server says of itself."""
        found = self._plane.server_metadata()
        return inference.ServerMetadataResponse(name=found.name, version=found.version, extensions=found.extensions)

    async def model_metadata(self, model_metadata_request: Any) -> Any:
        """What a model says of itself."""
        found = self._plane.model_metadata(model_metadata_request.name, model_metadata_request.version or None)
        return inference.ModelMetadataResponse(
            name=encodable(found.name),
            versions=[encodable(one) for one in found.versions or ()],
            platform=encodable(found.platform or ""),
            inputs=[_tensor(one) for one in found.inputs or ()],
            outputs=[_tensor(one) for one in found.outputs or ()],
            parameters=_parameters(found.parameters),
        )


def _tensor(tensor: MetadataTensor) -> Any:
    return inference.ModelMetadataResponseTensorMetadata(
        name=tensor.name,
        datatype=str(tensor.datatype),
        shape=list(tensor.shape),
        parameters=_parameters(tensor.parameters),
    )


def _parameters(parameters: Parameters | None) -> dict[str, Any]:
    """InferParameters; values that have no form there are left out."""
    found = {}
    for key, value in dict.items(parameters or {}):
        if isinstance(value, bool):
            found[key] = inference.InferParameter(bool_param=value)
        elif isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
            found[key] = inference.InferParameter(int64_param=value)
        elif isinstance(value, float):
            found[key] = inference.InferParameter(double_param=value)
        elif isinstance(value, (str, int)):
            found[key] = inference.InferParameter(string_param=str(value))
    return found
