"""The heads of HTTP/1.1 answers: how the body will be framed, and that nothing is smuggled in through a header."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

__all__ = ["ResponseHead", "error_response", "response_head"]

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}


class ResponseHead(NamedTuple):
    """The bytes of a head and what they promise about the body."""

    data: bytes
    body_bytes: int | None  # how many bytes of body must follow; None: as many as come
    chunked: bool
    bodiless: bool  # HEAD, 204, 304: the body that the application sends stays here
    keep_alive: bool


def response_head(
    start: Mapping[str, Any],
    *,
    method: str,
    http_version: str,
    whole_body_bytes: int | None,
    keep_alive: bool,
    date_line: bytes,
) -> ResponseHead:
    """The head for an `http.response.start`; raises ValueError for headers that cannot be sent.

    `whole_body_bytes` is the body's size where all of it is known already. Framing is the server's business: a
    Transfer-Encoding of the application is dropped, of its Connection only `close` counts.
    """
    status = start["status"]
    if not 200 <= status <= 999:
        raise ValueError(f"status {status}: a final answer needs one from 200 on")
    bodiless = method == "HEAD" or status == 304 or status == 204
    lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
    length, wants_close = _copy_headers(start.get("headers", ()), lines)
    if wants_close:
        keep_alive = False
    if length is None and not bodiless:
        length = whole_body_bytes
    chunked = False
    if length is not None:
        if status != 204:
            lines.append(b"content-length: %d\r\n" % length)
    elif not bodiless:
        if http_version == "1.1":
            chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        else:
            keep_alive = False  # in HTTP/1.0 the end of the connection ends such a body
    if not keep_alive:
        lines.append(b"connection: close\r\n")
    data = b"".join(lines)
    # One line break for each line that was meant: a header with one inside would make a second header or answer.
    if data.count(b"\n") != len(lines) or data.count(b"\r") != len(lines) or b"\0" in data:
        raise ValueError("a header of the response contains a line break or NUL")
    return ResponseHead(data + date_line + b"\r\n", 0 if bodiless else length, chunked, bodiless, keep_alive)


def _copy_headers(headers: Iterable[tuple[bytes, bytes]], lines: list[bytes]) -> tuple[int | None, bool]:
    """Append the lines of `headers` but for those about framing; return Content-Length and whether to close."""
    length: int | None = None
    wants_close = False
    for raw_name, value in headers:
        name = raw_name.lower()
        if name == b"content-length":
            if length is not None and length != int(value):
                raise ValueError(f"two Content-Length headers, {length} and {int(value)}")
            length = int(value)
        elif name == b"connection":
            wants_close = wants_close or b"close" in value.lower()
        elif name != b"transfer-encoding":
            lines.append(b"%b: %b\r\n" % (name, value))
    return length, wants_close


def error_response(status: int, reason: str, *, date_line: bytes, with_body: bool = True, retry: bool = False) -> bytes:
    """A whole answer of the server's own, `{"error": reason}`, after which the connection closes."""
    body = json.dumps({"error": reason}).encode()
    lines = [
        _STATUS_LINES[status],
        b"content-type: application/json\r\n",
        b"content-length: %d\r\n" % len(body),
        b"connection: close\r\n",
        b"retry-after: 1\r\n" if retry else b"",
        date_line,
        b"\r\n",
    ]
    return b"".join(lines) + (body if with_body else b"")
