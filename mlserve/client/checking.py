"""What callers give beside the payload, checked before anything is sent: InvalidRequest says what to write."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from mlserve.errors import InvalidRequest

__all__ = ["check_headers", "check_mapping", "check_text", "limit_of"]

_LONGEST_SECONDS = 99_999_999  # three years, the longest time that gRPC can say
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, token
_GRPC_NAME = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_GRPC_VALUE = re.compile(r"[\x20-\x7e]*")
# What the transports themselves say of a message; another value would make it unreadable.
_OURS = frozenset(
    (
        *("accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host"),
        *("inference-header-content-length", "te", "trailer", "transfer-encoding", "upgrade"),
    )
)


def check_text(what: str, value: Any, *, optional: bool = False) -> None:
    """Text is needed; with `optional`, None will do."""
    if isinstance(value, str) or (optional and value is None):
        return
    hint = f"; write {str(value)!r}" if isinstance(value, (int, float)) else ""
    raise InvalidRequest(f"{what}: expected text, got {_shown(value)}{hint}")


def limit_of(timeout_seconds: Any) -> float | None:
    """The seconds that a call may take, None for as long as it likes; a number from 0 on, or None, is needed."""
    if timeout_seconds is None:
        return None
    is_number = isinstance(timeout_seconds, (int, float)) and not isinstance(timeout_seconds, bool)
    if not is_number or not timeout_seconds >= 0:  # NaN is neither above nor below
        told = _shown(timeout_seconds)
        raise InvalidRequest(f"timeout_seconds: expected a number of seconds from 0 on, or None, got {told}")
    return None if timeout_seconds == math.inf else float(min(timeout_seconds, _LONGEST_SECONDS))


def check_mapping(what: str, value: Any) -> None:
    """A dict, or its like, is needed; or None."""
    if value is not None and not isinstance(value, Mapping):
        raise InvalidRequest(f"{what}: expected a dict, got {_shown(value)}")


def check_headers(headers: Mapping[str, Any] | None, *, is_grpc: bool) -> dict[str, Any]:
    """The headers with names in lower case. Bytes are values of gRPC's names that end in -bin, text of all others."""
    check_mapping("headers", headers)
    found: dict[str, Any] = {}
    for name, value in (headers or {}).items():
        check_text("the name of a header", name)
        where = f"header {name!r}"
        lower = name.lower()
        _check_name(where, lower, is_grpc)
        if isinstance(value, bytes) and is_grpc and lower.endswith("-bin"):
            found[lower] = value
            continue
        check_text(where, value)
        _check_value(where, value, is_grpc)
        found[lower] = value
    return found


def _check_name(where: str, name: str, is_grpc: bool) -> None:
    if name in _OURS or (is_grpc and name.startswith("grpc-")):
        raise InvalidRequest(f"{where}: the client sets it itself")
    if not (_GRPC_NAME if is_grpc else _NAME).fullmatch(name):
        raise InvalidRequest(f"{where}: a name has letters, digits and dashes, no spaces, colons or line breaks")


def _check_value(where: str, value: str, is_grpc: bool) -> None:
    if is_grpc and where.lower().endswith("-bin'"):
        raise InvalidRequest(f"{where}: expected bytes, as the name says, got {_shown(value)}")
    if (_GRPC_VALUE if is_grpc else _VALUE).fullmatch(value):
        return
    if any(ord(one) < 32 or ord(one) == 127 for one in value):
        raise InvalidRequest(f"{where}: {_shown(value)} has a line break or another control character")
    bound = "gRPC's metadata are ASCII; a name that ends in -bin takes bytes" if is_grpc else "HTTP's are Latin-1"
    raise InvalidRequest(f"{where}: {_shown(value)} has characters that it cannot have ({bound}); percent-encode it")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
