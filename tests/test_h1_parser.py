"""The request parser: how bytes are cut does not matter, and what it says about a head."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve.rest.h1_parser import RequestParser


class Sink:
    """Writes down what a parser tells."""

    def __init__(self, max_head_bytes: int = 16384) -> None:
        self.parser = RequestParser(self, max_head_bytes)
        self.told: list[object] = []

    def on_head(self) -> None:
        parser = self.parser
        self.told.append((parser.method, parser.path, parser.query, parser.content_length, list(parser.headers)))

    def on_body(self, piece: bytes) -> None:
        if isinstance(self.told[-1], bytes):
            self.told[-1] += piece
        else:
            self.told.append(piece)

    def on_end(self) -> None:
        self.told.append("end")


def told(*pieces: bytes) -> tuple[list[object], int | None]:
    sink = Sink()
    for piece in pieces:
        sink.parser.feed(memoryview(piece))
    return sink.told, sink.parser.refusal and sink.parser.refusal.status


STREAMS = [
    b"GET /a%20b?c=d HTTP/1.1\r\nHost: a\r\nX-Y:  z \r\n\r\nPOST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTr: x\r\n\r\n"
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /u HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\nGET "
    b"POST /u HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"4\r\nGET \r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /one HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\nGET /three HTTP/1.1\r\n",
]


@pytest.mark.parametrize("stream", STREAMS)
@given(data=st.data())
def test_where_the_bytes_are_cut_changes_nothing(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    pieces = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert told(*pieces) == told(stream)


def test_a_head_is_told_with_lower_case_names_and_trimmed_values() -> None:
    events, refusal = told(STREAMS[0])
    assert events[0] == ("GET", "/a b", b"c=d", 0, [(b"host", b"a"), (b"x-y", b"z")])
    assert events[1:4] == ["end", ("POST", "/p", b"", 5, [(b"host", b"a"), (b"content-length", b"5")]), b"hello"]
    assert refusal is None


def test_an_upgrade_keeps_its_body() -> None:
    events, refusal = told(STREAMS[2])
    assert [event for event in events if isinstance(event, bytes)] == [b"GET ", b"GET "]
    assert events.count("end") == 4
    assert refusal is None


def test_requests_before_a_refusal_are_told_and_none_after_it() -> None:
    events, refusal = told(STREAMS[3], b"Host: a\r\n\r\n")
    assert [event[1] for event in events if isinstance(event, tuple)] == ["/one"]
    assert refusal == 400


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", b""),
        (b"/a/%F0%9F%8D%80?x=%20&y", "/a/🍀", b"x=%20&y"),
        (b"http://host:80/v2/a?b", "/v2/a", b"b"),
        (b"http://host", "/", b""),
        (b"/http://host/x", "/http://host/x", b""),
        (b"*", "*", b""),
        (b"/a%00b", "/a\0b", b""),
    ],
)
def test_path_and_query_come_from_every_form_of_target(target: bytes, path: str, query: bytes) -> None:
    events, _ = told(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert events[0][1:3] == (path, query)  # type: ignore[index]


def test_the_limit_of_a_head_is_exact_when_it_comes_in_one_piece() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n"
    room = 100 - len(b"/" + b"hosta" + b"x") - 8
    for filler, refusal in ((room, None), (room + 1, 431)):
        sink = Sink(max_head_bytes=100)
        sink.parser.feed(head % (b"a" * filler))
        assert (sink.parser.refusal and sink.parser.refusal.status) == refusal


def test_what_a_slow_client_sends_of_a_head_is_bounded() -> None:
    sink = Sink(max_head_bytes=100)
    sink.parser.feed(b"GET / HTTP/1.1\r\nX: ")
    fed = 0
    while sink.parser.refusal is None:
        sink.parser.feed(b"a" * 10)
        fed += 10
    assert fed <= 100
