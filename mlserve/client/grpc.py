"""The protocol over gRPC, with grpclib: one connection for all calls, opened when the first one needs it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import anyio
import sniffio
from google.protobuf.message import DecodeError
from grpclib.config import Configuration
from grpclib.const import Cardinality
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from h2.exceptions import H2Error

from mlserve.client.address import Address
from mlserve.client.channel import REFUSED, GentleChannel
from mlserve.client.faults import CONNECT_SECONDS, ClientError, from_grpc, reading, reason_of, writing
from mlserve.client.result import InferResult
from mlserve.errors import DeadlineExceeded, InvalidRequest, MLServeError
from mlserve.types import (
    InferenceRequest,
    MetadataModelResponse,
    MetadataServerResponse,
    MetadataTensor,
    Parameters,
    RepositoryIndexResponseItem,
    State,
)
from mlserve.wire.schema import method_classes
from mlserve.wire.v2proto import decode_response, encode_request

__all__ = ["GrpcTransport"]

_SERVICE = "inference.GRPCInferenceService"
_WINDOW_BYTES = 16 << 20  # what the server may send ahead of the reader
# The last is what grpclib raises for a message that breaks off in its middle.
_BROKEN = (StreamTerminatedError, ProtocolError, H2Error, OSError, AssertionError)


class _Bytes(CodecBase):
    """Messages are bytes already."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: Any) -> bytes:
        return message

    def decode(self, data: bytes, message_type: Any) -> bytes:
        return data


class GrpcTransport:
    """A client of one gRPC port."""

    def __init__(
        self, address: Address, headers: Mapping[str, str], binary: bool, context: ssl.SSLContext | None
    ) -> None:
        self._address = address
        self._headers = dict(headers)
        self._binary = binary
        self._context = context
        self._channel: GentleChannel | None = None  # made by the first call

    # -- health, metadata, repository ---------------------------------------------------------------------------------

    async def server_live(self) -> bool:
        """Whether the process answers at all."""
        return bool((await self._call("ServerLive")).live)

    async def server_ready(self) -> bool:
        """Whether calls are welcome."""
        return bool((await self._call("ServerReady")).ready)

    async def model_ready(self, name: str, version: str | None) -> bool:
        """Whether a model takes calls. ModelNotFound, or False, if there is none: servers differ."""
        return bool((await self._call("ModelReady", name=name, version=version or "")).ready)

    async def server_metadata(self) -> MetadataServerResponse:
        """What the server says of itself."""
        found = await self._call("ServerMetadata")
        return MetadataServerResponse(name=found.name, version=found.version, extensions=list(found.extensions))

    async def model_metadata(self, name: str, version: str | None) -> MetadataModelResponse:
        """What a model says of itself. ModelNotFound."""
        found = await self._call("ModelMetadata", name=name, version=version or "")
        with self._reading():
            return MetadataModelResponse(
                name=found.name,
                versions=list(found.versions),
                platform=found.platform,
                inputs=[_tensor(one) for one in found.inputs],
                outputs=[_tensor(one) for one in found.outputs],
                parameters=_parameters(found.parameters),
            )

    async def repository_index(self, ready: bool) -> list[RepositoryIndexResponseItem]:
        """The models in the repository."""
        found = await self._call("RepositoryIndex", ready=ready)
        with self._reading():
            return [_item(one) for one in found.models]

    async def repository_load(self, name: str) -> None:
        """Loads a model. ModelNotFound, ModelLoadError."""
        await self._call("RepositoryModelLoad", loads=True, model_name=name)

    async def repository_unload(self, name: str) -> None:
        """Unloads a model. ModelNotFound."""
        await self._call("RepositoryModelUnload", model_name=name)

    async def _call(self, method: str, *, loads: bool = False, **fields: Any) -> Any:
        """The answer's message. These calls may be sent twice."""
        request_type, answer_type = method_classes(_SERVICE, method)
        message = request_type(**fields).SerializeToString()
        data, _ = await self._unary(method, message, self._headers, None, arrives=False, loads=loads)
        with self._reading():
            return answer_type.FromString(data)

    # -- inference ----------------------------------------------------------------------------------------------------

    async def infer(
        self,
        request: InferenceRequest,
        name: str,
        version: str | None,
        headers: Mapping[str, str],
        timeout_seconds: float | None,
    ) -> InferResult:
        """One call."""
        message = self._encode(request, name, version)
        sent = {**self._headers, **headers}
        data, trailing = await self._unary("ModelInfer", message, sent, timeout_seconds, arrives=True)
        with self._reading():
            return InferResult(decode_response(data), trailing)

    async def stream(
        self,
        request: InferenceRequest,
        name: str,
        version: str | None,
        headers: Mapping[str, str],
        timeout_seconds: float | None,
    ) -> AsyncGenerator[InferResult, None]:
        """One call with many answers."""
        message = self._encode(request, name, version)
        # Ours, and MLServer's, form of answers; a server may be set to Triton's.
        sent = {**self._headers, **headers, "mlserve-stream-response": "mlserver"}
        stream = self._open("ModelStreamInfer", Cardinality.STREAM_STREAM, sent, timeout_seconds)
        with self._translated(stream, arrives=True):
            async with stream:
                await self._connect(stream)
                await stream.send_message(message, end=True)
                while (data := await stream.recv_message()) is not None:
                    with self._reading():
                        answer = InferResult(decode_response(data), {})
                    yield answer

    def _reading(self) -> AbstractContextManager[None]:
        return reading(str(self._address), DecodeError, InvalidRequest)

    def _encode(self, request: InferenceRequest, name: str, version: str | None) -> bytes:
        with writing():
            return b"".join(encode_request(request, name, version, raw=self._binary))

    # -- calls --------------------------------------------------------------------------------------------------------

    async def _unary(
        self,
        method: str,
        message: bytes,
        headers: Mapping[str, str],
        timeout_seconds: float | None,
        *,
        arrives: bool,
        loads: bool = False,
    ) -> tuple[bytes, dict[str, str]]:
        """The one answer and the trailing metadata. MLServeError."""
        stream = self._open(method, Cardinality.UNARY_UNARY, headers, timeout_seconds)
        with self._translated(stream, arrives=arrives, loads=loads):
            async with stream:
                await self._connect(stream)
                await stream.send_message(message, end=True)
                data = await stream.recv_message()
                await stream.recv_trailing_metadata()
        if data is None:
            raise ClientError(f"{self._address} ended the call without an answer", str(self._address), arrived=arrives)
        return data, {name: str(value) for name, value in stream.trailing_metadata.items()}

    def _open(
        self, method: str, cardinality: Cardinality, headers: Mapping[str, str], timeout_seconds: float | None
    ) -> Any:
        if self._channel is None:
            if sniffio.current_async_library() != "asyncio":
                raise ClientError(
                    "gRPC needs asyncio; on trio take the REST address, or the synchronous Client in a thread",
                    str(self._address),
                    arrived=False,
                )
            config = Configuration(http2_connection_window_size=_WINDOW_BYTES, http2_stream_window_size=_WINDOW_BYTES)
            host, port = self._address.host, self._address.port
            self._channel = GentleChannel(host, port, ssl=self._context, codec=_Bytes(), config=config)
        return self._channel.request(
            f"/{_SERVICE}/{method}", cardinality, bytes, bytes, timeout=timeout_seconds, metadata=headers
        )

    async def _connect(self, stream: Any) -> None:
        """Opens the call, and the connection if there is none. A message has not been sent then."""
        reason, cause = f"no answer within {CONNECT_SECONDS:g} s", None
        with anyio.move_on_after(CONNECT_SECONDS):
            try:
                await stream.send_request()
                return
            except _BROKEN as error:
                if _is_deadline(error):
                    raise
                reason, cause = reason_of(error), error
        raise ClientError(f"cannot connect to {self._address}: {reason}", str(self._address), arrived=False) from cause

    @contextmanager
    def _translated(self, stream: Any, *, arrives: bool, loads: bool = False) -> Iterator[None]:
        """Turns what grpclib raises into exceptions of ours."""
        try:
            yield
        except MLServeError:
            raise
        except GRPCError as error:
            raise from_grpc(error.status.name, error.message, _trailers(stream), loads=loads) from None
        except (asyncio.TimeoutError, *_BROKEN) as error:
            if _is_deadline(error):
                raise DeadlineExceeded(f"{self._address} gave no answer in time") from None
            message = f"{self._address}: the connection broke before the answer was complete ({reason_of(error)})"
            arrived = arrives and not str(error).endswith(REFUSED)
            raise ClientError(message, str(self._address), arrived=arrived) from error

    async def aclose(self) -> None:
        """Closes the connection; calls under way break."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
            await asyncio.sleep(0)  # The transport closes its socket in the loop's next turn.


def _trailers(stream: Any) -> dict[str, str]:
    """The fields that came with a call's status. grpclib's `trailing_metadata` lacks those that begin with grpc-."""
    below = getattr(stream, "_stream", None)  # since the call was opened
    return dict(getattr(below, "trailers", None) or getattr(below, "headers", None) or ())


def _is_deadline(error: BaseException) -> bool:
    """Whether this is grpclib's own clock, and not the operating system, which numbers its timeouts."""
    return isinstance(error, asyncio.TimeoutError | TimeoutError) and getattr(error, "errno", None) is None


def _tensor(tensor: Any) -> MetadataTensor:
    parameters = _parameters(tensor.parameters)
    return MetadataTensor(
        name=tensor.name, datatype=tensor.datatype, shape=list(tensor.shape), parameters=parameters or None
    )


def _item(model: Any) -> RepositoryIndexResponseItem:
    state = State(model.state.rpartition(".")[2])  # MLServer says State.READY
    return RepositoryIndexResponseItem(name=model.name, version=model.version or None, state=state, reason=model.reason)


def _parameters(values: Any) -> Parameters:
    found = Parameters()
    for key, value in values.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is not None:
            found[key] = getattr(value, kind)
    return found
