"""A data plane of scripted models, for tests of the transports: no workers, no repository, no queue."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import anyio

from mlserve.errors import CallerLeft, ModelNotFound, from_exception
from mlserve.layout import pack_request, unpack_request
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataServerResponse,
    Parameters,
    RepositoryIndexRequest,
    RepositoryIndexResponseItem,
    ResponseOutput,
    State,
)

Predict = Callable[[InferenceRequest], Any]


def echo(request: InferenceRequest) -> InferenceResponse:
    """Sends every input back, its data in the form it came in."""
    outputs = [
        ResponseOutput(name=one.name, shape=one.shape, datatype=one.datatype, parameters=one.parameters, data=one.data)
        for one in request.inputs
    ]
    parameters = Parameters({key: value for key, value in (request.parameters or {}).items() if key != "headers"})
    return InferenceResponse(model_name="", parameters=parameters, outputs=outputs)


def opened(request: InferenceRequest) -> InferenceRequest:
    """The request as a worker reads it, where the transport passes it on unread."""
    if [one.data.form for one in request.inputs] != ["body"]:
        return request
    return unpack_request(pack_request(request, lambda size: None), _no_slot)


def _no_slot(number: int) -> Any:
    raise AssertionError("nothing was put into a slot")


class FakeDataPlane:
    """Calls `models[name](request)`: a response, an awaitable of one, an async generator of several, or an error."""

    def __init__(self, **models: Predict) -> None:
        self.models: dict[str, Predict] = {"echo": echo, **models}
        self.versions: dict[str, tuple[str, ...]] = {}
        self.metadata: dict[str, MetadataModelResponse] = {}
        self.is_ready = True
        self.unready: set[str] = set()
        self.calls: list[tuple[str, str | None, InferenceRequest, float | None]] = []
        self.repository: list[str] = []
        self.routes: list[tuple[str, str, Any]] = []

    def custom_routes(self) -> list[tuple[str, str, Any, dict[str, str]]]:
        return [(*route, {}) for route in self.routes]

    def server_live(self) -> bool:
        return True

    def server_ready(self) -> bool:
        return self.is_ready

    def server_metadata(self) -> MetadataServerResponse:
        return MetadataServerResponse(name="mlserve", version="0", extensions=[])

    def model_ready(self, name: str, version: str | None = None) -> bool:
        self._find(name, version)
        return name not in self.unready

    def model_metadata(self, name: str, version: str | None = None) -> MetadataModelResponse:
        self._find(name, version)
        plain = MetadataModelResponse(
            name=name, versions=[], platform="", inputs=[], outputs=[], parameters=Parameters()
        )
        return self.metadata.get(name, plain)

    async def repository_index(self, request: RepositoryIndexRequest) -> list[RepositoryIndexResponseItem]:
        states = {name: State.UNAVAILABLE if name in self.unready else State.READY for name in self.models}
        return [
            RepositoryIndexResponseItem(name=name, state=state, reason="")
            for name, state in states.items()
            if state is State.READY or not request.ready
        ]

    async def repository_load(self, name: str) -> None:
        self._find(name, None)
        self.repository.append(f"load {name}")

    async def repository_unload(self, name: str) -> None:
        self._find(name, None)
        self.repository.append(f"unload {name}")

    async def infer(
        self,
        request: InferenceRequest,
        name: str,
        version: str | None = None,
        *,
        form: str = "json",
        timeout_seconds: float | None = None,
        on_leave: Any = None,
    ) -> InferenceResponse:
        predict = self._find(name, version)
        request = opened(request)
        self.calls.append((name, version, request, timeout_seconds))
        request.id = request.id or "an-id"
        with anyio.CancelScope() as scope:
            if on_leave is not None:
                on_leave(scope.cancel)
            try:
                response = predict(request)
                if isinstance(response, Awaitable):
                    response = await response
                return self._finish(response, name, version, request.id)
            finally:
                if on_leave is not None:
                    on_leave(None)
        raise CallerLeft("the client left")

    async def infer_stream(
        self,
        requests: AsyncIterator[InferenceRequest],
        name: str,
        version: str | None = None,
        *,
        form: str = "json",
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[list[InferenceResponse], None]:
        predict = self._find(name, version)
        async for came in requests:
            request = opened(came)
            self.calls.append((name, version, request, timeout_seconds))
            request.id = request.id or "an-id"
            made = predict(request)
            if isinstance(made, Awaitable):
                made = await made
            if isinstance(made, InferenceResponse):
                yield [self._finish(made, name, version, request.id)]
                continue
            try:
                async for response in made:
                    together = response if isinstance(response, list) else [response]
                    yield [self._finish(one, name, version, request.id) for one in together]
            finally:
                await made.aclose()

    def streams(self, name: str, version: str | None) -> bool:
        return inspect.isasyncgenfunction(self.models.get(name))

    def stream_seconds(self, name: str, version: str | None, asked: float | None) -> float | None:
        return asked

    def _find(self, name: str, version: str | None) -> Predict:
        if name not in self.models or (version is not None and version not in self.versions.get(name, ())):
            raise ModelNotFound(name, version)
        return self.models[name]

    def _finish(
        self, response: InferenceResponse, name: str, version: str | None, request_id: str
    ) -> InferenceResponse:
        response.model_name = name
        versions = self.versions.get(name)
        response.model_version = version or (versions[-1] if versions else None)
        response.id = response.id or request_id
        if response.parameters is None:
            response.parameters = Parameters()
        headers = response.parameters.headers or {}
        response.parameters.headers = {**headers, "Ce-Id": request_id, "Ce-Endpoint": name}
        return response


def failing(error: BaseException) -> Predict:
    """A model that always raises what the data plane would make of an error in it."""

    def predict(request: InferenceRequest) -> InferenceResponse:
        raise from_exception(error)

    return predict
