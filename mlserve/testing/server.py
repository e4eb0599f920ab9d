"""A server inside the test's process, with everything that `mlserve start` has."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from anyio.from_thread import start_blocking_portal

from mlserve.errors import MLServeError, ModelLoadError
from mlserve.repository import GivenModels, ModelRepository, open_repository
from mlserve.server import Server
from mlserve.settings import ModelSettings, Settings, load_settings
from mlserve.types import InferenceRequest, InferenceResponse, State

__all__ = ["RunningServer", "running_server"]

_STOP_SECONDS = 60.0


class RunningServer:
    """A server that `running_server` started."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def __repr__(self) -> str:
        return f"<RunningServer {self.rest} {self.grpc}>"

    @property
    def rest(self) -> str:
        """Where REST is, such as http://127.0.0.1:40123."""
        return f"http://{self._address('http')}"

    @property
    def grpc(self) -> str:
        """Where gRPC is, such as 127.0.0.1:40124."""
        return self._address("grpc")

    @property
    def metrics(self) -> str:
        """Where the metrics are, such as http://127.0.0.1:40125."""
        return f"http://{self._address('metrics')}"

    def infer(
        self, model: str, request: InferenceRequest, version: str | None = None, timeout_seconds: float = 60.0
    ) -> InferenceResponse:
        """One call over REST. MLServeError with the status and text of the server's refusal."""
        path = f"/v2/models/{model}/versions/{version}/infer" if version else f"/v2/models/{model}/infer"
        body = request.model_dump_json().encode()
        call = urllib.request.Request(f"{self.rest}{path}", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(call, timeout=timeout_seconds) as answer:
                return InferenceResponse.model_validate_json(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise MLServeError(json.load(error).get("error", ""), error.code) from None

    def _address(self, name: str) -> str:
        host, port = self.server.addresses[name]
        return f"{host}:{port}"


@contextmanager
def running_server(
    models: Path | str | ModelSettings | Iterable[ModelSettings], **settings: Any
) -> Iterator[RunningServer]:
    """A server for a folder of models, or for models given as settings, in a thread and on free ports.

    `settings` are server settings; models run in a thread (`parallel_workers: 0`) unless they say otherwise. Classes
    given as `implementation` must stand at the top of a module, since workers import them by name. StartupError if
    the server does not start, ModelLoadError if a model does not load. The end waits for calls under way.
    """
    given = {"host": "127.0.0.1", "http_port": 0, "grpc_port": 0, "metrics_port": 0, "parallel_workers": 0, **settings}
    server_settings, repository = _opened(models, given)
    with closing(repository), start_blocking_portal(server_settings.backend) as portal:
        try:
            ended, server = portal.start_task(_serve, server_settings, repository)
        except BaseException as error:
            raise _innermost(error) from None
        try:
            for model in server.models:
                if model.state is not State.READY:
                    raise ModelLoadError(f"model '{model.name}' is {model.state}: {model.reason}")
            yield RunningServer(server)
        finally:
            portal.call(server.stop)
            ended.result(_STOP_SECONDS)


async def _serve(settings: Settings, repository: ModelRepository, *, task_status: anyio.abc.TaskStatus[Server]) -> None:
    await Server(settings, repository).run(task_status=task_status)


def _opened(models: Any, given: dict[str, Any]) -> tuple[Settings, ModelRepository]:
    if isinstance(models, str | Path):
        settings = load_settings(models, given)
        return settings, open_repository(models, settings)
    listed = [models] if isinstance(models, ModelSettings) else list(models)
    return load_settings(None, given), GivenModels(listed)


def _innermost(error: BaseException) -> BaseException:
    """The one error in nested groups, where there is only one."""
    inner: Any = getattr(error, "exceptions", ())
    return _innermost(inner[0]) if len(inner) == 1 else error
