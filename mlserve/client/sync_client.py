"""Client: AsyncClient for code that does not await, on an event loop in a thread of its own."""

from __future__ import annotations

import ssl
import threading
import weakref
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from mlserve.client.address import Address
from mlserve.client.async_client import AsyncClient
from mlserve.client.result import InferResult
from mlserve.client.runner import AnswerStream, Runner
from mlserve.types import (
    MetadataModelResponse,
    MetadataServerResponse,
    RepositoryIndexResponseItem,
    RequestOutput,
)

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """A client of one server; any thread may use it. Its methods are AsyncClient's, and wait.

    Use it as a context manager, or close it with `close`. After a fork the child has connections of its own.
    """

    def __init__(
        self,
        address: str,
        *,
        binary: bool | None = None,
        timeout_seconds: float | None = 60.0,
        retries: int = 2,
        may_run_twice: bool = False,
        headers: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        max_connections: int = 100,
    ) -> None:
        self._make = partial(
            AsyncClient,
            address,
            binary=binary,
            timeout_seconds=timeout_seconds,
            retries=retries,
            may_run_twice=may_run_twice,
            headers=headers,
            ssl_context=ssl_context,
            max_connections=max_connections,
        )
        self.address = str(Address.parse(address))  # What is wrong with it is said now.
        self._lock = threading.Lock()
        self._runner: Runner | None = None

    # -- inference ----------------------------------------------------------------------------------------------------

    def infer(
        self,
        model: str,
        payload: Any,
        *,
        version: str | None = None,
        outputs: Sequence[str | RequestOutput] | None = None,
        parameters: Mapping[str, Any] | None = None,
        id: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> InferResult:
        """The answer of a model to a payload: an array, a frame, a list of text, a dict of them by the names of the
        inputs, or an InferenceRequest. A CodecError comes before anything is sent."""
        return self._run(
            lambda client: client.infer(
                model,
                payload,
                version=version,
                outputs=outputs,
                parameters=parameters,
                id=id,
                headers=headers,
                timeout_seconds=timeout_seconds,
            )
        )

    def stream(
        self,
        model: str,
        payload: Any,
        *,
        version: str | None = None,
        outputs: Sequence[str | RequestOutput] | None = None,
        parameters: Mapping[str, Any] | None = None,
        id: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> Generator[InferResult, None, None]:
        """The answers of a model, as they come. Without `timeout_seconds` there is no limit to the time.

        Leaving the loop, or closing the generator, before the end cancels the call on the server.
        """
        runner = self._running()
        answers = AnswerStream(
            runner,
            runner.client.stream(
                model,
                payload,
                version=version,
                outputs=outputs,
                parameters=parameters,
                id=id,
                headers=headers,
                timeout_seconds=timeout_seconds,
            ),
        )

        def iterate(_: Client) -> Generator[InferResult, None, None]:  # It keeps its client from being collected.
            try:
                while (answer := answers.next()) is not None:
                    yield answer
            finally:
                answers.close()

        return iterate(self)

    # -- health and metadata ------------------------------------------------------------------------------------------

    def server_live(self) -> bool:
        """Whether the server's process answers. ClientError if nothing answers at all."""
        return self._run(lambda client: client.server_live())

    def server_ready(self) -> bool:
        """Whether the server takes calls. ClientError if nothing answers at all."""
        return self._run(lambda client: client.server_ready())

    def model_ready(self, model: str, *, version: str | None = None) -> bool:
        """Whether a model takes calls; one that the server does not have does not. ClientError if nothing answers."""
        return self._run(lambda client: client.model_ready(model, version=version))

    def server_metadata(self) -> MetadataServerResponse:
        """Name, version and extensions of the server."""
        return self._run(lambda client: client.server_metadata())

    def model_metadata(self, model: str, *, version: str | None = None) -> MetadataModelResponse:
        """Versions, platform, inputs and outputs of a model. ModelNotFound."""
        return self._run(lambda client: client.model_metadata(model, version=version))

    # -- the repository -----------------------------------------------------------------------------------------------

    def repository_index(self, *, ready: bool = False) -> list[RepositoryIndexResponseItem]:
        """The models in the repository with their states; with `ready` only those that are ready."""
        return self._run(lambda client: client.repository_index(ready=ready))

    def repository_load(self, model: str, *, timeout_seconds: float | None = None) -> None:
        """Loads a model, or loads it again. ModelNotFound, ModelLoadError."""
        self._run(lambda client: client.repository_load(model, timeout_seconds=timeout_seconds))

    def repository_unload(self, model: str, *, timeout_seconds: float | None = None) -> None:
        """Unloads a model. ModelNotFound."""
        self._run(lambda client: client.repository_unload(model, timeout_seconds=timeout_seconds))

    # -- running ------------------------------------------------------------------------------------------------------

    def _run(self, call: Callable[[AsyncClient], Coroutine[Any, Any, T]]) -> T:
        runner = self._running()
        return runner.wait(lambda: call(runner.client))

    def _running(self) -> Runner:
        """The event loop of this process, started when it is first needed."""
        with self._lock:
            if self._runner is None or not self._runner.is_here:
                self._runner = Runner(self._make())
                weakref.finalize(self, self._runner.end).atexit = False  # For who forgets to close.
            return self._runner

    def close(self) -> None:
        """Closes the connections and ends the thread. Another call starts anew."""
        with self._lock:
            runner, self._runner = self._runner, None
        if runner is not None:
            runner.end()
            runner.join()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self.address}>"
