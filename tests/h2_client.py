"""A client of HTTP/2 that reads when it is told to, and says frame by frame what a test wants said."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes

PATIENCE = 60.0  # seconds until a test gives up on something that must come


class H2Client:
    """One connection. `windows`: bytes that the server may send on each stream and on all, before more is given."""

    def __init__(self, address: tuple[str, int], *, windows: int = 65535, receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(address)
        self.h2 = H2Connection(H2Configuration(header_encoding="utf-8", validate_outbound_headers=False))
        self.h2.initiate_connection()
        if windows > 65535:
            self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: windows})
            self.h2.increment_flow_control_window(windows - 65535)
        self.gives_windows_back = True
        self.heads: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytes] = {}
        self.ends: dict[int, str | int] = {}  # "whole", or the code of a reset
        self.continued: set[int] = set()  # streams whose body the server asks for
        self.goodbye: ConnectionTerminated | None = None
        self.send()

    def __enter__(self) -> H2Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self) -> None:
        """What the protocol has to say."""
        self.sock.sendall(self.h2.data_to_send())

    def ask(self, path: str, body: bytes = b"", *, method: str = "GET", end: bool = True, extra: Any = ()) -> int:
        """The number of a new stream; without `end` the request goes on."""
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path), *extra]
        self.h2.send_headers(stream, head, end_stream=end and not body)
        if body:
            self.h2.send_data(stream, body, end_stream=end)
        self.send()
        return stream

    def give_up(self, *streams: int) -> None:
        """Resets streams."""
        for stream in streams:
            self.h2.reset_stream(stream, 8)
        self.send()

    def read(self) -> bool:
        """Reads once; False at the end of the connection."""
        data = self.sock.recv(1 << 16)
        for event in self.h2.receive_data(data):
            self._note(event)
        self.send()
        return bool(data)

    def _note(self, event: Event) -> None:
        if isinstance(event, ResponseReceived):
            self.heads[event.stream_id] = {str(k): str(v) for k, v in event.headers}
        elif isinstance(event, InformationalResponseReceived):
            self.continued.add(event.stream_id)
        elif isinstance(event, DataReceived):
            self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            if self.gives_windows_back:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            self.ends[event.stream_id] = "whole"
        elif isinstance(event, StreamReset):
            self.ends.setdefault(event.stream_id, int(event.error_code))
        elif isinstance(event, ConnectionTerminated):
            self.goodbye = event

    def until(self, look: Callable[[], Any]) -> Any:
        """Reads until there is what is looked for."""
        while not (found := look()):
            if not self.read():
                raise EOFError("the server closed the connection")
        return found

    def until_ended(self, *streams: int) -> None:
        """Reads to the end of these."""
        self.until(lambda: set(streams) <= set(self.ends))

    def read_to_the_end(self) -> None:
        """Reads until the server closes the connection."""
        while self.read():
            pass

    def get(self, path: str, **options: Any) -> bytes:
        """The whole answer to a request."""
        stream = self.ask(path, **options)
        self.until_ended(stream)
        assert self.ends[stream] == "whole"
        return self.bodies.get(stream, b"")

    def break_off(self) -> None:
        """Closes with a reset of the connection."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def statuses(client: H2Client, streams: Iterable[int]) -> list[str]:
    """Of answers that have come."""
    return [client.heads[stream][":status"] for stream in streams]
