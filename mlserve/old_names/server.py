"""`mlserver.MLServer`: a server inside a program of one's own, over models that are given as settings objects."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.abc

from mlserve.repository import GivenModels
from mlserve.server import Server
from mlserve.settings import ModelSettings, Settings

__all__ = ["MLServer"]


class MLServer:
    """Serves the models that `start` is given. `mlserve.server.Server` is the same for any repository."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: Server | None = None

    async def start(
        self,
        models_settings: Sequence[ModelSettings] = (),
        *,
        task_status: anyio.abc.TaskStatus[Server] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serves until `stop`, SIGTERM or SIGINT; in a thread that is not the main one, signals are left alone.

        StartupError if a port is taken or no worker comes up.
        """
        settings = self._settings.model_copy(update={"load_models_at_startup": True})  # that is about a repository's
        self._server = server = Server(settings, GivenModels(map(_for_workers, models_settings)))
        async with anyio.create_task_group() as tasks:
            if threading.current_thread() is threading.main_thread():
                await tasks.start(_stop_on_signals, server)
            await server.run(task_status=task_status)
            tasks.cancel_scope.cancel()

    async def stop(self, sig: int | None = None) -> None:
        """Asks for an orderly end; `start` returns when it has come. The number of a signal makes no difference."""
        if self._server is not None:
            self._server.stop()


def _for_workers(settings: ModelSettings) -> ModelSettings:
    """The settings with a class that workers can import: one of the running script is found in its file.

    So the script is imported in each worker process, under another name than `__main__`; a worker that is a thread
    takes the class of the program that runs.
    """
    given = settings.implementation
    file = getattr(sys.modules["__main__"], "__file__", None)
    if not isinstance(given, type) or given.__module__ != "__main__" or file is None:
        return settings
    script = Path(file).resolve()
    made = settings.model_copy(update={"implementation": f"{script.stem}.{given.__qualname__}"})
    made.source_dir = settings.source_dir or script.parent
    return made


async def _stop_on_signals(server: Server, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            server.stop()
