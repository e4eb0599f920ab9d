"""The endpoints that ask about the server and its models, and those that load and unload models."""

from __future__ import annotations

from typing import Protocol

from mlserve.errors import MLServeError
from mlserve.rest.replies import Reply, json_reply
from mlserve.rest.requests import Request
from mlserve.settings import Settings
from mlserve.types import (
    MetadataModelResponse,
    MetadataServerResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponseItem,
)
from mlserve.wire.v2json import decode_index_request

__all__ = ["ControlEndpoints", "Controls"]


class Controls(Protocol):
    """What these endpoints need of the data plane."""

    def server_live(self) -> bool: ...
    def server_ready(self) -> bool: ...
    def server_metadata(self) -> MetadataServerResponse: ...
    def model_ready(self, name: str, version: str | None = ...) -> bool: ...
    def model_metadata(self, name: str, version: str | None = ...) -> MetadataModelResponse: ...
    async def repository_index(self, request: RepositoryIndexRequest) -> list[RepositoryIndexResponseItem]: ...
    async def repository_load(self, name: str) -> None: ...
    async def repository_unload(self, name: str) -> None: ...


class ControlEndpoints:
    """One method for each operation; errors of the data plane go up to the application."""

    def __init__(self, dataplane: Controls, settings: Settings) -> None:
        self._dataplane = dataplane
        self._limit_bytes = settings.max_body_bytes

    async def live(self, _: Request) -> Reply:
        """200 as long as the process answers."""
        return _yes_or_no(self._dataplane.server_live(), "the server is not live")

    async def ready(self, _: Request) -> Reply:
        """200 if calls are welcome, 400 otherwise, as MLServer has it."""
        return _yes_or_no(self._dataplane.server_ready(), "the server is not ready: a model is not, or it is stopping")

    async def model_ready(self, request: Request) -> Reply:
        """200 if the model takes calls, 400 if it does not."""
        name, version = request.model
        which = f"Model {name}" + (f" with version {version}" if version else "")
        return _yes_or_no(self._dataplane.model_ready(name, version), f"{which} is not ready yet")

    async def server_metadata(self, _: Request) -> Reply:
        """Name, version and extensions."""
        return json_reply(self._dataplane.server_metadata())

    async def model_metadata(self, request: Request) -> Reply:
        """Versions, platform, inputs and outputs."""
        return json_reply(self._dataplane.model_metadata(*request.model))

    async def index(self, request: Request) -> Reply:
        """The models in the repository; no body is as good as `{}`."""
        ready = decode_index_request(await request.json_body(self._limit_bytes))
        return json_reply(await self._dataplane.repository_index(RepositoryIndexRequest(ready=ready)))

    async def load(self, request: Request) -> Reply:
        """Loads a model, or loads it again. Goes on if the client leaves: half a load helps nobody."""
        await self._dataplane.repository_load(request.params["model_name"])
        return Reply(200, [])

    async def unload(self, request: Request) -> Reply:
        """Unloads a model."""
        await self._dataplane.repository_unload(request.params["model_name"])
        return Reply(200, [])


def _yes_or_no(is_so: bool, otherwise: str) -> Reply:
    if not is_so:
        raise MLServeError(otherwise, 400)
    return Reply(200, [])
