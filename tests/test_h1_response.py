"""The heads of answers: framing, and headers that cannot be sent."""

from __future__ import annotations

from typing import Any

import pytest

from mlserve.rest.h1_response import ResponseHead, error_response, response_head


def head(status: int = 200, *headers: tuple[bytes, bytes], **options: Any) -> ResponseHead:
    defaults = {"method": "GET", "http_version": "1.1", "whole_body_bytes": None, "keep_alive": True}
    start = {"status": status, "headers": headers}
    return response_head(start, date_line=b"date: now\r\n", **(defaults | options))


def test_a_known_body_has_a_length() -> None:
    made = head(whole_body_bytes=3)
    assert made.data == b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ndate: now\r\n\r\n"
    assert (made.body_bytes, made.chunked, made.keep_alive) == (3, False, True)


def test_an_unknown_body_is_chunked_and_in_http_1_0_ends_with_the_connection() -> None:
    assert head().data.count(b"transfer-encoding: chunked") == 1
    made = head(http_version="1.0")
    assert b"transfer-encoding" not in made.data
    assert (made.chunked, made.keep_alive) == (False, False)


@pytest.mark.parametrize("options", [{"method": "HEAD"}, {"status": 204}, {"status": 304}])
def test_some_answers_have_no_body(options: dict[str, Any]) -> None:
    made = head(**options)
    assert made.bodiless
    assert b"transfer-encoding" not in made.data
    assert made.keep_alive


def test_framing_and_connection_are_the_servers_business() -> None:
    made = head(200, (b"Transfer-Encoding", b"gzip"), (b"Connection", b"upgrade"), (b"Content-Length", b"5"))
    assert made.data == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ndate: now\r\n\r\n"


def test_an_application_may_close_the_connection() -> None:
    made = head(200, (b"connection", b"Close"), whole_body_bytes=0)
    assert b"connection: close\r\n" in made.data
    assert not made.keep_alive


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x", b"a\r\nset-cookie: b")],
        [(b"x", b"a\nb")],
        [(b"x\r\ny", b"a")],
        [(b"x", b"a\0")],
        [(b"content-length", b"3"), (b"content-length", b"4")],
        [(b"content-length", b"three")],
    ],
)
def test_headers_that_would_break_the_framing_are_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ValueError, match=r"line break|Content-Length|invalid literal"):
        head(200, *headers)


@pytest.mark.parametrize("status", [100, 101, 0, 1000])
def test_a_final_answer_needs_a_final_status(status: int) -> None:
    with pytest.raises(ValueError, match="status"):
        head(status)


def test_an_unknown_status_is_sent_without_a_phrase() -> None:
    assert head(499).data.startswith(b"HTTP/1.1 499 \r\n")


def test_an_error_is_json_and_closes() -> None:
    data = error_response(413, 'too "large"', date_line=b"")
    assert b"connection: close" in data
    assert data.endswith(b'\r\n\r\n{"error": "too \\"large\\""}')
    assert error_response(413, "x", date_line=b"", with_body=False).endswith(b"\r\n\r\n")
