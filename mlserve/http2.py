"""h2's connection as both transports need it: large frames and windows, cheap headers, no log lines, graceful GOAWAY.

h2 keeps the protocol: framing, states, flow control. What is replaced here costs time for nothing: a repr of every
frame for a logger that nobody has, Huffman coding of answers, decoding the same request headers again and again.
Answers' headers use no table, so that each block means the same whatever was sent before it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import DenialOfServiceError, FrameTooLargeError, StreamClosedError, StreamIDTooLowError
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream, StreamClosedBy, StreamInputs
from hpack import Decoder, Encoder
from hpack.exceptions import OversizedHeaderListError
from hpack.table import HeaderTable
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
)

__all__ = ["HELD_BYTES", "ServerConnection", "goaway_frame"]

FRAME_BYTES = 1 << 20  # 16 KiB, the default, makes 2448 frames of 40 MB; 16 MiB is slower again.
# What one stream may have sent and its call not read: at 50 ms from a client, it still sends 80 MB a second.
STREAM_WINDOW_BYTES = 4 << 20
# Of all its streams together, as good as unbounded, so that one whose call reads slowly does not hold others up.
WINDOW_BYTES = 1 << 30
HEADER_BYTES = 64 << 10
HEADER_FIELDS = 256  # Of fields of one byte each, 64 KiB may say thousands, which take a hundred times as much memory.
# What a connection remembers of header blocks: so many, and of none that is larger than those of real clients.
_CACHED_BLOCKS, _CACHED_FIELDS, _CACHED_BYTES = 64, 32, 2048
_HEADERS, _CONTINUATION = HeadersFrame.type, ContinuationFrame.type
_END_STREAM, _END_HEADERS = 0x1, 0x4
_RESIZE = 0x20  # A block that begins so changes the size of the table.
# How many resets and settings a client may send within some seconds beyond its finished calls; and how many frames
# that carry nothing beyond what it was sent. Clients answer each DATA with a ping, or with windows: of the stream and
# of the connection, each time they have read a little. They may do so long after we wrote it.
CHURN_LIMIT = 2000
_CHURN_SECONDS = 10.0
_PAID_BY_A_FRAME, _PAID_BYTES_SHIFT = 4, 9  # one more for each 512 bytes
# A frame may take 30 us, the headers of a request ten times as much: after so many, others have their turn.
FRAMES_AT_ONCE = 256
HELD_BYTES = 256 << 10  # Of frames that wait for their turn; while there are more, nothing is read.


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return b"".join((len(payload).to_bytes(3, "big"), bytes((kind, flags)), stream_id.to_bytes(4, "big"), payload))


def _data_frame_head(size: int, stream_id: int, *, end_stream: bool = False) -> bytes:
    """The nine bytes before the payload of a DATA frame."""
    return size.to_bytes(3, "big") + (b"\0\1" if end_stream else b"\0\0") + stream_id.to_bytes(4, "big")


def goaway_frame(last_stream_id: int, error: ErrorCodes = ErrorCodes.NO_ERROR) -> bytes:
    """GOAWAY as bytes: h2 would regard the connection as closed after sending one, with calls still running."""
    frame = GoAwayFrame(0, last_stream_id=last_stream_id, error_code=int(error))
    return frame.serialize()


class Churn:
    """Counts frames that cost something and ask for nothing."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._count = 0
        self._since = 0.0

    def add(self, now: float) -> None:
        """Counts one more. DenialOfServiceError if they are too many."""
        if now - self._since > _CHURN_SECONDS:
            self._count, self._since = min(self._count, 0), now
        self._count += 1
        if self._count > CHURN_LIMIT:
            raise DenialOfServiceError(f"more than {CHURN_LIMIT} {self._what} in a row")

    def pay(self, count: int = 1) -> None:
        """Makes some undone, also some that are still to come."""
        self._count -= count


class ServerConnection(H2Connection):
    """The server's side of one connection. `checks_headers`: of requests, which else only gRPC's own rules bind."""

    def __init__(self, *, max_streams: int, checks_headers: bool) -> None:
        super().__init__(
            H2Configuration(
                client_side=False,
                header_encoding=None,  # Bytes that are no ASCII would raise in the middle of h2.
                validate_inbound_headers=checks_headers,
                validate_outbound_headers=False,
                normalize_inbound_headers=checks_headers,
                normalize_outbound_headers=False,
            )
        )
        self.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: max_streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: HEADER_BYTES,
                SettingCodes.MAX_FRAME_SIZE: FRAME_BYTES,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
            },
        )
        self.max_inbound_frame_size = FRAME_BYTES
        self.encoder = StatelessEncoder()
        self.decoder = RememberingDecoder(HEADER_BYTES)
        self.incoming_buffer: BoundedFrameBuffer = BoundedFrameBuffer(server=True)
        self._churn = Churn("resets or settings")
        self._idle = Churn("pings, windows and other frames that carry nothing")

    def initiate_connection(self) -> None:
        """Our settings, and the window of the connection, which settings do not reach."""
        super().initiate_connection()
        self.increment_flow_control_window(WINDOW_BYTES - 65535)

    def has_more(self) -> bool:
        """Whether frames have come that wait for the next `receive_data`, so that others have their turn first."""
        return self.incoming_buffer.has_more

    def in_a_frame(self) -> bool:
        """Whether a part of a frame has come, and not yet the whole."""
        return self.incoming_buffer.held_bytes > 0 and not self.has_more()

    def hold(self, data: bytes) -> bool:
        """Takes data while there are frames that wait; False if so much is held that no more should be read."""
        self.incoming_buffer.add_data(data)
        return self.incoming_buffer.held_bytes <= HELD_BYTES

    def room(self, stream_id: int) -> int | None:
        """How many bytes of DATA the client's windows let through now; None if the stream is gone."""
        stream = self.streams.get(stream_id)
        if stream is None or stream.closed:
            return None
        return max(0, min(self.outbound_flow_control_window, stream.outbound_flow_control_window))

    def data_head(self, stream_id: int, size: int, *, end_stream: bool) -> bytes:
        """The head of a DATA frame of `size` bytes, no more than there is `room` for; the windows close by so much."""
        stream = self.streams[stream_id]
        self.outbound_flow_control_window -= size
        stream.outbound_flow_control_window -= size
        if end_stream:
            self._end(stream)
        self._idle.pay(_PAID_BY_A_FRAME + (size >> _PAID_BYTES_SHIFT))
        return _data_frame_head(size, stream_id, end_stream=end_stream)

    def headers_frame(
        self, stream_id: int, fields: Iterable[tuple[str | bytes, str | bytes]], end_stream: bool
    ) -> bytes:
        """A HEADERS frame of an answer, or its trailers; StreamClosedError if the stream is gone.

        h2's own way looks at each field several times, for what only proxies and clients need to know.
        """
        stream = self.streams.get(stream_id)
        if stream is None or stream.closed:
            raise StreamClosedError(stream_id)
        block = self.encoder.encode(fields)
        self._idle.pay(_PAID_BY_A_FRAME)
        stream.state_machine.process_input(StreamInputs.SEND_HEADERS)
        if end_stream:
            self._end(stream)
        flags, limit = _END_STREAM if end_stream else 0, self.max_outbound_frame_size
        if len(block) <= limit:
            return _frame(_HEADERS, flags | _END_HEADERS, stream_id, block)
        rest = range(limit, len(block), limit)
        parts = [_frame(_HEADERS, flags, stream_id, block[:limit])]
        parts += [
            _frame(_CONTINUATION, _END_HEADERS if at == rest[-1] else 0, stream_id, block[at : at + limit])
            for at in rest
        ]
        return b"".join(parts)

    def continue_frame(self, stream_id: int) -> bytes:
        """100 Continue, behind which the client sends its body; StreamClosedError if the stream is gone."""
        stream = self.streams.get(stream_id)
        if stream is None or stream.closed:
            raise StreamClosedError(stream_id)
        stream.state_machine.process_input(StreamInputs.SEND_INFORMATIONAL_HEADERS)
        return _frame(_HEADERS, _END_HEADERS, stream_id, self.encoder.encode([(":status", "100")]))

    def _end(self, stream: H2Stream) -> None:
        stream.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        self._churn.pay()  # Only here: a call that its client has reset pays for nothing.

    def _receive_frame(self, frame: Frame) -> list[Event]:
        """As h2 does it, without a repr of the frame for the log: that one hexlifies every body.

        DenialOfServiceError for too many frames that cost something and ask for nothing.
        """
        if frame.__class__ is not HeadersFrame:
            self._count(frame)
        try:
            frames, events = self._frame_dispatch_table[frame.__class__](frame)
        except StreamClosedError as error:
            if not self._stream_is_closed_by_reset(error.stream_id):
                raise
            frames, events = [_reset(error.stream_id, error.error_code)], error._events
        except StreamIDTooLowError as error:
            if self._stream_is_closed_by_reset(error.stream_id):
                frames, events = [_reset(error.stream_id, ErrorCodes.STREAM_CLOSED)], []
            elif self._stream_is_closed_by_end(error.stream_id):
                raise StreamClosedError(error.stream_id) from error
            else:
                raise
        self._prepare_for_sending(frames)
        return list(events)

    def _count(self, frame: Frame) -> None:
        if isinstance(frame, DataFrame) and (frame.data or "END_STREAM" in frame.flags):
            return
        resets = isinstance(frame, RstStreamFrame) or (isinstance(frame, SettingsFrame) and "ACK" not in frame.flags)
        (self._churn if resets else self._idle).add(time.monotonic())

    def _handle_data_on_closed_stream(self, events: list[Event], exc: Any, frame: DataFrame) -> Any:
        """What was under way when we ended the stream is welcome; clients know when they have ended it themselves."""
        if frame.data and self._stream_closed_by(frame.stream_id) is not StreamClosedBy.SEND_RST_STREAM:
            self._idle.add(time.monotonic())
        return super()._handle_data_on_closed_stream(events, exc, frame)

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        """A client that leaves in peace still wants its answers; h2 would refuse to send them."""
        if frame.error_code == ErrorCodes.NO_ERROR:
            return [], []
        frames, events = super()._receive_goaway_frame(frame)
        return list(frames), list(events)


def _reset(stream_id: int, code: int) -> RstStreamFrame:
    return RstStreamFrame(stream_id, error_code=int(code))


class BoundedFrameBuffer(FrameBuffer):
    """Refuses what is too large when its length is known, and gives out no more than FRAMES_AT_ONCE.

    h2 would collect a frame of up to 16 MiB before it looks, and 64 frames of any size for one header block.
    """

    has_more = False
    _header_bytes = 0
    _left = 0  # frames that are still given out

    @property
    def held_bytes(self) -> int:
        """How much waits: for the rest of its frame, or for its turn."""
        return len(self._data)

    def __iter__(self) -> BoundedFrameBuffer:
        self._left, self.has_more = FRAMES_AT_ONCE, False
        return self

    def __next__(self) -> Frame:
        head = self._data[:4]
        if not self._left:
            self.has_more = bool(head)
            raise StopIteration
        self._left -= 1
        if len(head) == 4:
            size, kind = head[0] << 16 | head[1] << 8 | head[2], head[3]
            if size > self.max_frame_size:
                raise FrameTooLargeError(f"a frame has {size} bytes; the limit is {self.max_frame_size}")
            if size > HEADER_BYTES and kind in (_HEADERS, _CONTINUATION):
                raise DenialOfServiceError(f"a header block has more than {HEADER_BYTES} bytes")
        return super().__next__()

    def _update_header_buffer(self, f: Frame | None) -> Frame | None:
        if isinstance(f, (HeadersFrame, ContinuationFrame)):
            self._header_bytes += len(f.data)
            if self._header_bytes > HEADER_BYTES:
                raise DenialOfServiceError(f"a header block has more than {HEADER_BYTES} bytes")
            if "END_HEADERS" in f.flags:
                self._header_bytes = 0
        return super()._update_header_buffer(f)


class StatelessEncoder(Encoder):
    """Writes every header field out, without table and Huffman code: a tenth of the time, a few more bytes."""

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:
        """The header block of pairs of text."""
        parts = [_literal(name) + _value(value) if name != ":status" else _status(value) for name, value in headers]
        if self.table_size_changes:  # The client's decoder waits for an answer to its setting.
            parts.insert(0, self._encode_table_size_change())
            self.table_size_changes = []
        return b"".join(parts)


@lru_cache(512)
def _literal(name: str | bytes) -> bytes:
    return b"\0" + _value(name)


def _value(text: str | bytes) -> bytes:
    data = text.encode("ascii") if isinstance(text, str) else text
    size = len(data)
    if size < 0x7F:
        return bytes((size,)) + data
    out = bytearray((0x7F,))
    size -= 0x7F
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out) + data


def _status(value: str | bytes) -> bytes:
    if value in ("200", b"200"):
        return b"\x88"  # Entry 8 of the static table.
    return _literal(":status") + _value(value)


class _WatchedTable(HeaderTable):
    """Tells when the dynamic table changes, which is when remembered blocks lose their meaning."""

    changed = False

    def add(self, name: bytes, value: bytes) -> None:
        self.changed = True
        super().add(name, value)

    def _shrink(self) -> None:
        self.changed = True
        super()._shrink()


class RememberingDecoder(Decoder):
    """Decodes a header block once: clients send the same one for each call to a method.

    A block means what the table says. So only blocks that leave it as it is are remembered, and all are forgotten
    when another one changes it. Large ones are not: connections may be many, and idle.
    """

    def __init__(self, max_header_list_size: int) -> None:
        super().__init__(max_header_list_size)
        self.header_table = self._table = _WatchedTable()
        self._known: dict[bytes, Any] = {}

    def decode(self, data: Any, raw: bool = False) -> Any:
        """The pairs of a header block, as hpack gives them. OversizedHeaderListError for more than HEADER_FIELDS."""
        block = bytes(data)
        found = self._known.get(block)
        if found is None:
            self._table.changed = False
            found = list(super().decode(block, raw))
            if len(found) > HEADER_FIELDS:
                raise OversizedHeaderListError(f"{len(found)} header fields; the limit is {HEADER_FIELDS}")
            if self._table.changed or len(self._known) >= _CACHED_BLOCKS:
                self._known.clear()
            if not self._table.changed and block and block[0] & 0xE0 != _RESIZE and _is_small(found):
                self._known[block] = found
        return found


def _is_small(fields: Any) -> bool:
    return len(fields) <= _CACHED_FIELDS and sum(len(name) + len(value) for name, value in fields) <= _CACHED_BYTES
