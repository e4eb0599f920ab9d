"""An HTTP/2 connection whose time a test tells: when a client counts as silent."""

from __future__ import annotations

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection as Client
from h2.events import Event, ResponseReceived

from mlserve.rest.h1_server import H1Server, Limits
from mlserve.rest.h2 import H2Connection
from tests.grpc_edge import DATA, END_STREAM, frame
from tests.http_edge import Application

PAUSE_SECONDS = 30.0


class Clock:
    """In the place of the module `time`."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Wire:
    """The transport of a connection, whose other end is a test."""

    def __init__(self) -> None:
        self.written = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def taken(self) -> bytes:
        written, self.written = bytes(self.written), bytearray()
        return written


def test_a_body_in_one_large_frame_may_take_long_while_its_bytes_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """As may those behind it; it is given up when nothing comes."""
    clock, wire, client = Clock(), Wire(), Client(H2Configuration(header_encoding="utf-8"))
    monkeypatch.setattr("mlserve.rest.h2.time", clock)
    monkeypatch.setattr("mlserve.rest.h2_exchange.time", clock)
    connection = H2Connection(
        H1Server(Application(), spawn=lambda run: None, limits=Limits(body_pause_seconds=PAUSE_SECONDS))
    )
    connection.connection_made(wire)
    client.initiate_connection()
    for stream in (1, 3):
        fields = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/echo")]
        client.send_headers(stream, fields)
    connection.feed(client.data_to_send())

    def statuses(seconds: float) -> list[str]:
        clock.now += seconds
        connection.check_deadlines(clock.now)
        events: list[Event] = client.receive_data(wire.taken())
        return [dict(event.headers)[":status"] for event in events if isinstance(event, ResponseReceived)]

    data = frame(DATA, END_STREAM, 1, bytes(100_000))
    for at in range(0, 90_000, 10_000):
        connection.feed(data[at : at + 10_000])
        assert statuses(PAUSE_SECONDS - 1) == []
    assert statuses(PAUSE_SECONDS + 1) == ["408", "408"]
