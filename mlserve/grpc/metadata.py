"""gRPC metadata: HTTP/2 header fields to `parameters.headers`, and back to trailing metadata."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from mlserve.errors import InvalidRequest

__all__ = ["quoted_message", "request_headers", "timeout_seconds", "trailing_fields"]

_HIDDEN = frozenset(("te", "content-type", "host", "content-length"))
_NAME = re.compile(r"[0-9a-z_.\-]+")
_PLAIN = re.compile(r"[ -~]*")
# What quote() leaves as it is: printable ASCII; in messages without the percent sign itself.
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
_MESSAGE = _PRINTABLE.replace("%", "")
# Clients refuse trailers of more than 8 KiB, and with them the status.
_LONGEST_MESSAGE = 4000
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def request_headers(fields: Iterable[tuple[str, str]]) -> dict[str, str | bytes]:
    """The client's metadata by lower-case name; several values of one name are joined with a comma.

    Binary values, whose names end in `-bin`, are bytes, the last one of each name. InvalidRequest if one is no base64.
    """
    headers: dict[str, str | bytes] = {}
    for name, value in fields:
        if not name or name[0] == ":" or name in _HIDDEN or name.startswith("grpc-"):
            continue
        if name.endswith("-bin"):
            headers[name] = _bytes_of(name, value)
        else:
            before = headers.get(name)
            headers[name] = value if before is None else f"{before!s},{value}"
    return headers


def _bytes_of(name: str, value: str) -> bytes:
    text = value.rpartition(",")[2].strip()  # proxies may have joined several
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"metadata {name!r}: expected base64, as the name says, got {value[:40]!r}") from None


def trailing_fields(headers: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Header fields of what a response has in `parameters.headers`.

    Characters that metadata cannot hold are percent-encoded, as CloudEvents' HTTP binding has it; names that cannot
    be sent, and empty values of binary names that are no base64 text, are left out.
    """
    found: list[tuple[str, str]] = []
    for name, value in (headers or {}).items():
        name = str(name).lower()
        if name in _HIDDEN or name.startswith("grpc-") or not _NAME.fullmatch(name):
            continue
        if name.endswith("-bin"):
            binary = _binary(value)
            if binary is not None:
                found.append((name, binary))
            continue
        text = str(value)
        found.append((name, text if _PLAIN.fullmatch(text) else quote(text, safe=_PRINTABLE, errors="replace")))
    return found


def _binary(value: Any) -> str | None:
    """Bytes, or base64 text of them, as metadata has them: base64 without padding."""
    if not isinstance(value, bytes):
        try:
            text = str(value).rstrip("=")
            value = b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            return None
    return b64encode(value).decode().rstrip("=")


def quoted_message(message: str) -> str:
    """A status message as it goes into the grpc-message trailer, shortened to what clients take."""
    quoted = _quoted(message)
    if len(quoted) <= _LONGEST_MESSAGE:
        return quoted
    while len(quoted) > _LONGEST_MESSAGE:
        message = message[: len(message) * _LONGEST_MESSAGE // len(quoted) - 1]
        quoted = _quoted(message)
    return f"{quoted}... (shortened)"


def _quoted(message: str) -> str:
    if _PLAIN.fullmatch(message) and "%" not in message:
        return message
    return quote(message, safe=_MESSAGE, errors="replace")


def timeout_seconds(value: str) -> float:
    """The seconds of a grpc-timeout field."""
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise InvalidRequest(f"grpc-timeout {value!r} is no number of up to 8 digits with a unit of H, M, S, m, u or n")
    return int(found[1]) * _UNITS[found[2]]
