"""Call: one gRPC call from its headers to its trailers.

    headers ──▶ messages in ◀──▶ messages out ──▶ trailers
                  │ MLServeError, deadline, shutdown: trailers with that status
                  │ anything unexpected: INTERNAL, the traceback goes to the log
                  └ the client is gone: nothing is sent, the handler's task is cancelled

Errors become statuses here and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes
from h2.exceptions import StreamClosedError

from mlserve.errors import InvalidRequest, MLServeError
from mlserve.grpc.compression import ACCEPTED, pack, unpacker
from mlserve.grpc.connection import HttpStream
from mlserve.grpc.metadata import quoted_message, request_headers, timeout_seconds, trailing_fields
from mlserve.intake import COUNTED_FROM_BYTES, PAUSE_SECONDS, Intake, Share
from mlserve.metrics import Metrics
from mlserve.sockets import NO_DESCRIPTORS
from mlserve.unsent import COUNTED_FROM_BYTES as UNSENT_FROM_BYTES
from mlserve.unsent import Unsent
from mlserve.wire.protowire import Chunk
from mlserve.wire.schema import method_classes

__all__ = ["Call", "CallLimits", "Method", "answer_for_want_of_descriptors", "methods_of", "refusal"]

logger = logging.getLogger("mlserve.grpc")

Fields = Sequence[tuple[str, str]]

_CONTENT_TYPES = frozenset(("application/grpc", "application/grpc+proto"))
_KINDS = {
    Cardinality.UNARY_UNARY: "UNARY",
    Cardinality.UNARY_STREAM: "SERVER_STREAMING",
    Cardinality.STREAM_UNARY: "CLIENT_STREAMING",
    Cardinality.STREAM_STREAM: "BIDI_STREAMING",
}
_HEADERS = [(":status", "200"), ("content-type", "application/grpc")]
# The data plane ends a call at its deadline; this much later the call itself does, whatever it waits for.
_DEADLINE_GRACE_SECONDS = 0.1
_RETRIED = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")  # by clients with a policy of retries: gRPC's proposal A6
_STATUS_NUMBERS = {status.name: str(status.value) for status in Status}


@dataclass(frozen=True)
class Method:
    """One method of a service. `parse` makes a message of bytes; None for a method that does it itself."""

    func: Any
    service: str
    name: str
    kind: str
    client_streaming: bool
    server_streaming: bool
    parse: Callable[[bytes], Any] | None


@dataclass(frozen=True)
class CallLimits:
    """What holds for all calls of a server."""

    message_bytes: int
    packs_answers: bool = True
    intake: Intake = field(default_factory=Intake)
    unsent: Unsent = field(default_factory=Unsent)
    send_seconds: float = 60.0  # without the client taking a byte of what is sent to it; 0: for ever
    pause_seconds: float = PAUSE_SECONDS  # without a byte of a message that is half there


def methods_of(mapping: Mapping[str, Handler]) -> dict[str, Method]:
    """The methods of a generated service, by path."""
    methods = {}
    for path, handler in mapping.items():
        _, service, name = path.split("/")
        streaming = handler.cardinality
        methods[path] = Method(
            handler.func,
            service,
            name,
            _KINDS[streaming],
            streaming.client_streaming,
            streaming.server_streaming,
            None if handler.request_type is bytes else partial(_parse, handler.request_type, _checker(service, name)),
        )
    return methods


def refusal(fields: Fields, methods: Mapping[str, Method]) -> tuple[Method | None, list[tuple[str, str]]]:
    """The method that a call's headers name, or the headers of the answer that refuses it."""
    values = dict(fields)
    if values.get(":method") != "POST":
        return None, [(":status", "405")]
    if values.get("content-type", "").partition(";")[0] not in _CONTENT_TYPES:
        return None, [(":status", "415"), *_status("INVALID_ARGUMENT", "content-type must be application/grpc")]
    if values.get("te") != "trailers":
        return None, [(":status", "400"), *_status("INVALID_ARGUMENT", 'the header "te: trailers" is missing')]
    method = methods.get(values.get(":path", ""))
    if method is None:
        return None, [*_HEADERS, *_status("UNIMPLEMENTED", f"Method {values.get(':path')} not found")]
    return method, []


def answer_for_want_of_descriptors() -> list[tuple[str, str]]:
    """The headers of the answer to a call whose connection there is no room for."""
    return [*_HEADERS, *_status("UNAVAILABLE", NO_DESCRIPTORS), ("grpc-retry-pushback-ms", "1000")]


class Call(AsyncIterator[Any]):
    """What a handler gets: messages in and out, the client's metadata, and trailing metadata to fill."""

    def __init__(
        self, stream: HttpStream, method: Method, fields: Fields, metrics: Metrics, limits: CallLimits
    ) -> None:
        self.method = method
        self.trailing: dict[str, Any] = {}  # metadata for the trailers of a call that succeeds
        self._stream = stream
        self._fields = fields
        self._metrics = metrics
        self._limit_bytes = limits.message_bytes
        self._packs_answers = limits.packs_answers
        self.intake = limits.intake
        self.unsent = limits.unsent
        self._send_seconds = limits.send_seconds
        self._pause_seconds = limits.pause_seconds
        self._share = Share(limits.intake)  # of the last message, where it is large, until somebody takes it over
        self._values = dict(fields)
        self._headers_sent = False
        self._sent = 0
        self._packing = ""  # the encoding of our answers; "" until a message of the client came packed
        self._deadline: float | None = None
        self._end: tuple[str, str] | None = None  # the status with which the call was ended from outside
        self._pushback = "-1"  # milliseconds after which the call may be sent again; "-1": never, a model may have run
        self._task: asyncio.Task[None] | None = None
        self._timers: list[asyncio.TimerHandle] = []  # that end the call; cancelled when it has ended
        stream.inbox.count_in(limits.intake, self._end_for_want_of_memory)

    @property
    def headers(self) -> dict[str, str | bytes]:
        """The client's metadata, a new dict each time. InvalidRequest if some cannot be read."""
        return request_headers(self._fields)

    def metadata(self, name: str) -> str | None:
        """One value of the client's metadata."""
        return self._values.get(name)

    def time_left(self) -> float | None:
        """Seconds until the client's deadline; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - asyncio.get_running_loop().time())

    def bound(self, seconds: float | None) -> None:
        """Ends the call after so many seconds (and a little), also while its client does not read."""
        if seconds is not None:
            loop = asyncio.get_running_loop()
            late = seconds + _DEADLINE_GRACE_SECONDS
            self._timers.append(loop.call_later(late, self.end, "DEADLINE_EXCEEDED", "the call's time is over"))

    def end(self, status: str, message: str) -> None:
        """Ends the call from outside with this status."""
        if self._end is None:
            self._end = (status, message)
            if self._task is not None:
                self._task.cancel()

    def _end_for_want_of_memory(self) -> None:
        refusal = self.intake.refusal()
        if not self.method.client_streaming:  # no model has seen any of it
            self._pushback = _pushback(refusal)
        self.end("RESOURCE_EXHAUSTED", refusal.message)

    # -- messages -----------------------------------------------------------------------------------------------------

    async def recv_message(self) -> Any:
        """The client's next message; None at the end of its stream.

        InvalidRequest if it cannot be read, BodyTooLarge if it is over the limit, packed or not; Overloaded if there is
        no memory for it, unpacked; MLServeError (408) if its client stops in the middle of it.
        """
        found = await self._stream.inbox.message(self._limit_bytes, self._hold, self._pause_seconds)
        method = self.method
        if found is None:
            if method.client_streaming:
                return None
            raise InvalidRequest("the call has no message")
        packed, data = found
        if packed:
            data = await self._unpack(data)
        if method.client_streaming:
            self._metrics.grpc_received(method.kind, method.service, method.name)
        return data if method.parse is None else method.parse(bytes(data))

    def _hold(self, size_bytes: int) -> None:
        """Counts a message in that is whole, and the one before it out. Overloaded if there is no memory."""
        share = self._share
        if share.held_bytes:
            share.give(share.held_bytes)
        if size_bytes > COUNTED_FROM_BYTES:
            share.take(size_bytes)

    def hand_over(self) -> Share:
        """What the last message takes of the intake. The caller closes it."""
        share, self._share = self._share, Share(self.intake)
        return share

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        """The next message, which is not kept here."""
        message = await self.recv_message()
        if message is None:
            raise StopAsyncIteration
        return message

    async def send_message(self, message: Any) -> None:
        """Sends a message: the chunks of one, or a betterproto message. Waits while the client does not read."""
        chunks: Sequence[Chunk] = message if isinstance(message, list) else (bytes(message),)
        size = sum(map(len, chunks))
        flag = b"\0"
        held = size if size >= UNSENT_FROM_BYTES else 0  # unpacked: whoever gave it to us has it until it is sent
        if held:
            self.unsent.hold(held)
        try:
            if self._packing:
                packed = await self._pack(chunks, size)
                if packed is not None:
                    chunks, size, flag = (packed,), len(packed), b"\1"
            if not self._headers_sent:
                await self._send_headers()
            await self._stream.send_chunks((flag + size.to_bytes(4, "big"), *chunks), self._send_seconds)
        finally:
            if held:
                self.unsent.give(held)
        self._sent += 1
        if self.method.server_streaming:
            self._metrics.grpc_sent(self.method.kind, self.method.service, self.method.name)

    async def _pack(self, chunks: Sequence[Chunk], size: int) -> bytes | None:
        """The message packed, a large one in a thread, where zlib leaves the event loop free; None if it does not pay.

        A call that ends meanwhile does not wait for the thread, which holds the message until it is done.
        """
        if size < _PACKED_HERE_BYTES:
            return pack(chunks, size, self._packing)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, pack, chunks, size, self._packing)

    async def _unpack(self, data: bytes | memoryview) -> memoryview:
        """The message as it was before the client packed it; a large one is unpacked in a thread.

        A call that ends meanwhile does not wait for the thread, which sees that at its next step.
        """
        encoding = self._values.get("grpc-encoding", "")
        unpacking = unpacker(data, encoding, self._limit_bytes, self._share)
        if unpacking.step(_UNPACKED_HERE_BYTES):
            message = unpacking.result()
        else:
            in_thread = partial(asyncio.get_running_loop().run_in_executor, None)
            message = await unpacking.finish_in(in_thread)
        if len(data) > COUNTED_FROM_BYTES:  # and is not needed any more
            self._share.give(len(data))
        # grpcio says of every client that it reads gzip. Only one that packs itself thinks that it pays.
        if self._packs_answers and not self._headers_sent:
            accepted = self._values.get("grpc-accept-encoding", "").replace(" ", "").split(",")
            self._packing = encoding if encoding in accepted else ""
        return memoryview(message)

    async def _send_headers(self) -> None:
        fields = [*_HEADERS, ("grpc-encoding", self._packing)] if self._packing else _HEADERS
        await self._stream.send_headers(fields)
        self._headers_sent = True

    # -- from start to end --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs the handler and answers with its status. Raises only CancelledError."""
        method, started = self.method, time.perf_counter()
        self._metrics.grpc_started(method.kind, method.service, method.name)
        code = "CANCELLED"
        try:
            status, message = await self._handle()
            await self._send_trailers(status, message)
            code = status
        except (StreamClosedError, ConnectionError):
            pass  # The client left while we were sending.
        finally:
            self._share.close()
            seconds = time.perf_counter() - started
            self._metrics.grpc_done(method.kind, method.service, method.name, code, seconds)

    async def _handle(self) -> tuple[str, str]:
        """The status of the call, by name, and its message."""
        self._task = asyncio.current_task()
        try:
            self._start_timer()
            if self._end is not None:
                return self._end
            await self.method.func(self)
            if not self._sent and not self.method.server_streaming:
                raise RuntimeError(f"{self.method.name} has sent no answer")
        except asyncio.CancelledError:
            if self._end is None:
                raise
            return self._end
        except MLServeError as error:
            if error.retryable:
                self._pushback = _pushback(error)
            return error.grpc_status, error.message
        except GRPCError as error:
            return error.status.name, error.message or ""
        except (StreamClosedError, ConnectionError):
            raise
        except Exception:
            logger.exception("gRPC call %s/%s failed", self.method.service, self.method.name)
            return "INTERNAL", "internal error; the server's log says more"
        finally:
            self._task = None
            for timer in self._timers:
                timer.cancel()
        return "OK", ""

    def _start_timer(self) -> None:
        timeout = self._values.get("grpc-timeout")
        if timeout is not None:
            seconds = timeout_seconds(timeout)
            self._deadline = asyncio.get_running_loop().time() + seconds
            self.bound(seconds)

    async def _send_trailers(self, status: str, message: str) -> None:
        fields = [] if self._headers_sent else [*_HEADERS]
        fields += _status(status, message)
        if status == "OK":
            fields += trailing_fields(self.trailing)
        elif status == "UNIMPLEMENTED":
            fields.append(("grpc-accept-encoding", ACCEPTED))
        elif status in _RETRIED:
            fields.append(("grpc-retry-pushback-ms", self._pushback))
        stream = self._stream
        await stream.send_headers(fields, end_stream=True)
        if stream.closable:  # The client still sends; it need not.
            stream.reset_nowait(ErrorCodes.NO_ERROR)
            stream.connection.flush()


# A thread costs as much as packing some 10 KiB.
_PACKED_HERE_BYTES = 32 << 10
_UNPACKED_HERE_BYTES = 128 << 10


def _status(status: str, message: str) -> list[tuple[str, str]]:
    if status == "OK":
        return [("grpc-status", "0")]
    number = _STATUS_NUMBERS.get(status, "13")
    return [("grpc-status", number), ("grpc-message", quoted_message(message))]


def _checker(service: str, name: str) -> Callable[[bytes], Any]:
    """Protobuf's own parser of a method's requests."""
    check: Callable[[bytes], Any] = method_classes(service, name)[0].FromString
    return check


def _parse(kind: Any, check: Callable[[bytes], Any], data: bytes) -> Any:
    """A betterproto message. betterproto reads anything somehow, so protobuf looks at it first."""
    try:
        check(data)
        return kind().parse(data)
    except Exception as error:
        raise InvalidRequest(f"the message is no {kind.__name__}: {error}") from None


def _pushback(error: MLServeError) -> str:
    """After how many milliseconds a call may be sent again."""
    return str(math.ceil(getattr(error, "retry_after_seconds", 1.0) * 1000))
