"""The application of the metrics port: one page, in the form that the scraper asks for."""

from __future__ import annotations

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from mlserve.metrics import Metrics
from mlserve.rest.replies import Reply, error_reply, send_reply
from mlserve.rest.requests import ClientGone, Request
from mlserve.settings import Settings
from mlserve.unsent import Unsent

__all__ = ["MetricsApp"]


class MetricsApp:
    """The ASGI application of the metrics port."""

    def __init__(self, metrics: Metrics, settings: Settings) -> None:
        self._metrics = metrics
        self._unsent = Unsent()  # no call waits for those who read figures
        self._path = "/" + (settings.metrics_endpoint or "/metrics").strip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await run_lifespan(receive, send)
        elif scope["type"] == "http":
            request = Request(scope, receive, send, {})
            try:
                await send_reply(await self._answer(request), request, self._unsent, may_pack=True)
            except ClientGone:
                pass  # Nobody is left to answer to.

    async def _answer(self, request: Request) -> Reply:
        path: str = request.scope["path"]
        if path.rstrip("/") != self._path.rstrip("/"):
            return error_reply(HTTPException(404, f"there is nothing at this path; the metrics are at {self._path}"))
        if request.scope["method"] not in ("GET", "HEAD"):
            return error_reply(HTTPException(405, headers={"Allow": "GET, HEAD"}))
        if path != self._path:
            return Reply(307, [(b"location", self._path.encode("latin-1"))])
        own, accept = self._metrics.read(), request.headers.get("accept", "")
        page, content_type = await anyio.to_thread.run_sync(self._metrics.write, own, accept, abandon_on_cancel=True)
        return Reply(200, [(b"content-type", content_type.encode("latin-1"))], [page])


async def run_lifespan(receive: Receive, send: Send) -> None:
    """ASGI's start and stop of an application that has nothing to do at either."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
