"""What goes wrong on the way, and what a server's statuses become: the exceptions of `mlserve.errors`, and two more."""

from __future__ import annotations

import errno
import math
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anyio
import msgspec

from mlserve.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    InvalidRequest,
    MLServeError,
    ModelError,
    ModelLoadError,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    grpc_status_of_http,
)

__all__ = [
    "CONNECT_SECONDS",
    "ClientError",
    "Unavailable",
    "from_event",
    "from_grpc",
    "from_http",
    "reading",
    "reason_of",
    "writing",
]

CONNECT_SECONDS = 10.0  # for a connection, whatever the time for the call
_LONGEST_QUOTE = 300  # characters of an answer that is none of the protocol's


class ClientError(MLServeError):
    """The server at `address` cannot be reached, the connection broke, or the answer is none of the protocol's.

    `arrived`: the request may have reached a model, so that nobody should send it again without thinking.
    """

    http_status = 502
    grpc_status = "UNAVAILABLE"

    def __init__(self, message: str, address: str, *, arrived: bool) -> None:
        super().__init__(message)
        self.address = address
        self.arrived = arrived
        self.retryable = not arrived


class Unavailable(MLServeError):
    """The server cannot answer now: it stops, or the process that ran the call died.

    `retry_after_seconds` is how long the server asks to wait, None if it does not: then the call may have reached a
    model, and is not `retryable`.
    """

    http_status = 503
    grpc_status = "UNAVAILABLE"

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.retryable = retry_after_seconds is not None


def from_http(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    model: tuple[str, str | None] | None = None,
    loads: bool = False,
) -> MLServeError:
    """The exception of an HTTP answer. `model` is the one that was asked for; `loads`: in order to load it."""
    message = _message(status, body)
    if status == 404 and model is not None and model[0] in message:  # Not: the path itself is unknown.
        return _make(ModelNotFound, message)
    if status == 400 and model is not None and message.startswith(str(ModelNotReady(*model))):
        return _make(ModelNotReady, message)
    if status == 413:
        return BodyTooLarge(message)
    if status == 429:
        return _overloaded(message, _retry_after(headers))
    if status == 503:
        return Unavailable(message, _retry_after(headers))
    if status == 504:
        return DeadlineExceeded(message)
    if status == 500:
        return ModelLoadError(message) if loads else ModelError(message)
    if grpc_status_of_http(status) == "INVALID_ARGUMENT":
        return InvalidRequest(message, status)
    return MLServeError(message, status if 400 <= status <= 599 else 502)


def from_grpc(
    status: str, message: str | None, trailers: Mapping[str, str] | None = None, *, loads: bool = False
) -> MLServeError:
    """The exception of a gRPC status, given by its name; `trailers` are the fields that came with it."""
    message = message or status
    asked = _pushback(trailers or {})
    if status == "RESOURCE_EXHAUSTED":
        # One status for two things; only the words tell "too large" (never worth a retry) from "too many".
        is_size = " bytes" in message or "larger than" in message
        return BodyTooLarge(message) if is_size else _overloaded(message, asked)
    if status == "UNAVAILABLE":
        return Unavailable(message, asked)
    if status == "INTERNAL" and loads:
        return ModelLoadError(message)
    kind = _GRPC.get(status)
    if kind is not None:
        return _make(kind, message)
    error = MLServeError(message, _HTTP_OF_GRPC.get(status, 500))
    error.grpc_status = status
    return error


_GRPC: dict[str, type[MLServeError]] = {
    "NOT_FOUND": ModelNotFound,
    "FAILED_PRECONDITION": ModelNotReady,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "INVALID_ARGUMENT": InvalidRequest,
    "INTERNAL": ModelError,
}
_HTTP_OF_GRPC = {grpc_status_of_http(status): status for status in (401, 403, 409, 499, 501)}


def from_event(data: bytes, model: tuple[str, str | None]) -> MLServeError:
    """The exception of an error in mid-stream, by the status that the event has; MLServer's have none."""
    status = _member(data, "status")
    if status == 404:  # a path that does not exist has no stream
        return _make(ModelNotFound, _message(404, data))
    if not isinstance(status, int) or not 400 <= status <= 599 or grpc_status_of_http(status) == "INTERNAL":
        return ModelError(_message(500, data))
    return from_http(status, {}, data, model=model)


@contextmanager
def reading(address: str, *more: type[Exception]) -> Iterator[None]:
    """In this block an answer is read: what is wrong with it, and `more` kinds of exceptions, become a ClientError."""
    kinds: tuple[type[Exception], ...] = (msgspec.DecodeError, ValueError, *more)
    try:
        yield
    except kinds as error:
        message = f"{address} gave an answer that is none of the protocol's: {error}"
        raise ClientError(message, address, arrived=True) from None


@contextmanager
def writing() -> Iterator[None]:
    """In this block a request is encoded: what it has that cannot be sent becomes an InvalidRequest."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRequest(f"the request cannot be sent: {error}") from error


def reason_of(error: BaseException) -> str:
    """Why a connection failed, in the words of the operating system: anyio puts those behind its own."""
    while True:
        inner = getattr(error, "exceptions", None)
        if inner:
            error = inner[0]
        elif error.__cause__ is not None:
            error = error.__cause__
        else:
            break
    if isinstance(error, anyio.EndOfStream):
        return "the server closed it"
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number in errno.errorcode and not isinstance(error, ssl.SSLError | socket.gaierror):
        return os.strerror(number)  # asyncio's own text repeats the address.
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _make(kind: type[MLServeError], message: str) -> MLServeError:
    """An exception with a message as it came: some classes put theirs together themselves."""
    error = kind.__new__(kind)
    MLServeError.__init__(error, message)
    return error


def _message(status: int, body: bytes) -> str:
    """What the server says in `{"error": …}`, as other servers do in `detail`; otherwise the start of the body."""
    said = _member(body, "error") or _member(body, "detail")
    if said:
        return said if isinstance(said, str) else msgspec.json.encode(said).decode()
    text = body[: 4 * _LONGEST_QUOTE].decode("utf-8", "replace").strip()[:_LONGEST_QUOTE]
    return f"HTTP status {status}: {text}" if text else f"HTTP status {status}"


def _member(body: bytes, name: str) -> Any:
    """A member of the object that the body is; None if it is none."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found.get(name) if isinstance(found, dict) else None


def _overloaded(message: str, asked: float | None) -> Overloaded:
    """`asked`: the seconds after which the server says that the call may be sent again; None if it does not."""
    error = Overloaded(message, 1.0 if asked is None else asked)
    error.retryable = asked is not None
    return error


def _pushback(trailers: Mapping[str, str]) -> float | None:
    """The seconds of grpc-retry-pushback-ms; None without one, and for one below zero, which forbids another try."""
    text = trailers.get("grpc-retry-pushback-ms", "")
    return int(text) / 1000 if text.isdecimal() else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of Retry-After; None without one, and for a date."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0.0 <= seconds < math.inf else None
