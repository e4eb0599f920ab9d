"""What a transport does for the client: each operation of the protocol once, without deadline and without retries."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from mlserve.client.result import InferResult
from mlserve.types import (
    InferenceRequest,
    MetadataModelResponse,
    MetadataServerResponse,
    RepositoryIndexResponseItem,
)

__all__ = ["Transport"]


class Transport(Protocol):
    """REST or gRPC. Each call raises an MLServeError; cancelling it tells the server.

    `timeout_seconds` goes to the server, which then gives up in time; the client watches the clock itself.
    """

    async def server_live(self) -> bool: ...
    async def server_ready(self) -> bool: ...
    async def model_ready(self, name: str, version: str | None) -> bool: ...
    async def server_metadata(self) -> MetadataServerResponse: ...
    async def model_metadata(self, name: str, version: str | None) -> MetadataModelResponse: ...
    async def repository_index(self, ready: bool) -> list[RepositoryIndexResponseItem]: ...
    async def repository_load(self, name: str) -> None: ...
    async def repository_unload(self, name: str) -> None: ...

    async def infer(
        self,
        request: InferenceRequest,
        name: str,
        version: str | None,
        headers: Mapping[str, str],
        timeout_seconds: float | None,
    ) -> InferResult: ...

    def stream(
        self,
        request: InferenceRequest,
        name: str,
        version: str | None,
        headers: Mapping[str, str],
        timeout_seconds: float | None,
    ) -> AsyncGenerator[InferResult, None]: ...

    async def aclose(self) -> None: ...
