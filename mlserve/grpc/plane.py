"""What the gRPC services call: the data plane itself on asyncio; on trio, the data plane one hop away."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Protocol

from mlserve.errors import StartupError
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataServerResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponseItem,
)

__all__ = ["Plane", "TrioPlane", "trio_asyncio"]


class Plane(Protocol):
    """The operations of `mlserve.dataplane.DataPlane` that have a gRPC call."""

    def server_live(self) -> bool: ...
    def server_ready(self) -> bool: ...
    def server_metadata(self) -> MetadataServerResponse: ...
    def model_ready(self, name: str, version: str | None = None) -> bool: ...
    def streams(self, name: str, version: str | None) -> bool: ...
    def model_metadata(self, name: str, version: str | None = None) -> MetadataModelResponse: ...
    async def repository_index(self, request: RepositoryIndexRequest) -> list[RepositoryIndexResponseItem]: ...
    async def repository_load(self, name: str) -> None: ...
    async def repository_unload(self, name: str) -> None: ...

    async def infer(
        self,
        request: InferenceRequest,
        name: str,
        version: str | None = None,
        *,
        form: str = "json",
        timeout_seconds: float | None = None,
    ) -> InferenceResponse: ...

    def infer_stream(
        self,
        requests: AsyncIterator[InferenceRequest],
        name: str,
        version: str | None = None,
        *,
        form: str = "json",
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[list[InferenceResponse], None]: ...

    def stream_seconds(self, name: str, version: str | None, asked: float | None) -> float | None: ...


def trio_asyncio() -> Any:
    """The package that runs grpclib, which knows asyncio only, inside trio."""
    try:
        import trio_asyncio as package
    except ImportError:
        raise StartupError(
            'gRPC on the trio backend needs the package trio-asyncio: pip install trio-asyncio, or set "backend" to '
            '"asyncio"'
        ) from None
    return package


class TrioPlane:
    """A data plane that lives in trio, for callers that live in trio-asyncio's loop.

    Cancelling the caller cancels the call, as on asyncio.
    """

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._package = trio_asyncio()
        hop = self._package.trio_as_aio
        # What does not wait needs no hop.
        self.server_live = plane.server_live
        self.server_ready = plane.server_ready
        self.server_metadata = plane.server_metadata
        self.model_ready = plane.model_ready
        self.model_metadata = plane.model_metadata
        self.streams = plane.streams
        self.stream_seconds = plane.stream_seconds
        self.repository_index = hop(plane.repository_index)
        self.repository_load = hop(plane.repository_load)
        self.repository_unload = hop(plane.repository_unload)
        self.infer = hop(plane.infer)

    async def infer_stream(
        self, requests: AsyncIterator[InferenceRequest], name: str, version: str | None = None, **options: Any
    ) -> AsyncGenerator[list[InferenceResponse], None]:
        """The answers of the plane's generator, which runs in one trio task from beginning to end."""
        import trio

        send, receive = trio.open_memory_channel[list[InferenceResponse]](0)

        async def pump() -> None:
            asked = _FromAsyncio(requests, self._package)
            async with send, aclosing(self._plane.infer_stream(asked, name, version, **options)) as responses:
                async for chunks in responses:
                    await send.send(chunks)

        task = self._package.trio_as_aio(pump)()
        take = self._package.trio_as_aio(receive.receive)
        try:
            while True:
                try:
                    chunks = await take()
                except trio.EndOfChannel:
                    break
                yield chunks
            await task
        finally:
            task.cancel()
            receive.close()


class _FromAsyncio(AsyncIterator[InferenceRequest]):
    """Requests that are read in asyncio, for a reader in trio."""

    def __init__(self, requests: AsyncIterator[InferenceRequest], package: Any) -> None:
        self._following = package.aio_as_trio(requests.__anext__)

    async def __anext__(self) -> InferenceRequest:
        request: InferenceRequest = await self._following()
        return request
