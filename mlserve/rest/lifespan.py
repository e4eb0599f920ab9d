"""Runs the lifespan of an ASGI application: startup before the first request, shutdown after the last."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import anyio

from mlserve.errors import StartupError
from mlserve.rest.h1_exchange import Application, Receive, Send

__all__ = ["Lifespan"]

log = logging.getLogger(__name__)


class Lifespan:
    """The conversation with one application; `run` is its task, from before `startup` to after `shutdown`.

    An application that does not know the lifespan protocol (it raises or returns) is served all the same, as ASGI asks.
    """

    def __init__(self, app: Application) -> None:
        self.state: dict[str, Any] = {}
        self.failure: str | None = None  # what the application gave as the reason why it cannot start
        self._app = app
        self._asked = 0  # how many messages the application may receive: startup, then shutdown
        self._received = 0
        self._ask = anyio.Event()
        self._started = anyio.Event()
        self._stopped = anyio.Event()

    async def run(self) -> None:
        """Call the application; returns when it does."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._receive, self._send)
        except Exception:
            if self._started.is_set():
                log.exception("the application's lifespan failed")
            else:
                log.debug("the application has no lifespan", exc_info=True)
        finally:
            self._started.set()
            self._stopped.set()

    async def startup(self) -> None:
        """Wait until the application is up; see `failure` then."""
        self._asked = 1
        await self._started.wait()

    def raise_failure(self) -> None:
        """Raise StartupError if the application said that it cannot start."""
        if self.failure is not None:
            raise StartupError(f"the application cannot start: {self.failure}")

    def leave_out(self) -> Application:
        """The application for a server that would run its lifespan a second time."""

        async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await send({"type": "lifespan.shutdown.complete"})
            else:
                scope["state"] = self.state.copy()
                await self._app(scope, receive, send)

        return app

    async def shutdown(self, timeout_seconds: float) -> None:
        """Wait until the application has cleaned up, for a bounded time."""
        self._asked = 2
        self._ask.set()
        with anyio.move_on_after(timeout_seconds):
            await self._stopped.wait()

    async def _receive(self) -> dict[str, Any]:
        if self._received == self._asked:
            await self._ask.wait()
        self._received += 1
        if self._received > 2:
            await anyio.sleep_forever()
        return {"type": "lifespan.startup" if self._received == 1 else "lifespan.shutdown"}

    async def _send(self, message: Mapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.failed":
            self.failure = message.get("message") or "no reason given"
        elif kind == "lifespan.shutdown.failed":
            log.error("the application's shutdown failed: %s", message.get("message") or "no reason given")
        elif kind not in ("lifespan.startup.complete", "lifespan.shutdown.complete"):
            raise RuntimeError(f"unexpected ASGI message {kind!r}")
        (self._started if kind.startswith("lifespan.startup") else self._stopped).set()
