"""Bytes from an HTTP/1.1 client to request heads, pieces of bodies and ends; refuses what could be read in two ways.

httptools (llhttp in its strict mode) does the reading. This file adds what llhttp leaves to its user, because a request
that two programs on the way read differently can smuggle a second one past the first (RFC 9112, section 11.2):

* exactly one Host in HTTP/1.1; no Transfer-Encoding but plain `chunked`, and none at all in HTTP/1.0;
* a head (and what stands between the chunks of a body, and trailers) of at most `max_head_bytes`;
* a request with `Upgrade` keeps its body: llhttp calls such a message complete after its head, so that a body (curl
  and Java's HttpClient send one when they offer `h2c`) would be parsed as the next request. Upgrades are not taken
  up: the request is answered as HTTP/1.1, as RFC 9110 allows.

Rules of use: `feed` calls the sink's `on_head`, `on_body`, `on_end` in this order for each request. During `on_head`
the attributes of the parser describe the request. Once `refusal` is set nothing more is parsed; requests whose end was
reported before are good.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol
from urllib.parse import unquote

import httptools

__all__ = ["Refusal", "RequestParser", "RequestSink"]

_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}


class Refusal(NamedTuple):
    """Why the bytes cannot be a request, with the status that says so."""

    status: int
    reason: str


class RequestSink(Protocol):
    """What the parser tells about a request, in this order."""

    def on_head(self) -> None: ...
    def on_body(self, piece: bytes) -> None: ...
    def on_end(self) -> None: ...


class _Refused(Exception):
    """Stops httptools from within a callback; `RequestParser.refusal` says why."""


class RequestParser:
    """One connection's parser. Its `on_*` methods are called by httptools only."""

    def __init__(self, sink: RequestSink, max_head_bytes: int) -> None:
        self.refusal: Refusal | None = None
        self.in_head = False
        self.method = ""
        self.http_version = ""
        self.raw_path = b""
        self.path = ""
        self.query = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.content_length: int | None = 0  # None: chunked
        self.expects_continue = False
        self.keep_alive = True
        self._sink = sink
        self._max_head_bytes = max_head_bytes
        self._http = httptools.HttpRequestParser(self)
        self._target = b""
        self._hosts = 0
        self._head_bytes = 0
        self._framing = b""  # the framing header of a request with Upgrade, until its body is parsed
        self._replaying = False  # a head is fed that was reported before
        self._idle_bytes = 0  # of whole feeds since the last head, body or end: bounds what httptools holds back

    def feed(self, data: bytes | memoryview) -> None:
        """Parse `data`; nothing of it is kept by reference. See `refusal` afterwards."""
        if self.refusal is not None:
            return
        self._idle_bytes += len(data)
        try:
            while data := self._feed_one_upgrade(data):
                pass
        except httptools.HttpParserError as error:
            if self.refusal is None:
                unknown_method = isinstance(error, httptools.HttpParserInvalidMethodError)
                self.refusal = Refusal(501 if unknown_method else 400, str(error) or "malformed request")
        if self._idle_bytes > self._max_head_bytes and self.refusal is None:
            self.refusal = self._too_large()

    def restart(self) -> None:
        """Expect a new request: the rest of the current body went elsewhere. Its end is not reported."""
        self._http = httptools.HttpRequestParser(self)
        self._idle_bytes = 0

    def close(self) -> None:
        """Parse nothing more, and break the cycles of references, so that a closed connection is freed at once."""
        self.refusal = self.refusal or Refusal(400, "the connection is closed")
        del self._http, self._sink

    def refuse(self, status: int, reason: str) -> None:
        """From within a callback only: stop here."""
        self.refusal = Refusal(status, reason)
        raise _Refused

    # -- called by httptools ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._replaying:
            return
        self.in_head = True
        self.headers = []
        self.content_length = 0
        self.expects_continue = False
        self._target = self._framing = b""
        self._hosts = self._head_bytes = 0

    def on_url(self, target: bytes) -> None:
        if not self._replaying:
            self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_head:
            return  # a trailer (nobody here reads them) or a replayed head
        name = name.lower()
        value = value.rstrip(b" \t")
        self._head_bytes += len(name) + len(value) + 4
        self.headers.append((name, value))
        if name == b"host":
            self._hosts += 1
        elif name == b"content-length":
            self.content_length = int(value)
            self._framing = b"content-length: %b\r\n" % value
        elif name == b"transfer-encoding":
            self.content_length = None
            self._framing = b"transfer-encoding: chunked\r\n"
            if value.lower() != b"chunked":
                self.refuse(501, f"transfer-encoding: {value.decode('latin-1')!r} is not supported, only 'chunked'")
        elif name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        if self._replaying:
            return
        self.in_head = False
        self._idle_bytes = 0
        http = self._http
        method = http.get_method()
        self.method = _METHODS.get(method) or method.decode("ascii")
        self.http_version = http.get_http_version()
        self._check_head()
        self._split_target(self._target)
        self.keep_alive = self.http_version == "1.1" and http.should_keep_alive()
        if not http.should_upgrade():
            self._framing = b""
        self._sink.on_head()

    def on_body(self, piece: bytes) -> None:
        self._idle_bytes = 0
        self._sink.on_body(piece)

    def on_message_complete(self) -> None:
        self._idle_bytes = 0
        if not self._framing:  # else: llhttp's early end of a request with Upgrade
            self._sink.on_end()

    # -- rules -----------------------------------------------------------------------------------------------------

    def _check_head(self) -> None:
        version = self.http_version
        if version == "1.1":
            if self._hosts != 1:
                self.refuse(400, f"HTTP/1.1 asks for exactly one Host header, got {self._hosts}")
        elif version != "1.0":
            self.refuse(505, f"HTTP/{version} is not spoken here, HTTP/1.1 and HTTP/2 are")
        elif self._hosts > 1:
            self.refuse(400, f"at most one Host header is allowed, got {self._hosts}")
        elif self.content_length is None:
            self.refuse(400, "HTTP/1.0 has no Transfer-Encoding")
        if self._head_bytes + len(self._target) > self._max_head_bytes:
            self.refuse(*self._too_large())

    def _split_target(self, target: bytes) -> None:
        """Take path and query from the request's target, also from the absolute form `http://host/path`."""
        if not target.startswith(b"/") and b"://" in target:
            target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
        self.raw_path, _, self.query = target.partition(b"?")
        try:
            path = self.raw_path.decode("ascii")
        except UnicodeDecodeError:
            self.refuse(400, "the path has bytes outside ASCII; percent-encode them")
        self.path = unquote(path) if "%" in path else path

    def _too_large(self) -> Refusal:
        return Refusal(431, f"the head of the request is over the limit of {self._max_head_bytes} bytes")

    # -- requests with Upgrade -------------------------------------------------------------------------------------

    def _feed_one_upgrade(self, data: bytes | memoryview) -> bytes | memoryview:
        """Feed up to the end of the next head with Upgrade (or CONNECT); return what is left behind it."""
        try:
            self._http.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            self._http = httptools.HttpRequestParser(self)
            self._enter_body()
            return rest
        return b""

    def _enter_body(self) -> None:
        """Bring a fresh parser to where the body begins that llhttp would not see."""
        if not self._framing:
            return
        head, self._framing = b"POST / HTTP/1.1\r\n%b\r\n" % self._framing, b""
        self._replaying = True
        try:
            self._http.feed_data(head)
        finally:
            self._replaying = False
