"""Clients over real sockets: those that leave, those that dawdle, slow readers, and large bodies."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from queue import Empty
from typing import Any

import pytest

from mlserve.rest.h1_server import Limits
from tests.http_edge import FAST, KINDS, NEXT, PATIENCE, Edge, post, running

CHUNKED = b"Transfer-Encoding: chunked\r\n"
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module", params=KINDS)
def edge(request: pytest.FixtureRequest) -> Iterator[Edge]:
    with running(request.param) as edge:
        yield edge


@pytest.fixture(scope="module", params=FAST)
def fast(request: pytest.FixtureRequest) -> Iterator[Edge]:
    with running(request.param) as edge:
        yield edge


@pytest.fixture(scope="module", params=FAST)
def impatient(request: pytest.FixtureRequest) -> Iterator[Edge]:
    limits = Limits(keep_alive_seconds=0.3, head_seconds=0.2, body_pause_seconds=0.2, linger_seconds=0.2)
    with running(request.param, limits=limits) as edge:
        yield edge


@pytest.fixture(autouse=True)
def no_events_left_over(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the application reports belongs to the test that caused it."""
    yield
    for name in {"edge", "fast", "impatient"} & set(request.fixturenames):
        events = request.getfixturevalue(name).app.events
        while not events.empty():
            events.get()


# -- clients that leave ------------------------------------------------------------------------------------------------


def test_the_application_hears_from_receive_that_the_client_left(edge: Edge) -> None:
    with edge.connect() as client:
        client.get("/receive-end")
        assert edge.app.next_event() == "waiting"
    assert edge.app.next_event() == "http.disconnect"


def test_the_callback_of_the_extension_cancels_the_call_when_the_client_leaves(fast: Edge) -> None:
    with fast.connect() as client:
        client.get("/callback")
        assert fast.app.next_event() == "waiting"
    assert fast.app.next_event() == "cancelled by callback"


def test_the_callback_is_called_when_the_client_is_killed(fast: Edge) -> None:
    with fast.connect() as client:
        client.get("/callback")
        assert fast.app.next_event() == "waiting"
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closing resets
    assert fast.app.next_event() == "cancelled by callback"


def test_a_client_that_leaves_within_its_body_ends_the_reading(edge: Edge) -> None:
    with edge.connect() as client:
        client.send(post(b"/read-body", b"Content-Length: 30\r\n", b"abc"))
    assert edge.app.next_event() == "ClientGone"


def test_a_client_that_leaves_within_a_large_body_ends_the_reading(edge: Edge) -> None:
    with edge.connect() as client:
        client.send(post(b"/read-body", b"Content-Length: 30000000\r\n"), bytes(3 * MEGABYTE))
    assert edge.app.next_event() == "ClientGone"


def test_sending_to_a_client_that_left_raises(fast: Edge) -> None:
    with fast.connect() as client:
        client.get("/flood")
        assert fast.app.next_event() == "sent"
    while (event := fast.app.next_event()) == "sent":
        pass
    assert event == "ClientGone"


def test_a_client_that_closed_its_sending_side_gets_its_answer(fast: Edge) -> None:
    with fast.connect() as client:
        client.get("/slow")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.response().body == b"GET /slow 0 "
        assert client.closed()


def test_all_that_a_client_asked_before_it_closed_its_sending_side_is_answered(fast: Edge) -> None:
    with fast.connect() as client:
        client.send(NEXT, NEXT, NEXT, b"GET /half-a-hea")
        client.sock.shutdown(socket.SHUT_WR)
        assert [client.response().body for _ in range(3)] == [b"GET /next 0 "] * 3
        assert client.closed()


def test_a_client_that_leaves_with_requests_ahead_is_noticed(fast: Edge) -> None:
    with fast.connect() as client:
        client.get("/callback")
        assert fast.app.next_event() == "waiting"
        client.send(NEXT, NEXT)
    assert fast.app.next_event() == "cancelled by callback"


def test_an_idle_connection_is_closed_as_soon_as_its_client_closed_it(fast: Edge) -> None:
    with fast.connect() as client:
        assert client.alive()
        client.sock.shutdown(socket.SHUT_WR)  # what the server sees of a client that closes
        assert client.closed()  # the keep-alive timeout is 75 s


# -- clients that dawdle -----------------------------------------------------------------------------------------------


def test_a_head_that_does_not_end_is_refused_in_time(impatient: Edge) -> None:
    with impatient.connect() as client:
        assert client.send(b"GET / HTTP/1.1\r\nHo").response().status == 408
        assert client.closed()


def test_a_body_that_does_not_go_on_is_refused_in_time(impatient: Edge) -> None:
    with impatient.connect() as client:
        assert client.send(post(b"/x", b"Content-Length: 9\r\n", b"abc")).response().status == 408
        assert client.closed()
    assert impatient.app.next_event() == "ClientGone"


@pytest.mark.parametrize("first", [b"", NEXT])
def test_an_idle_connection_is_closed_in_time(impatient: Edge, first: bytes) -> None:
    began = time.monotonic()
    with impatient.connect() as client:
        if first:
            assert client.send(first).response().status == 200
        assert client.closed()
        assert time.monotonic() - began > 0.2


def test_a_client_that_sends_on_after_a_refusal_is_cut_off_in_time(impatient: Edge) -> None:
    with impatient.connect() as client:
        client.send(post(b"/refuse", b"Content-Length: 100000000\r\n"))
        assert client.response().status == 413
        with pytest.raises(OSError):
            while True:
                client.send(b"x")
                time.sleep(0.01)


def test_a_busy_connection_is_under_no_deadline(impatient: Edge) -> None:
    with impatient.connect() as client:
        client.get("/hold")
        assert impatient.app.next_event() == "held"
        time.sleep(0.6)
        impatient.app.permits.put(1)
        assert client.response().body == b"released"


# -- streams -----------------------------------------------------------------------------------------------------------


def test_every_event_of_a_stream_is_sent_at_once(edge: Edge) -> None:
    with edge.connect() as client:
        client.get("/events")
        for number in range(3):
            edge.app.permits.put(1)
            client._until(b"data: %d\n\n" % number)  # the next one waits for our permit
        client._until(b"0\r\n\r\n")
        assert client.alive()


def test_a_slow_reader_holds_the_stream_back(fast: Edge) -> None:
    with fast.connect(receive_buffer=64 * 1024) as client:
        client.get("/flood")
        assert fast.app.next_event() == "sent"
        sent = 1
        try:
            while True:
                fast.app.events.get(timeout=0.5)
                sent += 1
        except Empty:
            assert sent < 32  # of 64 KiB each; the kernel alone would take megabytes
        for _ in range(64):
            client._exactly(65536)
        fast.app.next_event()


# -- large bodies ------------------------------------------------------------------------------------------------------


def pattern(nbytes: int) -> bytes:
    return random.Random(nbytes).randbytes(nbytes)


def summary(body: bytes) -> bytes:
    return b"%d %d" % (len(body), sum(body[::1000]))


@pytest.mark.parametrize("nbytes", [0, 1, 70_000, MEGABYTE, 5 * MEGABYTE + 1, 20 * MEGABYTE])
def test_a_body_of_any_size_arrives_as_it_was_sent(edge: Edge, nbytes: int) -> None:
    body = pattern(nbytes)
    with edge.connect() as client:
        for _ in range(2):
            client.send(post(b"/read-body", b"Content-Length: %d\r\n" % nbytes), body)
            assert client.response().body == summary(body)
        assert client.alive()


def test_what_follows_a_large_body_in_the_same_packet_is_the_next_request(fast: Edge) -> None:
    body = pattern(3 * MEGABYTE)
    with fast.connect() as client:
        client.send(post(b"/read-body", b"Content-Length: %d\r\n" % len(body), body) + NEXT)
        assert client.response().body == summary(body)
        assert client.response().body == b"GET /next 0 "


def test_a_large_chunked_body_arrives_as_it_was_sent(edge: Edge) -> None:
    body = pattern(3 * MEGABYTE)
    pieces = [body[i : i + 50_000] for i in range(0, len(body), 50_000)]
    with edge.connect() as client:
        client.send(post(b"/read-body", CHUNKED, b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in [*pieces, b""])))
        assert client.response().body == summary(body)
        assert client.alive()


def test_a_large_answer_arrives_whole(edge: Edge) -> None:
    body = pattern(2 * MEGABYTE)

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("none here")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": memoryview(body)[:MEGABYTE], "more_body": True})
        await send({"type": "http.response.body", "body": bytearray(body[MEGABYTE:])})

    with running(edge.kind, app) as other, other.connect() as client:
        assert client.get("/").response().body == body


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
def test_a_body_over_the_limit_is_refused_and_the_client_sees_the_answer(fast: Edge, announced: bool) -> None:
    body = bytes(5 * MEGABYTE)
    headers = b"Content-Length: %d\r\n" % len(body) if announced else CHUNKED
    with fast.connect() as client:
        client.send(post(b"/read-body?1000", headers))
        client.send(body if announced else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        response = client.response()
        assert response.status == 413
        assert b"limit of 1000" in response.body
        client.sock.shutdown(socket.SHUT_WR)
        assert client.closed()


def test_a_body_that_nobody_takes_is_not_read_ahead_without_bound(fast: Edge) -> None:
    body = bytes(20 * MEGABYTE)
    with fast.connect() as client:
        client.sock.settimeout(0.3)
        head = post(b"/trickle", b"Content-Length: %d\r\n" % len(body))
        client.send(head)
        sent = 0
        try:
            while sent < len(body):
                sent += client.sock.send(body[sent:])
        except TimeoutError:
            pass
        assert sent < len(body)  # the rest waits on our side
        client.sock.settimeout(PATIENCE)
        fast.app.permits.put(1)
        assert fast.app.next_event() <= 2 * MEGABYTE
        for _ in range(10_000):
            fast.app.permits.put(1)
        client.send(body[sent:])
        assert client.response().body == b"%d" % len(body)
        while not fast.app.permits.empty():
            fast.app.permits.get()
