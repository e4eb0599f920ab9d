"""The protocol over REST, with JSON or binary tensors."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Mapping
from typing import TypeVar
from urllib.parse import quote

from mlserve.client.address import Address
from mlserve.client.bodies import Buffer, Events, decode, decode_response, encode_json, encode_request
from mlserve.client.faults import from_event, from_http, reading, writing
from mlserve.client.http1 import Http1Pool
from mlserve.client.result import InferResult
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataServerResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponseItem,
)

__all__ = ["RestTransport"]

T = TypeVar("T")
_HEADER_LENGTH = "inference-header-content-length"
_NOT_READY = (400, 503)  # MLServer and we say 400, other servers 503


class RestTransport:
    """A client of one REST port."""

    def __init__(
        self,
        address: Address,
        headers: Mapping[str, str],
        binary: bool,
        context: ssl.SSLContext | None,
        max_connections: int,
    ) -> None:
        self._address = str(address)
        self._headers = {"user-agent": "mlserve", **headers}
        self._binary = binary
        self._pool = Http1Pool(address, context, max_connections)

    # -- health, metadata, repository ---------------------------------------------------------------------------------

    async def server_live(self) -> bool:
        """Whether the process answers at all."""
        return await self._is_so("/v2/health/live")

    async def server_ready(self) -> bool:
        """Whether calls are welcome."""
        return await self._is_so("/v2/health/ready")

    async def model_ready(self, name: str, version: str | None) -> bool:
        """Whether a model takes calls. ModelNotFound, or False, if there is none: servers differ."""
        return await self._is_so(f"{_path(name, version)}/ready", (name, version))

    async def server_metadata(self) -> MetadataServerResponse:
        """What the server says of itself."""
        return self._read(await self._call("GET", "/v2"), MetadataServerResponse)

    async def model_metadata(self, name: str, version: str | None) -> MetadataModelResponse:
        """What a model says of itself. ModelNotFound."""
        body = await self._call("GET", _path(name, version), model=(name, version))
        return self._read(body, MetadataModelResponse)

    async def repository_index(self, ready: bool) -> list[RepositoryIndexResponseItem]:
        """The models in the repository."""
        asked = RepositoryIndexRequest(ready=ready or None)
        body = await self._call("POST", "/v2/repository/index", encode_json(asked))
        return self._read(body, list[RepositoryIndexResponseItem])

    async def repository_load(self, name: str) -> None:
        """Loads a model. ModelNotFound, ModelLoadError."""
        path = f"/v2/repository/models/{quote(name, safe='')}/load"
        await self._call("POST", path, b"{}", model=(name, None), loads=True)

    async def repository_unload(self, name: str) -> None:
        """Unloads a model. ModelNotFound."""
        path = f"/v2/repository/models/{quote(name, safe='')}/unload"
        await self._call("POST", path, b"{}", model=(name, None))

    async def _is_so(self, path: str, model: tuple[str, str | None] | None = None) -> bool:
        status, headers, body = await self._pool.request("GET", path, self._headers)
        if status == 200 or status in _NOT_READY:
            return status == 200
        raise from_http(status, headers, body, model=model)

    async def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        model: tuple[str, str | None] | None = None,
        loads: bool = False,
    ) -> bytes:
        """The body of the answer. These calls may be sent twice: asking, loading and unloading twice is as once."""
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        chunks = () if body is None else (body,)
        status, answered, content = await self._pool.request(method, path, headers, chunks)
        if status != 200:
            raise from_http(status, answered, content, model=model, loads=loads)
        return content

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
        path = f"{_path(name, version)}/infer"
        sent, chunks = self._request(request, headers, timeout_seconds, self._binary)
        status, answered, body = await self._pool.request("POST", path, sent, chunks, arrives=True)
        if status != 200:
            raise from_http(status, answered, body, model=(name, version))
        with reading(self._address):
            length = answered.get(_HEADER_LENGTH)
            response = decode_response(body, None if length is None else int(length))
        return InferResult(response, answered)

    async def stream(
        self,
        request: InferenceRequest,
        name: str,
        version: str | None,
        headers: Mapping[str, str],
        timeout_seconds: float | None,
    ) -> AsyncGenerator[InferResult, None]:
        """One call with many answers, which are Server-Sent Events."""
        path = f"{_path(name, version)}/infer_stream"
        sent, chunks = self._request(request, headers, timeout_seconds, False)
        sent["accept"] = "text/event-stream"
        async with self._pool.open("POST", path, sent, chunks, arrives=True) as answer:
            if answer.status != 200:
                body = b""
                while piece := await answer.read():
                    body += piece
                raise from_http(answer.status, answer.headers, body, model=(name, version))
            events = Events()
            while piece := await answer.read():
                for event, data in events.feed(piece):
                    if event == "error" or data.startswith(b'{"error"'):  # MLServer does not name the event.
                        raise from_event(data, (name, version))
                    yield InferResult(self._read(data, InferenceResponse), {})

    def _request(
        self, request: InferenceRequest, headers: Mapping[str, str], timeout_seconds: float | None, binary: bool
    ) -> tuple[dict[str, str], list[Buffer]]:
        """The headers and the body."""
        with writing():
            chunks, header_length = encode_request(request, binary=binary)
        sent = {**self._headers, **headers}
        if header_length is None:
            sent["Content-Type"] = "application/json"
        else:
            sent["Content-Type"] = "application/octet-stream"
            sent["Inference-Header-Content-Length"] = str(header_length)
        if timeout_seconds is not None:
            sent["x-request-timeout"] = f"{max(timeout_seconds, 0.001):.3f}"
        return sent, chunks

    # -- reading ------------------------------------------------------------------------------------------------------

    def _read(self, body: Buffer, kind: type[T]) -> T:
        with reading(self._address):
            return decode(body, kind)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._pool.aclose()


def _path(name: str, version: str | None) -> str:
    path = f"/v2/models/{quote(name, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"
