"""The standard health service of gRPC: the server as a whole, its services, and each model by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from mlserve.errors import ModelNotFound
from mlserve.grpc.plane import Plane
from mlserve.wire._proto.grpc.health import v1

__all__ = ["HealthService"]

_SERVER = frozenset(("", "inference.GRPCInferenceService", "inference.model_repository.ModelRepositoryService"))
_State = v1.HealthCheckResponseServingStatus


class HealthService(v1.HealthBase):
    """`""` and the names of the protocol's services stand for the server, any other name for a model.

    Watch looks at the state every `poll_seconds`: the data plane tells nobody when it changes.
    """

    def __init__(self, plane: Plane, poll_seconds: float = 1.0) -> None:
        self._plane = plane
        self._poll_seconds = poll_seconds

    async def check(self, health_check_request: Any) -> Any:
        """The state now. NOT_FOUND for a name that nobody knows."""
        state = self._state(health_check_request.service)
        if state == _State.SERVICE_UNKNOWN:
            raise GRPCError(Status.NOT_FOUND, f"neither a service nor a model is called {health_check_request.service}")
        return v1.HealthCheckResponse(status=state)

    async def watch(self, health_check_request: Any) -> AsyncIterator[Any]:
        """The state now, and again whenever it has changed."""
        shown = None
        while True:
            state = self._state(health_check_request.service)
            if state != shown:
                shown = state
                yield v1.HealthCheckResponse(status=state)
            await asyncio.sleep(self._poll_seconds)

    def _state(self, service: str) -> Any:
        if service in _SERVER:
            ready = self._plane.server_ready()
        else:
            try:
                ready = self._plane.model_ready(service)
            except ModelNotFound:
                return _State.SERVICE_UNKNOWN
        return _State.SERVING if ready else _State.NOT_SERVING
