"""The calls of one connection, each in a task of its own that the connection ends and the server waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

from grpclib.protocol import AbstractHandler, Stream
from h2.errors import ErrorCodes
from h2.exceptions import StreamClosedError

from mlserve.grpc.call import Call, CallLimits, Fields, Method, answer_for_want_of_descriptors, refusal
from mlserve.grpc.connection import GrpcConnection, GrpcProtocol, HttpStream
from mlserve.metrics import Metrics

__all__ = ["CallHandler"]

logger = logging.getLogger("mlserve.grpc")


class CallHandler(AbstractHandler):
    """Starts, cancels and keeps count of calls.

    Tasks are the loop's own, not a task group's: a group costs more than a small call, and these tasks have an owner
    too: the listener, which waits for them at the end.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        metrics: Metrics,
        limits: CallLimits,
        tasks: set[asyncio.Task[None]],
    ) -> None:
        self._all_tasks = tasks  # of all connections; a call may outlive its own while it cleans up
        self._methods = methods
        self._metrics = metrics
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._calls: dict[Stream, tuple[asyncio.Task[None], Call | None]] = {}
        self.draining = False
        self.unwelcome = False  # its connection has one of the last descriptors: a first call is told, then it closes
        self.protocol: GrpcProtocol | None = None  # set by whoever makes both

    def accept(self, stream: Stream, headers: Sequence[Any], release_stream: Callable[[], Any]) -> None:
        """Starts the call that a client has opened."""
        http_stream = cast(HttpStream, stream)
        if self.draining:
            with suppress(StreamClosedError):  # its client has given it up already
                stream.reset_nowait(ErrorCodes.REFUSED_STREAM)
            release_stream()
            return
        fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        method, answer = refusal(fields, self._methods)
        if self.unwelcome:
            method, answer = None, answer_for_want_of_descriptors()
        call = None
        if method is None:
            task = self._loop.create_task(_refuse(http_stream, answer))
        else:
            call = Call(http_stream, method, fields, self._metrics, self._limits)
            task = self._loop.create_task(call.run())
        self._calls[stream] = (task, call)
        if self.unwelcome:
            self.drain()
        self._all_tasks.add(task)
        task.add_done_callback(partial(self._done, stream, release_stream))

    def cancel(self, stream: Stream) -> None:
        """Ends a call that its client gave up."""
        found = self._calls.get(stream)
        if found is not None:
            found[0].cancel()

    def close(self) -> None:
        """Ends all calls: the client is gone."""
        for task, _ in self._calls.values():
            task.cancel()

    def drain(self) -> None:
        """Takes no more calls; closes the connection when the last one is done."""
        self.draining = True
        assert self.protocol is not None
        self.protocol.connection.goaway()
        self._close_if_idle()

    def end_calls(self, status: str, message: str, wanted: Callable[[Method], bool]) -> None:
        """Ends running calls with a status that their clients can read."""
        for _, call in self._calls.values():
            if call is not None and wanted(call.method):
                call.end(status, message)

    def _done(self, stream: Stream, release_stream: Callable[[], Any], task: asyncio.Task[None]) -> None:
        """Runs after each call, also after one that was cancelled before it began."""
        del self._calls[stream]
        self._all_tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("a gRPC call ended without an answer", exc_info=task.exception())
        release_stream()
        cast(HttpStream, stream).inbox.drop()  # of a client that has left it would count for ever
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self.draining and not self._calls and self.protocol is not None:
            connection: GrpcConnection = self.protocol.connection
            connection.close()


async def _refuse(stream: HttpStream, fields: Fields) -> None:
    """Answers a call that no method takes."""
    try:
        await stream.send_headers(list(fields), end_stream=True)
        if stream.closable:
            stream.reset_nowait(ErrorCodes.NO_ERROR)
            stream.connection.flush()
    except (StreamClosedError, ConnectionError):
        pass
