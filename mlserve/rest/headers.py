"""HTTP header fields to and from text: what a model may see, what it may set, what a call asks for in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from email.message import Message
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from mlserve.deadlines import TIMEOUT_HEADER, header_seconds
from mlserve.errors import InvalidRequest

__all__ = ["accepts_gzip", "check_content_type", "json_length", "read_headers", "timeout_seconds", "write_headers"]

RawHeaders = list[tuple[bytes, bytes]]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
# What a model cannot set: the framing of the answer is the server's, and its body is always what it says it is.
_RESERVED = frozenset(
    ("connection", "content-encoding", "content-length", "content-type", "date", "host", "keep-alive", "te")
) | frozenset(("trailer", "transfer-encoding", "upgrade", "inference-header-content-length"))
# Printable ASCII as it stands; the percent sign stays too, since most values with one are percent-encoded already.
_PLAIN = "".join(map(chr, range(0x20, 0x7F)))


def read_headers(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header fields as text; fields of one name are joined, as HTTP allows. Names come in lower case (ASGI)."""
    headers: dict[str, str] = {}
    for name, value in fields:
        key = name.decode("latin-1")
        text = value.decode("latin-1")
        if key in headers:
            headers[key] += ("; " if key == "cookie" else ", ") + text
        else:
            headers[key] = text
    return headers


def write_headers(values: Mapping[str, Any], into: RawHeaders) -> None:
    """Appends what a model (or the data plane) wants to say in headers.

    Fields that are the server's business, and names that are none, are left out. Characters that a header cannot
    hold (line breaks among them) are percent-encoded.
    """
    for name, value in values.items():
        text = value if value.__class__ is str else str(value)
        field = _field(name, text) if len(text) <= _CACHED_LENGTH else _make_field(name, text)
        if field is not None:
            into.append(field)


def _make_field(name: str, text: str) -> tuple[bytes, bytes] | None:
    key = str(name).lower()
    if key in _RESERVED or not _TOKEN.match(key):
        return None
    return key.encode("ascii"), _header_value(text)


# Of the eight fields of an event, six are the same for every answer of a model.
_field = lru_cache(maxsize=1024)(_make_field)
_CACHED_LENGTH = 200


def _header_value(text: str) -> bytes:
    if text.isascii() and text.isprintable():
        return text.encode("ascii")
    if text.isprintable():
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            pass
    return quote(text.encode("utf-8", "replace"), safe=_PLAIN).encode("ascii")


def timeout_seconds(headers: Mapping[str, str]) -> float | None:
    """The time that the caller gives (`X-Request-Timeout`, in seconds); InvalidRequest if it is no time."""
    text = headers.get(TIMEOUT_HEADER)
    return None if text is None else header_seconds(text)


def json_length(headers: Mapping[str, str]) -> int | None:
    """The length of the JSON part of a body with binary tensors (`Inference-Header-Content-Length`)."""
    text = headers.get("inference-header-content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise InvalidRequest(f"header Inference-Header-Content-Length: expected a number of bytes, got {text!r}")
    return int(text[:20])  # More digits are over any limit, too.


def check_content_type(headers: Mapping[str, str]) -> None:
    """InvalidRequest (415) unless the body may be JSON, or a JSON part with binary tensors behind it."""
    text = headers.get("content-type")
    if text is None or _is_json(text) or "inference-header-content-length" in headers:
        return
    raise InvalidRequest(f"header Content-Type: expected application/json, got {text!r}", 415)


@lru_cache(maxsize=256)
def _is_json(content_type: str) -> bool:
    if not content_type.strip():
        return True
    message = Message()
    message["content-type"] = content_type
    if message.get_content_maintype() != "application":
        return False
    subtype = message.get_content_subtype()
    return subtype == "json" or subtype.endswith("+json")


@lru_cache(maxsize=256)
def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header takes gzip, its weights and `*` considered."""
    weights: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        coding, _, rest = part.partition(";")
        weight = 1.0
        for parameter in rest.split(";"):
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                try:
                    weight = float(value.strip())
                except ValueError:
                    weight = 0.0
        weights[coding.strip()] = weight
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0.0
