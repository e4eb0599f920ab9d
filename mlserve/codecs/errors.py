"""CodecError under the names of `mlserver.codecs.errors`, and how an error says which tensor it is about."""

from __future__ import annotations

from typing import Any

from mlserve.errors import CodecError, InvalidRequest
from mlserve.types import RequestInput

__all__ = ["CodecError", "CodecNotFound", "InputsNotFound", "OutputNotFound", "located", "unencodable", "unfit"]

# One class for all: the message says what is missing, and the status whose fault it is.
CodecNotFound = CodecError
InputsNotFound = CodecError
OutputNotFound = CodecError


def located(error: InvalidRequest, tensor: Any) -> CodecError:
    """The same error with the tensor's kind and name before its message."""
    kind = "input" if isinstance(tensor, RequestInput) else "output"
    return CodecError(f"{kind} '{tensor.name}': {error.message}", error.http_status)


def unencodable(message: str) -> CodecError:
    """An error about a value that was to be sent: the fault of who made the value (500), not of who reads it."""
    return CodecError(message, 500)


def unfit(place: str, content_type: str, payload: Any, error: Exception) -> CodecError:
    """An error about a value that cannot be sent as the client asked for it: the client's fault."""
    kind = f"{type(payload).__name__} of {payload.dtype}" if hasattr(payload, "dtype") else type(payload).__name__
    told = " ".join(str(error).split()) or type(error).__name__
    return CodecError(f"{place}: its value, a {kind}, does not fit the content type '{content_type}' asked for: {told}")
