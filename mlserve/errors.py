"""Every error that mlserve raises on purpose, with the status it becomes on each protocol.

    MLServeError                    400 INVALID_ARGUMENT   (the base; a model may raise it with any HTTP status)
    ├── InvalidRequest              400 INVALID_ARGUMENT   the body or message is not what the protocol asks for
    │   ├── CodecError              400 INVALID_ARGUMENT   a tensor cannot be turned into what its content type says
    │   ├── BodyTooLarge            413 RESOURCE_EXHAUSTED a body or message over the configured limit
    │   └── UnsupportedEncoding     415 UNIMPLEMENTED      a Content-Encoding or message encoding nobody here reads
    ├── InferenceError              400 INVALID_ARGUMENT   what a runtime raises for a request that it cannot serve
    ├── ModelNotFound               404 NOT_FOUND          no model, or no version, of that name
    ├── ModelNotReady               400 FAILED_PRECONDITION the model is known, but not loaded
    ├── ModelLoadError              500 INTERNAL           the model could not be loaded
    │   ├── ModelParametersMissing  500 INTERNAL           its settings lack something that its runtime needs
    │   └── InvalidModelURI         500 INTERNAL           its artifact is not where its settings say
    ├── ModelError                  500 INTERNAL           the model's own code failed
    ├── DeadlineExceeded            504 DEADLINE_EXCEEDED  the call's time was over before its answer
    ├── CallerLeft                  499 CANCELLED          nobody waits for the answer any more
    ├── Overloaded                  429 RESOURCE_EXHAUSTED too many calls wait already            (retryable)
    ├── NoWorker                    503 UNAVAILABLE        no process can run the call now        (retryable)
    ├── WorkerDied                  503 UNAVAILABLE        the process that ran the call is gone
    ├── RequestRefused              500 INTERNAL           workers died of this content, again and again
    ├── ServerStopping              503 UNAVAILABLE        the server takes no new calls          (retryable)
    ├── SettingsError               500 INTERNAL           a settings file or variable cannot be used
    └── StartupError                500 INTERNAL           the server cannot start; nothing was served

The classes carry plain values, so that the core imports no web or gRPC library; each transport translates in one
place. `retryable` says that the call never reached a model, so that anybody may send it again as it is, whatever the
model does with a request; both transports tell clients (`Retry-After`, `grpc-retry-pushback-ms`).
"""

from __future__ import annotations

import json
from typing import Any

__all__ = [
    "BodyTooLarge",
    "CallerLeft",
    "CodecError",
    "DeadlineExceeded",
    "InferenceError",
    "InvalidModelURI",
    "InvalidRequest",
    "MLServeError",
    "MLServerError",
    "ModelError",
    "ModelLoadError",
    "ModelNotFound",
    "ModelNotReady",
    "ModelParametersMissing",
    "NoWorker",
    "Overloaded",
    "RequestRefused",
    "ServerStopping",
    "SettingsError",
    "StartupError",
    "UnsupportedEncoding",
    "WorkerDied",
    "from_exception",
    "grpc_status_of_http",
]

# gRPC status by HTTP status, for errors that models raise with an HTTP status of their own.
_GRPC_OF_HTTP = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    412: "FAILED_PRECONDITION",
    413: "RESOURCE_EXHAUSTED",
    415: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


_SHOWN_CHARACTERS = 256


def grpc_status_of_http(http_status: int) -> str:
    """The name of the gRPC status that says the same as an HTTP status."""
    return _GRPC_OF_HTTP.get(http_status, "INVALID_ARGUMENT" if 400 <= http_status < 500 else "INTERNAL")


class MLServeError(Exception):
    """The base of all; runtimes may raise it with the HTTP status that the caller shall see."""

    http_status: int = 400
    grpc_status: str = "INVALID_ARGUMENT"
    retryable: bool = False
    error_type: str = ""  # the class of what this error stands for, where that is not its own

    def __init__(self, message: str = "", status_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if status_code is not None:
            self.http_status = int(status_code)
            self.grpc_status = grpc_status_of_http(self.http_status)

    @property
    def status_code(self) -> int:
        """The HTTP status, under the name that MLServer gives it."""
        return self.http_status

    def __str__(self) -> str:
        return self.message


MLServerError = MLServeError  # the name that runtimes written for MLServer import


class InvalidRequest(MLServeError):
    """The body or message is not what the protocol asks for; the message says where, what and what was expected."""


class CodecError(InvalidRequest):
    """A tensor cannot be turned into (or made from) what its content type says."""


class BodyTooLarge(InvalidRequest):
    """A body or message, after unpacking, is over the configured limit."""

    http_status = 413
    grpc_status = "RESOURCE_EXHAUSTED"


class UnsupportedEncoding(InvalidRequest):
    """A Content-Encoding or message encoding that nobody here reads."""

    http_status = 415
    grpc_status = "UNIMPLEMENTED"


class InferenceError(MLServeError):
    """What a runtime raises for a request that it cannot serve."""


class ModelNotFound(MLServeError):
    """No model, or no version of it, has that name; `reason` says why, where a load was tried and failed."""

    http_status = 404
    grpc_status = "NOT_FOUND"

    def __init__(self, name: str, version: str | None = None, reason: str = "") -> None:
        tail = f": {reason}" if reason else ""
        super().__init__(f"Model {shown(name)}{_with_version(version)} not found{tail}")


class ModelNotReady(MLServeError):
    """The model is known but not loaded; `reason` says why, where that is known."""

    grpc_status = "FAILED_PRECONDITION"

    def __init__(self, name: str, version: str | None = None, reason: str = "") -> None:
        tail = f": {reason}" if reason else ""
        super().__init__(f"Model {name}{_with_version(version)} is not ready yet{tail}")


class ModelLoadError(MLServeError):
    """The model could not be loaded."""

    http_status = 500
    grpc_status = "INTERNAL"


class ModelParametersMissing(ModelLoadError):
    """The model's settings lack something that its runtime needs."""

    def __init__(self, model_name: str, reason: str = "") -> None:
        tail = f" ({reason})" if reason else ""
        super().__init__(f"Parameters missing for model {model_name}{tail}")


class InvalidModelURI(ModelLoadError):
    """The model's artifact is not where its settings say."""

    def __init__(self, name: str, model_uri: str | None = None) -> None:
        message = f"Invalid URI specified for model {name}"
        super().__init__(f"{message} ({model_uri})" if model_uri else message)


class ModelError(MLServeError):
    """The model's own code failed; the log has its traceback."""

    http_status = 500
    grpc_status = "INTERNAL"


class DeadlineExceeded(MLServeError):
    """The call's time was over before its answer was there."""

    http_status = 504
    grpc_status = "DEADLINE_EXCEEDED"


class CallerLeft(MLServeError):
    """Nobody waits for the answer any more; the call was cancelled. Nobody is told, either."""

    http_status = 499
    grpc_status = "CANCELLED"


class Overloaded(MLServeError):
    """Too many calls wait for this model already; `retry_after_seconds` is a fair pause before the next try."""

    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    retryable = True

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class WorkerDied(MLServeError):
    """The worker process that ran the call is gone: the model may have done its work, or a part of it."""

    http_status = 503
    grpc_status = "UNAVAILABLE"


class NoWorker(MLServeError):
    """No worker process can run the model now; `retry_after_seconds` is when to try again."""

    http_status = 503
    grpc_status = "UNAVAILABLE"
    retryable = True

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = max(1.0, retry_after_seconds)


class RequestRefused(MLServeError):
    """Worker processes died whenever they ran a request with this content; it is not run again for a while."""

    http_status = 500
    grpc_status = "INTERNAL"


class ServerStopping(MLServeError):
    """The server drains: it finishes what it accepted and takes nothing new."""

    http_status = 503
    grpc_status = "UNAVAILABLE"
    retryable = True


class SettingsError(MLServeError):
    """A settings file or variable cannot be used; the message names the file, the line and the key."""

    http_status = 500
    grpc_status = "INTERNAL"


class StartupError(MLServeError):
    """The server cannot start; the message says what stands in the way and what to do about it."""

    http_status = 500
    grpc_status = "INTERNAL"


def from_exception(error: BaseException) -> MLServeError:
    """The error as the caller may see it: ours as it is, an HTTPException of Starlette's or FastAPI's with its status
    and detail, any other as a ModelError with its type and text.
    """
    if isinstance(error, MLServeError):
        return error
    found = _standing_for(error)
    found.error_type = type(error).__name__
    return found


def _standing_for(error: BaseException) -> MLServeError:
    if _is_http_exception(error):
        known: Any = error
        return MLServeError(_text_of_detail(known.detail), known.status_code)
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # whatever the __str__ of somebody's own class does
        text = ""
    return ModelError(f"{name}: {text}" if text else name)


def _is_http_exception(error: BaseException) -> bool:
    """Whether its class, or a base of it, is Starlette's or FastAPI's; by name, since most workers import neither."""
    of_web = any(one.__module__.partition(".")[0] in ("starlette", "fastapi") for one in type(error).__mro__)
    return of_web and isinstance(getattr(error, "status_code", None), int) and hasattr(error, "detail")


def _text_of_detail(detail: Any) -> str:
    return detail if isinstance(detail, str) else json.dumps(detail, default=str)


def _with_version(version: str | None) -> str:
    return f" with version {shown(version)}" if version else ""


def shown(name: str) -> str:
    """A name that a client has sent, for messages and records: as it is, unless it is too long to be one."""
    return name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}…"


def first_of_ours(group: BaseException) -> BaseException:
    """The MLServeError inside nested groups, since that is what the user can act on; else the group itself."""
    if isinstance(group, MLServeError):
        return group
    for inner in getattr(group, "exceptions", ()):
        found = first_of_ours(inner)
        if isinstance(found, MLServeError):
            return found
    return group
