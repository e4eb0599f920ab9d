"""What both edges ask of h2: frames in turns, floods told from honest clients, and headers that cost little memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived
from h2.exceptions import DenialOfServiceError

from mlserve.http2 import CHURN_LIMIT, FRAMES_AT_ONCE, ServerConnection
from tests.grpc_edge import DATA, PING, RST, WINDOW, frame

REQUEST = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/a")]
A_WINDOW = b"\0\0\0\1"


@pytest.fixture
def server() -> ServerConnection:
    """With one stream, that the client has opened and we have answered the head of."""
    server = ServerConnection(max_streams=100, checks_headers=True)
    server.initiate_connection()
    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    client.increment_flow_control_window(1 << 20)
    client.increment_flow_control_window(1 << 20)
    client.send_headers(1, REQUEST)
    server.receive_data(client.data_to_send())
    server.headers_frame(1, [(":status", "200")], False)
    return server


def test_frames_are_given_out_in_turns_and_in_order(server: ServerConnection) -> None:
    small = [b"%d" % place for place in range(2 * FRAMES_AT_ONCE + 10)]
    data, seen = b"".join(frame(DATA, 0, 1, one) for one in small), []
    while True:
        events = server.receive_data(data)
        assert len(events) <= FRAMES_AT_ONCE
        seen += [event.data for event in events if isinstance(event, DataReceived)]
        data = b""
        if not server.has_more():
            break
    assert seen == small


def test_a_client_that_opens_windows_for_each_frame_it_was_sent_is_welcome(server: ServerConnection) -> None:
    """However late it does so: thousands of frames may be under way."""
    sent = 10 * CHURN_LIMIT
    for _ in range(sent):
        server.data_head(1, 1, end_stream=False)
    answers = frame(WINDOW, 0, 0, A_WINDOW) + frame(WINDOW, 0, 1, A_WINDOW) + frame(PING, 0, 0, bytes(8))
    for _ in range(sent):
        server.receive_data(answers)


def test_a_client_that_reads_large_frames_bit_by_bit_is_welcome(server: ServerConnection) -> None:
    for _ in range(40):
        server.data_head(1, 1 << 14, end_stream=False)
    for _ in range(40 * (1 << 14) // 1024):
        server.receive_data(frame(WINDOW, 0, 0, b"\0\0\4\0") + frame(WINDOW, 0, 1, b"\0\0\4\0"))


def test_windows_beyond_what_was_sent_are_too_many(server: ServerConnection) -> None:
    with pytest.raises(DenialOfServiceError, match="in a row") as caught:
        for _ in range(2 * CHURN_LIMIT):
            server.receive_data(frame(WINDOW, 0, 1, A_WINDOW))
    assert caught.value.error_code == ErrorCodes.ENHANCE_YOUR_CALM


def test_what_was_under_way_when_we_reset_a_stream_is_welcome(server: ServerConnection) -> None:
    server.reset_stream(1)
    for _ in range(2 * CHURN_LIMIT):
        server.receive_data(frame(DATA, 0, 1, b"x"))


def test_what_comes_after_the_clients_own_reset_is_not(server: ServerConnection) -> None:
    server.receive_data(frame(RST, 0, 1, bytes(4)))
    with pytest.raises(DenialOfServiceError):
        for _ in range(2 * CHURN_LIMIT):
            server.receive_data(frame(DATA, 0, 1, b"x"))


def test_remembered_headers_take_little_memory() -> None:
    """An idle connection keeps them, and a field of one byte in the block may take a hundred."""
    decode: Any = ServerConnection(max_streams=1, checks_headers=True).decoder.decode
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for place in range(64):
            decode(b"\0\1q\3%03d" % place + b"\x95" * 200)  # "age" with nothing, again and again
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held < 64 << 10


def test_more_headers_than_anybody_sends_are_refused() -> None:
    decode: Any = ServerConnection(max_streams=1, checks_headers=True).decoder.decode
    assert len(decode(b"\x95" * 256)) == 256
    with pytest.raises(Exception, match="257 header fields; the limit is 256"):
        decode(b"\x95" * 257)
