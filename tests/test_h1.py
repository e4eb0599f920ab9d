"""The HTTP/1.1 edge over real sockets: framing, refusals, clients that leave or dawdle, streams, large bodies."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty

import httpx
import pytest

from mlserve.rest.h1_server import Limits
from tests.http_edge import FAST, KINDS, PATIENCE, Edge, running

HOST = b"Host: a\r\n"
NEXT = b"GET /next HTTP/1.1\r\n" + HOST + b"\r\n"
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module", params=KINDS)
def edge(request: pytest.FixtureRequest) -> Iterator[Edge]:
    with running(request.param) as edge:
        yield edge
        assert edge.app.permits.empty()


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


def post(path: bytes, headers: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST " + path + b" HTTP/" + version + b"\r\n" + HOST + headers + b"\r\n" + body


@dataclass
class Case:
    """What is sent, and what comes back: statuses, the last body, and whether the connection can be used again."""

    sent: tuple[bytes, ...]
    statuses: list[int]
    last_body: bytes | None = None
    open: bool = True
    stock: Case | None = None  # where stock Hypercorn answers something else
    only_fast: bool = False


def refused(status: int, *sent: bytes, stock: Case | None = None, only_fast: bool = False) -> Case:
    return Case(sent, [status], open=False, stock=stock, only_fast=only_fast)


def stock(*statuses: int, open: bool = True) -> Case:
    return Case((), list(statuses), open=open)


CHUNKED = b"Transfer-Encoding: chunked\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
CASES = {
    "plain": Case((b"GET /a%20b?q=1 HTTP/1.1\r\n" + HOST + b"\r\n",), [200], b"GET /a b 0 "),
    "three at once": Case(
        (NEXT + post(b"/slow", b"Content-Length: 3\r\n", b"abc") + NEXT,), [200, 200, 200], b"GET /next 0 "
    ),
    "byte by byte": Case(
        tuple(bytes([c]) for c in post(b"/s", b"Content-Length: 3\r\n", b"abc")), [200], b"POST /s 3 abc"
    ),
    "chunked": Case(
        (post(b"/c", CHUNKED, b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTr: x\r\n\r\n"), NEXT), [200, 200], b"GET /next 0 "
    ),
    "empty lines before": Case((b"\r\n\r\n" + NEXT,), [200], stock=stock(400, open=False)),
    "connection: close": Case((b"GET /h HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",), [200], open=False),
    "request after close": Case((b"GET /h HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n" + NEXT,), [200], open=False, only_fast=True),
    "HTTP/1.0": Case((b"GET /h HTTP/1.0\r\n\r\n",), [200], b"GET /h 0 ", open=False),
    "HTTP/1.0, length unknown": Case((b"GET /chunked HTTP/1.0\r\n\r\n",), [200], b"abcd", open=False),
    "answer of unknown length": Case((b"GET /chunked HTTP/1.1\r\n" + HOST + b"\r\n", NEXT), [200, 200]),
    "OPTIONS *": Case((b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",), [200], b"OPTIONS * 0 "),
    "CONNECT": Case((b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n", NEXT), [200, 200], only_fast=True),
    "absolute form": Case((b"GET http://a/v2 HTTP/1.1\r\n" + HOST + b"\r\n",), [200], b"GET /v2 0 ", stock=stock(200)),
    # what the application does wrong
    "application fails": Case((b"GET /boom HTTP/1.1\r\n" + HOST + b"\r\n",), [500], open=False),
    "application is silent": Case((b"GET /silent HTTP/1.1\r\n" + HOST + b"\r\n",), [500], open=False),
    "header with a line break": Case((b"GET /inject HTTP/1.1\r\n" + HOST + b"\r\n",), [500], open=False),
    "body over its length": Case((b"GET /long HTTP/1.1\r\n" + HOST + b"\r\n",), [500], open=False, only_fast=True),
    # bodies that nobody reads
    "refused before its body": refused(413, post(b"/refuse", b"Content-Length: 30\r\n", b"abc")),
    "refused, body there": Case((post(b"/refuse", b"Content-Length: 3\r\n", b"abc"), NEXT), [413, 200], stock=stock(413, 200)),
    # framing that can be read in two ways
    "length and chunks": refused(
        400,
        post(b"/x", b"Content-Length: 3\r\n" + CHUNKED, b"0\r\n\r\n" + NEXT),
        stock=stock(200, 200),
    ),
    "chunks and length": refused(
        400, post(b"/x", CHUNKED + b"Content-Length: 3\r\n", b"0\r\n\r\n" + NEXT), stock=stock(200, 200)
    ),
    "two lengths": refused(400, post(b"/x", b"Content-Length: 3\r\nContent-Length: 4\r\n", b"abcd")),
    "the same length twice": refused(
        400, post(b"/x", b"Content-Length: 3\r\nContent-Length: 3\r\n", b"abc"), stock=stock(200)
    ),
    "signed length": refused(400, post(b"/x", b"Content-Length: +3\r\n", b"abc")),
    "endless length": refused(400, post(b"/x", b"Content-Length: " + b"9" * 30 + b"\r\n"), only_fast=True),
    "xchunked": refused(501, post(b"/x", b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n")),
    "gzip, chunked": refused(501, post(b"/x", b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n")),
    "chunked twice": refused(400, post(b"/x", CHUNKED + CHUNKED, b"0\r\n\r\n"), stock=stock(501, open=False)),
    "chunked in 1.0": refused(
        400, post(b"/x", CHUNKED, b"0\r\n\r\n", version=b"1.0"), stock=stock(200, open=False)
    ),
    "bad chunk size": refused(400, post(b"/x", CHUNKED, b"zz\r\nabc\r\n")),
    "chunk longer than it says": refused(400, post(b"/x", CHUNKED, b"3\r\nabcd\r\n0\r\n\r\n")),
    "bare LF in a chunk": refused(400, post(b"/x", CHUNKED, b"3\nabc\r\n0\r\n\r\n")),
    "space before the colon": refused(400, post(b"/x", b"Content-Length : 3\r\n", b"abc")),
    "no colon": refused(400, b"GET /x HTTP/1.1\r\n" + HOST + b"nonsense\r\n\r\n"),
    "bare LF": refused(400, b"GET /x HTTP/1.1\nHost: a\n\n", stock=stock(200)),
    "bare LF in a header": refused(400, b"GET /x HTTP/1.1\r\n" + HOST + b"X: a\nY: b\r\n\r\n", stock=stock(200)),
    "folded header": refused(400, b"GET /x HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n", stock=stock(200)),
    "NUL in a header": refused(400, b"GET /x HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n"),
    "no Host": refused(400, b"GET /x HTTP/1.1\r\n\r\n"),
    "two Hosts": refused(400, b"GET /x HTTP/1.1\r\n" + HOST + HOST + b"\r\n"),
    "two Hosts in 1.0": refused(400, b"GET /x HTTP/1.0\r\n" + HOST + HOST + b"\r\n", only_fast=True),
    "bytes in the path": refused(400, b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n", only_fast=True),
    "unknown method": refused(501, b"FROB /x HTTP/1.1\r\n" + HOST + b"\r\n", stock=stock(200)),
    "unknown version": refused(400, b"GET /x HTTP/3.7\r\n" + HOST + b"\r\n", stock=stock(200)),
    "a TLS greeting": refused(501, b"\x16\x03\x01\x02\x00\x01\x00\x01", stock=stock(400, open=False)),
    "garbage after a request": Case(
        (b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n\x01\x02\x03\r\n\r\n",),
        [200, 501],
        open=False,
        stock=stock(200, 400, open=False),
    ),
    # heads without end
    "a head of 20 kB": refused(
        431, b"GET /x HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 20000 + b"\r\n\r\n", stock=stock(200)
    ),
    "a head without end": refused(431, b"GET /x HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 40000),
    "a target without end": refused(431, b"GET /" + b"a" * 20000, only_fast=True),
    "trailers without end": refused(
        431, post(b"/x", CHUNKED, b"0\r\n"), b"X: ", *[b"a" * 9000] * 40, only_fast=True
    ),
    "a chunk size line without end": refused(
        431, post(b"/x", CHUNKED, b"3;"), *[b"a" * 9000] * 40, only_fast=True
    ),
    # upgrades are not taken up, and leave the body where it is
    "websocket": Case(
        (
            b"GET /ws HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            NEXT,
        ),
        [200, 200],
        only_fast=True,  # on trio this request brings stock Hypercorn down
    ),
    "h2c": Case(
        (b"GET /ws HTTP/1.1\r\n" + HOST + UPGRADE + b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",),
        [200],
        only_fast=True,
    ),
    "upgrade and the next": Case((b"GET /ws HTTP/1.1\r\n" + HOST + UPGRADE + b"\r\n" + NEXT,), [200, 200], only_fast=True),
    "upgrade with a body": Case(
        (post(b"/ws", UPGRADE + b"Content-Length: 5\r\n", b"ab"), b"cde" + NEXT), [200, 200], b"GET /next 0 "
    ),
    "upgrade with chunks": Case(
        (post(b"/ws", UPGRADE + CHUNKED, b"2\r\nab\r\n0\r\n\r\n"), NEXT), [200, 200], b"GET /next 0 "
    ),
    "upgrade with an empty body": Case(
        (post(b"/ws", UPGRADE + b"Content-Length: 0\r\n"), NEXT), [200, 200], b"GET /next 0 "
    ),
    "a request as the body of an upgrade": Case(
        (post(b"/ws", UPGRADE + b"Content-Length: %d\r\n" % len(NEXT), NEXT),), [200], b"POST /ws %d " % len(NEXT) + NEXT[:20]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_exchange_of_bytes_has_the_answers_that_the_table_says(edge: Edge, name: str) -> None:
    case = CASES[name]
    if not edge.fast and case.only_fast:
        pytest.skip("stock Hypercorn breaks off or answers by chance")
    expected = case if edge.fast or case.stock is None else case.stock
    with edge.connect() as client:
        client.send(*case.sent)
        responses = [client.response() for _ in expected.statuses]
        assert [response.status for response in responses] == expected.statuses
        assert all(response.whole for response in responses)
        if expected.last_body is not None:
            assert responses[-1].body == expected.last_body
        if expected.open:
            assert client.alive()
        else:
            assert edge.kind.endswith("stock") or responses[-1].headers["connection"] == "close"
            assert client.closed()


def test_a_refusal_says_why(fast: Edge) -> None:
    with fast.connect() as client:
        response = client.send(b"GET /x HTTP/1.1\r\n\r\n").response()
    assert response.body == b'{"error": "HTTP/1.1 asks for exactly one Host header, got 0"}'


def test_head_has_the_headers_of_get_and_no_body(edge: Edge) -> None:
    with edge.connect() as client:
        response = client.send(b"HEAD /h HTTP/1.1\r\n" + HOST + b"\r\n").response(bodiless=True)
        assert (response.status, response.headers["content-length"]) == (200, "10")
        assert client.alive()


def test_expect_continue_is_answered_when_the_application_wants_the_body(edge: Edge) -> None:
    with edge.connect() as client:
        client.send(post(b"/e", b"Content-Length: 3\r\nExpect: 100-continue\r\n"))
        assert client.response().status == 100
        assert client.send(b"abc").response().body == b"POST /e 3 abc"
        assert client.alive()


def test_expect_continue_is_not_answered_when_the_application_refuses(fast: Edge) -> None:
    with fast.connect() as client:
        client.send(post(b"/refuse", b"Content-Length: 3\r\nExpect: 100-continue\r\n"))
        assert client.response().status == 413
        assert client.closed()


@pytest.mark.parametrize("path", ["/short", "/half"])
def test_a_body_that_breaks_off_is_seen_as_broken(edge: Edge, path: str) -> None:
    with edge.connect() as client:
        response = client.get(path).response()
        assert (response.status, response.whole) == (200, False)


def test_in_http_1_0_a_body_that_breaks_off_resets_the_connection(fast: Edge) -> None:
    with fast.connect() as client, pytest.raises(ConnectionResetError):
        client.send(b"GET /half HTTP/1.0\r\n\r\n").response()
        client.sock.recv(1)


def test_too_many_requests_ahead_of_their_answers_are_refused(fast: Edge) -> None:
    with fast.connect() as client:
        client.send(NEXT * 300)
        statuses = [client.response().status for _ in range(66)]
        assert statuses == [200] * 65 + [503]
        assert client.closed()


def test_many_upgrades_in_one_packet_do_no_harm(fast: Edge) -> None:
    with fast.connect() as client:
        client.send((b"GET /ws HTTP/1.1\r\n" + HOST + UPGRADE + b"\r\n") * 50)
        assert [client.response().status for _ in range(50)] == [200] * 50
        assert client.alive()


# -- HTTP/2 ------------------------------------------------------------------------------------------------------------


def test_http_2_with_prior_knowledge_is_served(edge: Edge) -> None:
    url = "http://{}:{}".format(*edge.address)
    with httpx.Client(http1=False, http2=True) as client:
        answer = client.post(url + "/two", content=b"abc")
        assert (answer.http_version, answer.text) == ("HTTP/2", "POST /two 3 abc")
        assert client.get(url + "/three").text == "GET /three 0 "


def test_an_http_2_preface_in_pieces_is_recognised(edge: Edge) -> None:
    with edge.connect() as client:
        client.send(b"P", b"RI * HT", b"TP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        assert client._exactly(9)[3] == 4  # a SETTINGS frame


def test_a_request_that_begins_like_the_preface_is_none(fast: Edge) -> None:
    with fast.connect() as client:
        client.send(b"P", b"R", b"OPFIND /x HTTP/1.1\r\n" + HOST + b"\r\n")
        assert client.response().body == b"PROPFIND /x 0 "


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
    with impatient.connect() as client:
        if first:
            assert client.send(first).response().status == 200
        began = time.monotonic()
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
        sent = 0
        try:
            while True:
                fast.app.events.get(timeout=0.5)
                sent += 1
        except Empty:
            assert 0 < sent < 32  # of 64 KiB each; the kernel alone would take megabytes
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

    async def app(scope: dict, receive: object, send: object) -> None:
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
