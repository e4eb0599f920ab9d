"""`mlserver.metrics`: custom metrics, and the metrics page on a port of its own for programs without a server.

`mlserve start` needs neither `configure_metrics` nor `MetricsServer`: it counts and serves by itself.
"""

from __future__ import annotations

from functools import cache

import anyio
import anyio.abc

from mlserve.custom_metrics import bind_sink, log, register
from mlserve.metrics import Metrics
from mlserve.settings import Settings

__all__ = ["MetricsServer", "configure_metrics", "log", "register"]


@cache
def _shown() -> Metrics:
    """What programs of this kind count; a server has figures of its own."""
    return Metrics("mlserver", "rest_server")


class _Sink:
    """Takes what models log, outside a worker."""

    def register(self, name: str, description: str) -> None:
        _shown().register_custom(name, description)

    def observe(self, model_name: str, model_version: str, values: dict[str, float]) -> None:
        _shown().observe_custom(model_name, model_version, values)


def configure_metrics(settings: Settings) -> None:
    """From here on, in this context, `register` and `log` count for the page of `MetricsServer`."""
    bind_sink(_Sink())


class MetricsServer:
    """The metrics page, at `metrics_endpoint` of `metrics_port`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.address: tuple[str, int] | None = None  # once it listens
        self._stop: anyio.Event | None = None

    async def start(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serves until `stop`. StartupError if the port is taken."""
        self._stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            self.address = await tasks.start(self._serve, self._stop)
            task_status.started()

    async def _serve(self, stop: anyio.Event, *, task_status: anyio.abc.TaskStatus[tuple[str, int]]) -> None:
        # Imported here, since models in workers import this module for `register` and `log` alone.
        from mlserve.rest.metrics_page import MetricsApp
        from mlserve.rest.serve import serve

        app = MetricsApp(_shown(), self.settings)
        host, port = self.settings.host, self.settings.metrics_port
        await serve(app, host=host, port=port, shutdown_trigger=stop.wait, task_status=task_status)

    async def stop(self, sig: int | None = None) -> None:
        """Ends `start`; the number of a signal makes no difference."""
        if self._stop is not None:
            self._stop.set()

    async def on_worker_stop(self, worker: object) -> None:
        """Nothing is left to clean up: workers keep no figures on disk."""
