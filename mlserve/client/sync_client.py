"""Client: AsyncClient for code that does not await, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import weakref
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextvars import Context
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from mlserve.client.address import Address
from mlserve.client.async_client import AsyncClient
from mlserve.client.result import InferResult
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
            headers=headers,
            ssl_context=ssl_context,
            max_connections=max_connections,
        )
        self.address = str(Address.parse(address))  # What is wrong with it is said now.
        self._lock = threading.Lock()
        self._runner: _Runner | None = None

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
        answers = runner.client.stream(
            model,
            payload,
            version=version,
            outputs=outputs,
            parameters=parameters,
            id=id,
            headers=headers,
            timeout_seconds=timeout_seconds,
        )

        async def following() -> InferResult | None:
            return await anext(answers, None)

        def iterate(_: Client) -> Generator[InferResult, None, None]:  # It keeps its client from being collected.
            try:
                while (answer := runner.wait(following())) is not None:
                    yield answer
            finally:
                runner.wait(answers.aclose())

        return iterate(self)

    # -- health and metadata ------------------------------------------------------------------------------------------

    def server_live(self) -> bool:
        """Whether the server's process answers. ClientError if nothing answers at all."""
        return self._run(lambda client: client.server_live())

    def server_ready(self) -> bool:
        """Whether the server takes calls. ClientError if nothing answers at all."""
        return self._run(lambda client: client.server_ready())

    def model_ready(self, model: str, *, version: str | None = None) -> bool:
        """Whether a model takes calls. ModelNotFound."""
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
        return runner.wait(call(runner.client))

    def _running(self) -> _Runner:
        """The event loop of this process, started when it is first needed."""
        with self._lock:
            if self._runner is None or self._runner.pid != os.getpid():
                self._runner = _Runner(self._make())
                weakref.finalize(self, self._runner.end)  # For who forgets to close.
            return self._runner

    def close(self) -> None:
        """Closes the connections and ends the thread. Another call starts anew."""
        with self._lock:
            runner, self._runner = self._runner, None
        if runner is not None and runner.pid == os.getpid():
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


class _Runner:
    """An event loop in a daemon thread, and the client that lives there."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="mlserve-client", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def wait(self, call: Coroutine[Any, Any, T]) -> T:
        """What a call gives. If the waiting is interrupted (Ctrl+C), the call is cancelled."""
        if self._loop.is_closed() or threading.current_thread() is self._thread:
            call.close()
            raise RuntimeError("the client is closed")
        # In a context of its own: the caller's may say that this is trio, or another loop's task.
        future = Context().run(asyncio.run_coroutine_threadsafe, call, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def end(self) -> None:
        """Has the loop close the client and stop; does not wait. Does nothing the second time, or after a fork."""
        if self.pid == os.getpid() and not self._loop.is_closed():
            ending = self._end()
            try:
                Context().run(asyncio.run_coroutine_threadsafe, ending, self._loop)
            except RuntimeError:  # It was closed just now.
                ending.close()

    async def _end(self) -> None:
        try:
            await self.client.aclose()
        finally:
            self._loop.stop()

    def join(self) -> None:
        """Waits for the thread's end."""
        if threading.current_thread() is not self._thread:
            self._thread.join()
