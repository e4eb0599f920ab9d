"""The REST application: finds the endpoint for a path, turns errors into answers, counts, and answers.

Infer paths are split here and go straight to their endpoint; everything else is found by Starlette's router. Below
both lies the same frame (`count` and `answer`), so that a request is counted, answered and logged in one way.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlserve.errors import CallerLeft, MLServeError
from mlserve.intake import Intake
from mlserve.metrics import Metrics
from mlserve.rest.control import ControlEndpoints, Controls
from mlserve.rest.docs import DocsEndpoints
from mlserve.rest.h1_exchange import DISCONNECT_EXTENSION
from mlserve.rest.infer import InferEndpoints, Infers
from mlserve.rest.metrics_page import MetricsApp, run_lifespan
from mlserve.rest.replies import CLIENT_GONE, Reply, error_reply, send_reply
from mlserve.rest.requests import ClientGone, Request, patient_send
from mlserve.rest.slashes import DECODED_PATH, keep_slashes, with_slashes
from mlserve.settings import Settings
from mlserve.unsent import Unsent

__all__ = ["Backend", "CustomRoute", "MetricsApp", "RestApp"]

logger = logging.getLogger("mlserve.rest")

Endpoint = Callable[[Request], Awaitable[Reply | None]]  # None: it has sent its answer itself
CustomRoute = tuple[str, str, ASGIApp, dict[str, str]]  # path (with {parameters}), method, application, error codes

_VERBS = ("infer", "generate", "infer_stream", "generate_stream")
_MODEL = "/v2/models/{model_name}"
_VERSION = "/v2/models/{model_name}/versions/{model_version}"


class Backend(Infers, Controls, Protocol):
    """What the application needs of the data plane.

    A data plane with `custom_routes() -> list[CustomRoute]` has these served too; the list may change at any time.
    """


_TEMPLATES = {verb: f"{_MODEL}/{verb}" for verb in _VERBS}
_VERSION_TEMPLATES = {verb: f"{_VERSION}/{verb}" for verb in _VERBS}


def _split_infer_path(path: str) -> tuple[str, dict[str, Any]] | None:
    """The template of the path and its parameters, if it is an infer path as it should be."""
    parts = path.split("/")
    verb = parts[-1]
    if verb not in _TEMPLATES or parts[0] or parts[1:3] != ["v2", "models"] or not parts[3]:
        return None
    if len(parts) == 5:
        return _TEMPLATES[verb], {"model_name": parts[3]}
    if len(parts) == 7 and parts[4] == "versions" and parts[5]:
        return _VERSION_TEMPLATES[verb], {"model_name": parts[3], "model_version": parts[5]}
    return None


class RestApp:
    """The ASGI application of the REST port."""

    def __init__(
        self,
        dataplane: Backend,
        metrics: Metrics,
        settings: Settings,
        unsent: Unsent | None = None,
        intake: Intake | None = None,
    ) -> None:
        self._metrics = metrics
        self.intake = intake or Intake()
        self.unsent = unsent or Unsent()
        self._send_seconds = settings.send_timeout_seconds
        self._may_pack = settings.gzip_enabled
        self._root_path = settings.root_path.rstrip("/")
        infer = InferEndpoints(dataplane, settings, self.unsent)
        self._infer: dict[str, Endpoint] = {  # by template
            f"{prefix}/{verb}": infer.stream if verb.endswith("_stream") else infer.unary
            for prefix in (_MODEL, _VERSION)
            for verb in _VERBS
        }
        self._router = Router(routes=self._routes(dataplane, settings), default=self._custom)
        self._custom_routes: Callable[[], Sequence[CustomRoute]] = getattr(dataplane, "custom_routes", list)
        self._custom_now: Sequence[CustomRoute] = ()
        self._custom_router = Router(default=_nothing_there)
        self._entry: ASGIApp = self._dispatch
        cors = settings.cors_settings
        if cors is not None:
            self._entry = CORSMiddleware(
                self._dispatch,
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
            if b"%2" in scope.get("raw_path", b""):
                scope = keep_slashes(scope)
            if DISCONNECT_EXTENSION not in scope.get("extensions", ()):
                send = patient_send(send, self._send_seconds)
            await self._entry(scope, receive, send)
        elif scope["type"] == "lifespan":
            await run_lifespan(receive, send)

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
        # POST to these is dispatched before; here they give GET its 405, and a last slash its redirect.
        return routes + [post(path, endpoint) for path, endpoint in self._infer.items()]

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
                    template, params = found
                    if DECODED_PATH in scope:
                        params = with_slashes(params)
                    request = Request(scope, receive, send, params, self.intake)
                    await self.count("POST", template, partial(self.answer, self._infer[template], request))
                    return
            await self._route(scope, receive, send)
        except ClientGone:
            pass  # Nobody is left to answer to, and the metrics have it.

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._root_path:
            scope["root_path"] = self._root_path
        scope["app"] = self  # With it, Starlette raises what it cannot route, instead of answering in plain text.
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            await self.send(error_reply(error), Request(scope, receive, send, {}))

    async def _custom(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Looks among the routes that models brought along, which know names with a slash as they are."""
        if DECODED_PATH in scope:
            scope = {**scope, "path": scope[DECODED_PATH]}
        routes = self._custom_routes()
        if routes != self._custom_now:
            self._custom_now = list(routes)
            made = [
                Route(path, _FramedCustom(self, path, app, codes), methods=[method])
                for path, method, app, codes in routes
            ]
            self._custom_router = Router(routes=made, default=_nothing_there)
        await self._custom_router(scope, receive, send)

    # -- the frame of every request -----------------------------------------------------------------------------------

    async def answer(self, endpoint: Endpoint, request: Request) -> int:
        """Answers with what an endpoint gives or raises; the status."""
        try:
            try:
                reply = await endpoint(request)
            except ClientGone:
                raise
            except Exception as error:
                reply = error_reply(error, None if request.inference is None else request.inference.id)
            return 200 if reply is None else await self.send(reply, request)
        finally:
            if request.share is not None:
                request.share.close()

    async def send(self, reply: Reply, request: Request) -> int:
        """Sends an answer; its status."""
        await send_reply(reply, request, self.unsent, may_pack=self._may_pack)
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
        params = with_slashes(scope["path_params"]) if DECODED_PATH in scope else scope["path_params"]
        respond = partial(self._app.answer, self._endpoint, Request(scope, receive, send, params, self._app.intake))
        if self._template is None:
            await respond()
        else:
            await self._app.count(scope["method"], self._template, respond)


class _FramedCustom:
    """A model's own endpoint: an ASGI application whose errors and status are taken care of."""

    def __init__(self, app: RestApp, template: str, endpoint: ASGIApp, error_codes: dict[str, str]) -> None:
        self._app = app
        self._template = template
        self._endpoint = endpoint
        self._error_codes = error_codes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, is_whole = 0, False

        async def watched(message: Message) -> None:
            nonlocal status, is_whole
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                is_whole = not message.get("more_body", False)
            with self._app.unsent.holding(len(message.get("body", b""))):
                await send(message)

        async def respond() -> int:
            try:
                await self._endpoint(scope, receive, watched)
            except ClientGone:
                raise
            except CallerLeft as error:
                if is_whole:
                    return status  # it left with its answer
                raise ClientGone(error.message) from None
            except Exception as error:
                if status:  # The server below cuts the answer off; there is no other way to say it now.
                    if not isinstance(error, MLServeError):
                        raise
                    logger.warning("%s %s: the answer is broken off: %s", scope["method"], scope["path"], error)
                    return error.http_status
                reply = error_reply(error, error_codes=self._error_codes)
                return await self._app.send(reply, Request(scope, receive, send, {}))
            return status

        await self._app.count(scope["method"], self._template, respond)


async def _nothing_there(scope: Scope, receive: Receive, send: Send) -> None:
    raise HTTPException(404)
