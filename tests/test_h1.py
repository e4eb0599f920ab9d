"""HTTP/1.1 over real sockets: which answers bytes have, what is refused, and that HTTP/2 gets through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.http_edge import FAST, HOST, KINDS, NEXT, Edge, post, running


@pytest.fixture(scope="module", params=KINDS)
def edge(request: pytest.FixtureRequest) -> Iterator[Edge]:
    with running(request.param) as edge:
        yield edge


@pytest.fixture(scope="module", params=FAST)
def fast(request: pytest.FixtureRequest) -> Iterator[Edge]:
    with running(request.param) as edge:
        yield edge


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
