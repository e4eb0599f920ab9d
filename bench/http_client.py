"""A lean HTTP/1.1 client for measuring: one keep-alive connection that sends the same bytes again and again."""

from __future__ import annotations

import asyncio
import re
import time

from oip import Answers, Call
from tally import Tally

__all__ = ["HttpConnection"]

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class HttpConnection(asyncio.BufferedProtocol):
    """One caller: `start` sends a call, each answer the next one, until the tally says stop."""

    streams = 1

    def __init__(self, call: Call, authority: str, tally: Tally) -> None:
        self._request = _request_bytes(call, authority)
        self._answers = Answers(call)
        self._tally = tally
        self._view = memoryview(bytearray(256 * 1024))
        self._started: float | None = None  # when the call under way was sent
        self._closing = False
        self._reset()

    def _reset(self) -> None:
        self._head = bytearray()  # what came before the head was complete
        self._length = -1  # of the body; -1: the head is not complete
        self._received = 0
        self._body = bytearray()

    async def ready(self) -> None:
        """Nothing to agree upon before the first request."""

    def start(self) -> None:
        """Send the first call of a round."""
        self._send()

    def close(self) -> None:
        """Hang up; that is no error."""
        self._closing = True
        self._transport.close()

    def _send(self) -> None:
        self._started = time.perf_counter()
        self._transport.write(self._request)

    # -- asyncio calls these --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # a TCP transport it is

    def connection_lost(self, error: Exception | None) -> None:
        if not self._closing:
            self._tally.lost(0 if self._started is None else 1, f"connection lost ({error})")

    def get_buffer(self, size_hint: int) -> memoryview:
        return self._view

    def buffer_updated(self, count: int) -> None:
        chunk = self._view[:count]
        if self._length < 0:
            self._head += chunk
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            found = _LENGTH.search(self._head, 0, end + 2)
            if found is None:
                self._fail("an answer without Content-Length")
                return
            self._length = int(found[1])
            chunk = memoryview(bytes(self._head[end + 4 :]))
        self._received += len(chunk)
        if self._answers.wants_body or self._status != b"200":
            self._body += chunk
        if self._received >= self._length:
            self._answered()

    # -- one answer --

    @property
    def _status(self) -> bytes:
        return bytes(self._head[9:12])

    def _answered(self) -> None:
        if self._status == b"200":
            error = self._answers.error_in(self._head, self._body, self._received)
        else:
            error = f"status {self._status.decode('latin-1')}: {self._body[:200].decode('latin-1')}"
        if self._received > self._length:
            error = "more bytes than Content-Length says"
        started, self._started = self._started, None
        self._reset()
        assert started is not None
        if self._tally.answered(started, error):
            self._send()

    def _fail(self, error: str) -> None:
        self._tally.lost(1, error)
        self.close()


def _request_bytes(call: Call, authority: str) -> bytes:
    headers = (("Host", authority), ("Accept", "*/*"), *call.headers, ("Content-Length", str(len(call.body))))
    lines = [f"POST {call.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode() + call.body
