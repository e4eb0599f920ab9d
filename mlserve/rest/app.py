"""The REST application: finds the endpoint for a path, turns errors into answers, counts, and answers.

Infer paths are split here and go straight to their endpoint; everything else is found by Starlette's router. Below
both lies the same frame (`_serve`), so that a request is counted, answered and logged in one way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router

from mlserve.metrics import Metrics
from mlserve.rest.control import ControlEndpoints, Controls
from mlserve.rest.docs import DocsEndpoints
from mlserve.rest.infer import InferEndpoints, Infers
from mlserve.rest.replies import CLIENT_GONE, Reply, Send, error_reply, send_reply
from mlserve.rest.requests import ClientGone, Receive, Request, Scope
from mlserve.settings import Settings

__all__ = ["Backend", "CustomRoute", "MetricsApp", "RestApp"]

Endpoint = Callable[[Request], Awaitable[Reply]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
CustomRoute = tuple[str, str, Asgi]  # path (with {parameters}), method, ASGI application

_VERBS = ("infer", "generate", "infer_stream", "generate_stream")
_MODEL = "/v2/models/{model_name}"
_VERSION = "/v2/models/{model_name}/versions/{model_version}"


class Backend(Infers, Controls, Protocol):
    """What the application needs of the data plane.

    A data plane with `custom_routes() -> list[CustomRoute]` has these served too; the list may change at any time.
    """


class _InferPath(NamedTuple):
    template: str
    streams: bool
    name: str
    version: str | None


_TEMPLATES = {verb: f"{_MODEL}/{verb}" for verb in _VERBS}
_VERSION_TEMPLATES = {verb: f"{_VERSION}/{verb}" for verb in _VERBS}


def _split_infer_path(path: str) -> _InferPath | None:
    """Model, version and kind of call, if it is an infer path as it should be."""
    parts = path.split("/")
    verb = parts[-1]
    if verb not in _TEMPLATES or parts[1:3] != ["v2", "models"] or parts[0] or not parts[3]:
        return None
    if len(parts) == 5:
        return _InferPath(_TEMPLATES[verb], verb.endswith("_stream"), parts[3], None)
    if len(parts) == 7 and parts[4] == "versions" and parts[5]:
        return _InferPath(_VERSION_TEMPLATES[verb], verb.endswith("_stream"), parts[3], parts[5])
    return None


class RestApp:
    """The ASGI application of the REST port."""

    def __init__(self, dataplane: Backend, metrics: Metrics, settings: Settings) -> None:
        self._metrics = metrics
        self._may_pack = settings.gzip_enabled
        self._root_path = settings.root_path.rstrip("/")
        self._infer = InferEndpoints(dataplane, settings)
        self._router = Router(routes=self._routes(dataplane, settings), default=self._custom)
        self._custom_routes: Callable[[], Sequence[CustomRoute]] = getattr(dataplane, "custom_routes", list)
        self._custom_now: Sequence[CustomRoute] = ()
        self._custom_router = Router(default=_nothing_there)
        self._entry: Asgi = self._dispatch
        cors = settings.cors_settings
        if cors is not None:
            self._entry = CORSMiddleware(
                self._dispatch,  # type: ignore[arg-type]  # Starlette's types have mutable messages.
                allow_origins=cors.allow_origins,
                allow_origin_regex=cors.allow_origin_regex,
                allow_credentials=cors.allow_credentials,
                allow_methods=cors.allow_methods,
                allow_headers=cors.allow_headers,
                expose_headers=cors.expose_headers,
                max_age=cors.max_age,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._entry(scope, receive, send)
        else:
            await _other_scopes(scope, receive, send)

    # -- finding the endpoint -----------------------------------------------------------------------------------------

    def _routes(self, dataplane: Backend, settings: Settings) -> list[Route]:
        control = ControlEndpoints(dataplane, settings)
        docs = DocsEndpoints(dataplane, self._root_path)
        get, post, uncounted = self._get, self._post, self._uncounted
        routes = [
            uncounted("/v2/health/live", control.live),
            uncounted("/v2/health/ready", control.ready),
            get("/v2", control.server_metadata),
            get("/v2/docs", docs.server_page),
            get("/v2/docs/dataplane.json", docs.server_document),
            get("/v2/docs/model_repository.json", docs.repository_document),
            uncounted("/v2/docs/static/{file}", docs.static),
            post("/v2/repository/index", control.index),
            post("/v2/repository/models/{model_name}/load", control.load),
            post("/v2/repository/models/{model_name}/unload", control.unload),
        ]
        for prefix in (_MODEL, _VERSION):
            routes += [
                get(prefix, control.model_metadata),
                get(f"{prefix}/ready", control.model_ready),
                get(f"{prefix}/docs", docs.model_page),
                get(f"{prefix}/docs/dataplane.json", docs.model_document),
            ]
            # Never called, as POST to these is dispatched before: they give GET its 405, and a last slash its redirect.
            routes += [post(f"{prefix}/{verb}", control.live) for verb in _VERBS]
        return routes

    def _get(self, path: str, endpoint: Endpoint) -> Route:
        return Route(path, _Framed(self, path, endpoint), methods=["GET"])

    def _post(self, path: str, endpoint: Endpoint) -> Route:
        return Route(path, _Framed(self, path, endpoint), methods=["POST"])

    def _uncounted(self, path: str, endpoint: Endpoint) -> Route:
        """Probes and static files would drown what the metrics are for."""
        return Route(path, _Framed(self, None, endpoint), methods=["GET"])

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] == "POST":
                path: str = scope["path"]
                root = self._root_path
                if root and path.startswith(root) and path[len(root) :].startswith("/"):
                    path = path[len(root) :]
                found = _split_infer_path(path)
                if found is not None:
                    await self._serve_infer(found, scope, receive, send)
                    return
            await self._route(scope, receive, send)
        except ClientGone:
            pass  # Nobody is left to answer to, and the metrics have it.

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._root_path:
            scope["root_path"] = self._root_path
        scope["app"] = self  # With it, Starlette raises what it cannot route, instead of answering in plain text.
        try:
            await self._router(scope, receive, send)  # type: ignore[arg-type]
        except HTTPException as error:
            request = Request(scope, receive, {})
            await self._send(send, error_reply(error), request)

    async def _custom(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Looks among the routes that models brought along."""
        routes = self._custom_routes()
        if routes != self._custom_now:
            self._custom_now = list(routes)
            made = [Route(path, _FramedCustom(self, path, app), methods=[method]) for path, method, app in routes]
            self._custom_router = Router(routes=made, default=_nothing_there)
        await self._custom_router(scope, receive, send)  # type: ignore[arg-type]

    # -- the frame of every request -----------------------------------------------------------------------------------

    async def _serve_infer(self, found: _InferPath, scope: Scope, receive: Receive, send: Send) -> None:
        async def respond() -> int:
            request = Request(scope, receive, {})
            reply: Reply | None
            try:
                if found.streams:
                    reply = await self._infer.stream(request, found.name, found.version, send)
                    if reply is None:
                        return 200
                else:
                    reply = await self._infer.unary(request, found.name, found.version)
            except ClientGone:
                raise
            except Exception as error:
                reply = error_reply(error)
            return await self._send(send, reply, request)

        await self.count("POST", found.template, respond)

    async def serve(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> int:
        """Answers with what an endpoint gives or raises; the status."""
        request = Request(scope, receive, scope.get("path_params") or {})
        try:
            reply = await endpoint(request)
        except ClientGone:
            raise
        except Exception as error:
            reply = error_reply(error)
        return await self._send(send, reply, request)

    async def _send(self, send: Send, reply: Reply, request: Request) -> int:
        await send_reply(send, reply, request.headers.get("accept-encoding"), may_pack=self._may_pack)
        return reply.status

    async def count(self, method: str, template: str, respond: Callable[[], Awaitable[int]]) -> None:
        """Awaits `respond()`, which gives the status, and counts the request under its path's template."""
        metrics = self._metrics
        started = perf_counter()
        status = 500
        metrics.rest_started(method)
        try:
            status = await respond()
        except ClientGone:
            status = CLIENT_GONE
            raise
        finally:
            metrics.rest_done(method, template, status, perf_counter() - started)


class _Framed:
    """An endpoint as the ASGI application that Starlette's route calls; counted if it has a template."""

    def __init__(self, app: RestApp, template: str | None, endpoint: Endpoint) -> None:
        self._app = app
        self._template = template
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def respond() -> int:
            return await self._app.serve(self._endpoint, scope, receive, send)

        if self._template is None:
            await respond()
        else:
            await self._app.count(scope["method"], self._template, respond)


class _FramedCustom:
    """A model's own endpoint: an ASGI application whose errors and status are taken care of."""

    def __init__(self, app: RestApp, template: str, endpoint: Asgi) -> None:
        self._app = app
        self._template = template
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 0

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        async def respond() -> int:
            try:
                await self._endpoint(scope, receive, watched)
            except ClientGone:
                raise
            except Exception as error:
                if status:
                    raise  # The server below cuts the answer off; there is no other way to say it now.
                await send_reply(send, error_reply(error), None, may_pack=False)
            return status

        await self._app.count(scope["method"], self._template, respond)


class MetricsApp:
    """The ASGI application of the metrics port: one page."""

    def __init__(self, metrics: Metrics, settings: Settings) -> None:
        self._metrics = metrics
        path = settings.metrics_endpoint or "/metrics"
        self._router = Router(
            routes=[Route(path if path.startswith("/") else f"/{path}", self, methods=["GET"])], default=_nothing_there
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _other_scopes(scope, receive, send)
            return
        if "path_params" in scope:  # The router has been here, and sends its one page back to us.
            await self._page(scope, receive, send)
            return
        scope["app"] = self
        try:
            await self._router(scope, receive, send)  # type: ignore[arg-type]
        except HTTPException as error:
            await send_reply(send, error_reply(error), None, may_pack=False)
        except ClientGone:
            pass

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, {})
        page, content_type = self._metrics.render(request.headers.get("accept", ""))
        reply = Reply(200, [(b"content-type", content_type.encode("latin-1"))], [page])
        await send_reply(send, reply, request.headers.get("accept-encoding"), may_pack=True)


async def _nothing_there(scope: Any, receive: Any, send: Any) -> None:
    raise HTTPException(404)


async def _other_scopes(scope: Scope, receive: Receive, send: Send) -> None:
    """Nothing happens at start and stop of the application; websockets are not taken."""
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
