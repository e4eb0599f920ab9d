"""A lean gRPC client for measuring: one HTTP/2 connection that makes the same call again and again.

grpcio's client takes about 0.2 ms of processor time per call, more than a fast server does, and would measure itself.
This one sends what grpcio sends (headers in HPACK's dynamic table after the first call, one DATA frame for a small
message, flow control obeyed) and reads what a server answers, prebuilt and cached where calls are alike.

Calls are `streams` at a time on the connection. A stream's life: HEADERS and DATA sent, then HEADERS, DATA and
trailers received; the stream that ends starts the next one, until the tally says stop.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from typing import Any

from hpack import Decoder, Encoder
from hpack.table import HeaderTable
from oip import Answers, Call
from tally import Tally

__all__ = ["GrpcConnection"]

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 0x1
_END_HEADERS, _PADDED, _PRIORITY = 0x4, 0x8, 0x20
_TABLE_SIZE, _INITIAL_WINDOW, _MAX_FRAME = 1, 4, 5  # settings
_OUR_WINDOW = 64 * 1024 * 1024  # of a stream and of the connection: wide, as grpcio makes it for large answers
_OUR_FRAME = 1024 * 1024


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


_PREFACE = b"".join(
    (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        _frame(_SETTINGS, 0, 0, struct.pack(">HIHI", _INITIAL_WINDOW, _OUR_WINDOW, _MAX_FRAME, _OUR_FRAME)),
        _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _OUR_WINDOW - 65535)),
    )
)


class _Stream:
    """A call under way."""

    __slots__ = ("body", "received", "started", "status", "unsent", "window")

    def __init__(self, window: int) -> None:
        self.started = time.perf_counter()
        self.window = window  # how many bytes the server takes on this stream
        self.unsent = 0  # offset of what is still to be sent
        self.body = bytearray()
        self.received = 0
        self.status = b""


class GrpcConnection(asyncio.Protocol):
    """`streams` callers on one connection."""

    def __init__(self, call: Call, authority: str, tally: Tally, streams: int = 1) -> None:
        self.streams = streams
        self._answers = Answers(call)
        self._tally = tally
        self._message = memoryview(b"\0" + struct.pack(">I", len(call.body)) + call.body)
        self._heads = _Heads(call.path, authority)
        self._blocks = _Blocks()
        self._streams: dict[int, _Stream] = {}
        self._unsent: deque[int] = deque()  # streams whose message waits for a window
        self._last_stream = -1
        self._window, self._initial_window, self._max_frame = 65535, 65535, 16384  # the server's
        self._consumed = 0  # received since the connection's window was last renewed
        self._in = bytearray()  # the beginning of a frame that is not complete
        self._data_left = self._data_flags = self._data_stream = 0  # of the DATA frame that is coming in
        self._out: list[bytes | memoryview] = []
        self._settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closing = False

    async def ready(self) -> None:
        """Wait for the server's settings."""
        await asyncio.wait_for(asyncio.shield(self._settled), 10)

    def start(self) -> None:
        """Send the first calls of a round."""
        for _ in range(self.streams):
            self._send()
        self._write()

    def close(self) -> None:
        """Hang up; that is no error."""
        self._closing = True
        self._transport.close()

    # -- asyncio calls these --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # a TCP transport it is
        self._transport.write(_PREFACE)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._closing:
            self._tally.lost(len(self._streams), f"connection lost ({error})")

    def data_received(self, data: bytes) -> None:
        view = memoryview(bytes(self._in) + data if self._in else data)
        self._in = bytearray()
        at = 0
        while at < len(view):
            if self._data_left:
                at += self._received_data(view[at : at + self._data_left])
                continue
            if len(view) - at < 9:
                break
            length = int.from_bytes(view[at : at + 3], "big")
            kind, flags, number = view[at + 3], view[at + 4], int.from_bytes(view[at + 5 : at + 9], "big")
            if kind == _DATA and not flags & _PADDED:  # taken as it comes, whole or not
                self._data_left, self._data_flags, self._data_stream = length, flags, number
                at += 9
                if not length:
                    self._received_data(view[:0])
                continue
            if len(view) - at - 9 < length:
                break
            self._received(kind, flags, number, bytes(view[at + 9 : at + 9 + length]))
            at += 9 + length
        self._in += view[at:]
        self._write()

    # -- sending --

    def _send(self) -> None:
        """Open a stream with one call."""
        self._last_stream += 2
        self._streams[self._last_stream] = _Stream(self._initial_window)
        self._out.append(_frame(_HEADERS, _END_HEADERS, self._last_stream, self._heads.next_block()))
        self._unsent.append(self._last_stream)
        if len(self._unsent) == 1:
            self._send_messages()

    def _send_messages(self) -> None:
        """Send of the messages that wait what the windows allow."""
        while self._unsent:
            number = self._unsent[0]
            if number in self._streams and not self._send_message(number, self._streams[number]):
                return
            self._unsent.popleft()

    def _send_message(self, number: int, stream: _Stream) -> bool:
        """Whether all of it is sent."""
        while stream.unsent < len(self._message):
            count = min(len(self._message) - stream.unsent, self._max_frame, self._window, stream.window)
            if count <= 0:
                return False
            chunk = self._message[stream.unsent : stream.unsent + count]
            stream.unsent += count
            stream.window -= count
            self._window -= count
            flags = _END_STREAM if stream.unsent == len(self._message) else 0
            self._out.append(struct.pack(">I", count)[1:] + struct.pack(">BBI", _DATA, flags, number))
            self._out.append(chunk)
        return True

    def _write(self) -> None:
        """Hand everything to the socket at once."""
        if not self._out or self._closing:
            return
        if len(self._message) < 65536:
            self._transport.write(b"".join(self._out))
        else:
            self._transport.writelines(self._out)
        self._out = []

    # -- receiving --

    def _received_data(self, chunk: memoryview) -> int:
        """A piece of the DATA frame that is coming in. Returns its length."""
        self._data_left -= len(chunk)
        self._consumed += len(chunk)
        if self._consumed > _OUR_WINDOW // 2:
            self._out.append(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._consumed)))
            self._consumed = 0
        stream = self._streams.get(self._data_stream)
        if stream is not None:
            stream.received += len(chunk)
            if self._answers.wants_body:
                stream.body += chunk
            if self._data_flags & _END_STREAM and not self._data_left:
                self._ended(self._data_stream, "no trailers")
        return len(chunk)

    def _received(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """A whole frame other than DATA."""
        if kind == _HEADERS:
            self._received_headers(flags, number, payload)
        elif kind == _SETTINGS and not flags & _ACK:
            self._received_settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._out.append(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE:
            self._received_window(number, int.from_bytes(payload, "big"))
        elif kind == _RST_STREAM:
            self._ended(number, f"stream reset, code {int.from_bytes(payload, 'big')}")
        elif kind in {_GOAWAY, _DATA}:  # DATA: with padding, which no gRPC server sends
            self._tally.lost(len(self._streams), f"frame of kind {kind}: {payload[8:200].decode('latin-1')}")
            self.close()

    def _received_headers(self, flags: int, number: int, payload: bytes) -> None:
        if not flags & _END_HEADERS:
            self._ended(number, "CONTINUATION frames are not understood here")
            return
        if flags & _PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        if flags & _PRIORITY:
            payload = payload[5:]
        headers = self._blocks.decode(payload)
        stream = self._streams.get(number)
        if stream is not None and b":status" in headers:
            stream.status = headers[b":status"]
        if flags & _END_STREAM:
            self._ended(number, _status_error(headers))

    def _received_settings(self, payload: bytes) -> None:
        settings = dict(struct.unpack(">HI", payload[at : at + 6]) for at in range(0, len(payload), 6))
        if settings.get(_TABLE_SIZE, 4096) < 4096:
            raise RuntimeError("servers with a small header table are not understood here")
        grown = settings.get(_INITIAL_WINDOW, self._initial_window) - self._initial_window
        self._initial_window += grown
        for stream in self._streams.values():
            stream.window += grown
        self._max_frame = settings.get(_MAX_FRAME, self._max_frame)
        self._out.append(_frame(_SETTINGS, _ACK, 0, b""))
        if not self._settled.done():
            self._settled.set_result(None)
        self._send_messages()

    def _received_window(self, number: int, grown: int) -> None:
        if number == 0:
            self._window += grown
        elif number in self._streams:
            self._streams[number].window += grown
        self._send_messages()

    def _ended(self, number: int, error: str | None) -> None:
        """A stream is over: count it, and open the next one."""
        stream = self._streams.pop(number, None)
        if stream is None:
            return
        if error is None and stream.status != b"200":
            error = f"HTTP status {stream.status!r}"
        if error is None:
            error = self._answers.error_in(b"", stream.body[5:], stream.received)
        if self._tally.answered(stream.started, error):
            self._send()


class _Heads:
    """The header block of a request: literals that enter HPACK's table the first time, references to them after."""

    def __init__(self, path: str, authority: str) -> None:
        encoder = Encoder()
        headers = [
            (":path", path),
            (":authority", authority),
            (":method", "POST"),
            (":scheme", "http"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-accept-encoding", "identity, deflate, gzip"),
            ("user-agent", "mlserve-bench"),
        ]
        self._first: bytes | None = encoder.encode(headers)
        self._later: bytes = encoder.encode(headers)

    def next_block(self) -> bytes:
        block, self._first = self._first or self._later, None
        return block


class _Table(HeaderTable):
    """HPACK's table, with a note when it changes."""

    changed = False

    def add(self, name: bytes, value: bytes) -> None:
        self.changed = True
        super().add(name, value)


class _Blocks:
    """Decodes header blocks; those that leave the table as it is are known by heart until it changes."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._table = self._decoder.header_table = _Table()
        self._known: dict[bytes, dict[bytes, bytes]] = {}

    def decode(self, block: bytes) -> dict[bytes, bytes]:
        known = self._known.get(block)
        if known is not None:
            return known
        self._table.changed = block[:1] != b"" and block[0] & 0xE0 == 0x20  # a new size of the table
        headers: dict[bytes, bytes] = dict(_pairs(self._decoder.decode(block, raw=True)))
        if self._table.changed:
            self._known.clear()
        elif len(self._known) < 100:
            self._known[block] = headers
        return headers


def _pairs(headers: Any) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in headers]


def _status_error(trailers: dict[bytes, bytes]) -> str | None:
    status = trailers.get(b"grpc-status")
    if status == b"0":
        return None
    return f"grpc-status {status!r}: {trailers.get(b'grpc-message', b'').decode('latin-1')}"
