"""HTTP/2 over real sockets: streams that are given up, clients that leave, windows, and the end of the server."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import anyio
import pytest
from h2.errors import ErrorCodes

from mlserve.rest.h1_exchange import LAST_WORDS
from mlserve.rest.h1_server import Limits
from tests.grpc_edge import ACK, DATA, END_STREAM, GOAWAY, PADDED, PING, PRIORITY, SETTINGS, WINDOW, frame
from tests.h2_client import PATIENCE, H2Client, statuses
from tests.http_edge import FAST, Application, Edge, answer, read_all, running

AMPLE = 1 << 30  # windows that are never full


FLOODS = {
    "pings": frame(PING, 0, 0, bytes(8)),
    "settings": frame(SETTINGS, 0, 0),
    "empty data": frame(DATA, 0, 1),
    "padding": frame(DATA, PADDED, 1, b"\0"),
    "data after its end": frame(DATA, 0, 1, b"x"),
    "windows": frame(WINDOW, 0, 1, b"\0\0\0\1"),
    "priorities": frame(PRIORITY, 0, 1, bytes(5)),
    "answers to pings": frame(PING, ACK, 0, bytes(8)),
    "answers to settings": frame(SETTINGS, ACK, 0),
    "goodbyes": frame(GOAWAY, 0, 0, bytes(8)),
    "what nobody knows": frame(0x40, 0, 0),
}


class Place(Application):
    """More that misbehaves on request."""

    async def at_endless(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Says something again and again, until its client has left."""
        self.events.put("began")
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._talk, send, [(b"x-name", scope["query_string"])])
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()
        finally:
            self.events.put("ended")

    async def _talk(self, send: Any, headers: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"more", "more_body": True})
                await anyio.sleep(0.001)
        except ConnectionError:
            pass

    async def at_named(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, b"", 200, (b"x-name", scope["query_string"]))

    async def at_early(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answers without looking at the body."""
        await answer(send, b"enough", 413)

    async def at_last_words(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], LAST_WORDS: b"farewell"})
        await send({"type": "http.response.body", "body": b"hello ", "more_body": True})
        self.events.put("said")
        await anyio.sleep_forever()

    async def at_large(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await read_all(receive)
        await answer(send, bytes(int(scope["query_string"])))

    async def at_pieces(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """How much has come, in how many pieces."""
        self.events.put("began")
        total, pieces, more = 0, 0, True
        while more:
            message = await receive()
            total, pieces, more = total + len(message["body"]), pieces + 1, message["more_body"]
        await answer(send, b"%d %d" % (total, pieces))

    async def at_odd_headers(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        odd = [(b"Connection", b"close"), (b"Transfer-Encoding", b"chunked"), (b"Keep-Alive", b"5"), (b"X-A", b"b")]
        await answer(send, b"x", 200, *odd)

    async def at_seen(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.events.put({key: scope[key] for key in ("method", "path", "raw_path", "query_string", "headers")})
        await answer(send, b"")


@pytest.fixture(params=FAST)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def edge(kind: str) -> Iterator[Edge]:
    with running(kind, Place()) as edge:
        yield edge


def until_quiet(events: queue.Queue[Any]) -> None:
    """Until nothing happens: a flood has filled what there is on its way. Too early is no error, and shows less."""
    try:
        while True:
            events.get(timeout=0.5)
    except queue.Empty:
        pass


def count(events: queue.Queue[Any], what: str, times: int) -> None:
    """Waits until something has happened so often."""
    end = time.monotonic() + PATIENCE
    while times:
        if events.get(timeout=max(0.0, end - time.monotonic())) == what:
            times -= 1


# -- who gives up -----------------------------------------------------------------------------------------------------


def test_streams_that_are_given_up_leave_their_connection_readable(edge: Edge) -> None:
    """Also those whose head was being written while the socket was full: each head means what it says on its own."""
    with H2Client(edge.address, windows=AMPLE, receive_buffer=65536) as client:
        flood = client.ask("/flood")
        until_quiet(edge.app.events)
        given_up = [client.ask(f"/endless?name-{place}") for place in range(3)]
        count(edge.app.events, "began", 3)
        client.give_up(*given_up)
        count(edge.app.events, "ended", 3)
        later = [client.ask(f"/named?name-{place}") for place in range(3)]
        client.until_ended(*later)
        assert [client.heads[stream]["x-name"] for stream in later] == [f"name-{place}" for place in range(3)]
        assert flood not in client.ends


@pytest.mark.parametrize("how", ["close", "reset"])
def test_every_stream_of_a_client_that_leaves_is_told(edge: Edge, how: str) -> None:
    for _ in range(10):
        with H2Client(edge.address, windows=AMPLE) as client:
            for _ in range(20):
                client.ask("/endless")
            count(edge.app.events, "began", 20)
            if how == "reset":
                client.break_off()
        count(edge.app.events, "ended", 20)


def test_who_does_not_wait_for_its_client_is_told_at_once(edge: Edge) -> None:
    """By our extension, while it waits for something else."""
    with H2Client(edge.address) as client:
        for leave in (client.give_up, lambda _: client.sock.close()):
            stream = client.ask("/callback")
            assert edge.app.next_event() == "waiting"
            leave(stream)
            assert edge.app.next_event() == "cancelled by callback"


# -- answers ----------------------------------------------------------------------------------------------------------


def test_an_application_sees_a_request_as_over_http1(edge: Edge) -> None:
    with H2Client(edge.address) as client:
        assert (
            client.get("/seen%20it?a=%20b", extra=[("cookie", "a=1"), ("cookie", "b=2"), ("x-a", "b")])
            == b"GET /seen it 0 "
        )
        client.get("/seen?a=%20b", extra=[("cookie", "a=1"), ("cookie", "b=2"), ("x-a", "b")])
    seen = edge.app.next_event()
    assert (seen["method"], seen["path"], seen["raw_path"], seen["query_string"]) == (
        "GET",
        "/seen",
        b"/seen",
        b"a=%20b",
    )
    assert sorted(seen["headers"]) == [(b"cookie", b"a=1; b=2"), (b"host", b"a"), (b"x-a", b"b")]


def test_answers_have_what_http2_wants_and_nothing_else(edge: Edge) -> None:
    with H2Client(edge.address) as client:
        stream = client.ask("/odd-headers")
        client.until_ended(stream)
        head = client.heads[stream]
        assert head.pop("date")
        assert head == {":status": "200", "x-a": "b", "content-length": "1"}
        assert client.get("/large?3", method="HEAD") == b""
        assert client.get("/chunked") == b"abcd"


def test_what_an_application_does_wrong_is_seen(edge: Edge) -> None:
    with H2Client(edge.address) as client:
        wrong = [client.ask(path) for path in ("/boom", "/silent", "/inject", "/long")]
        client.until_ended(*wrong)
        assert statuses(client, wrong) == ["500"] * 4
        broken = [client.ask("/half"), client.ask("/short")]
        client.until_ended(*broken)
        assert [client.ends[stream] for stream in broken] == [ErrorCodes.INTERNAL_ERROR] * 2
        assert client.get("/alive") == b"GET /alive 0 "


@pytest.mark.parametrize("path", ["relative", "/p\u00e4th", ""])
def test_a_path_that_is_none_is_refused(edge: Edge, path: str) -> None:
    with H2Client(edge.address) as client:
        try:
            client.ask(path)
            client.until(lambda: client.heads)
        except (EOFError, ConnectionError):
            assert path == ""  # an error of the protocol, as h2 sees it
        else:
            assert statuses(client, [1]) == ["400"]
            assert client.get("/alive") == b"GET /alive 0 "
    with H2Client(edge.address) as client:
        assert client.get("/alive") == b"GET /alive 0 "


# -- bodies -----------------------------------------------------------------------------------------------------------


def test_an_answer_before_the_end_of_the_request_leaves_the_connection_alive(edge: Edge) -> None:
    """What the client still sends is read, and dropped."""
    with H2Client(edge.address) as client:
        stream = client.ask("/early", b"some", method="POST", end=False)
        client.until_ended(stream)
        assert (client.ends[stream], client.bodies[stream]) == ("whole", b"enough")
        for _ in range(64):
            client.until(lambda: client.h2.local_flow_control_window(stream) >= 1 << 16)
            for _ in range(4):
                client.h2.send_data(stream, bytes(1 << 14))
            client.send()
        client.h2.end_stream(stream)
        client.send()
        assert client.get("/alive") == b"GET /alive 0 "


def test_a_body_that_nobody_reads_holds_its_client_up_and_no_other_stream(edge: Edge) -> None:
    with H2Client(edge.address) as client:
        stream = client.ask("/trickle", b"x", method="POST", end=False)
        client.until(lambda: client.h2.local_flow_control_window(stream) > 65535)  # the server's settings have come
        sent = 1
        while room := min(1 << 14, client.h2.local_flow_control_window(stream)):
            client.h2.send_data(stream, bytes(room))
            client.send()
            sent += room
        assert client.get("/alive") == b"GET /alive 0 "  # so all that came before is read
        edge.app.permits.put(1)
        assert edge.app.next_event() == sent
        client.until(lambda: client.h2.local_flow_control_window(stream))
        client.h2.end_stream(stream)
        client.send()
        edge.app.permits.put(1)
        client.until_ended(stream)
        assert client.bodies[stream] == b"%d" % sent


@pytest.mark.parametrize("path", ["/echo", "/read-body"])
def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(edge: Edge, path: str) -> None:
    """When the application wants it: who refuses the request without it saves the client the way."""
    expects = [("expect", "100-Continue"), ("content-length", "3")]
    with H2Client(edge.address) as client:
        refused = client.ask("/refuse", method="POST", end=False, extra=expects)
        stream = client.ask(path, method="POST", end=False, extra=expects)
        client.until(lambda: stream in client.continued)
        client.h2.send_data(stream, b"abc", end_stream=True)
        client.send()
        client.until_ended(stream, refused)
        assert statuses(client, [stream, refused]) == ["200", "413"]
        assert b"3 " in client.bodies[stream]
        assert client.continued == {stream}


def test_a_body_over_the_limit_is_refused_as_it_comes(edge: Edge) -> None:
    with H2Client(edge.address) as client:
        announced = client.ask("/read-body?10", b"x", method="POST", end=False, extra=[("content-length", "11")])
        longer = client.ask("/read-body?10", bytes(20), method="POST", end=False)
        client.until_ended(announced, longer)
        assert statuses(client, [announced, longer]) == ["413", "413"]
        assert client.get("/read-body?10", body=bytes(10), method="POST") == b"10 0"


def test_large_answers_go_out_side_by_side_as_far_as_the_windows_let_them(edge: Edge) -> None:
    with H2Client(edge.address) as client:
        client.gives_windows_back = False
        first = client.ask("/large?1000000")
        client.until(lambda: len(client.bodies.get(first, b"")) == 65535)
        client.h2.increment_flow_control_window(1 << 20)  # of the connection
        client.h2.increment_flow_control_window(20_000, first)
        second = client.ask("/large?50000")
        client.until_ended(second)
        client.until(lambda: len(client.bodies[first]) == 85535)
        client.h2.increment_flow_control_window(1 << 20, first)
        client.send()
        client.until_ended(first)
        assert len(client.bodies[first]) == 1_000_000
        assert len(client.bodies[second]) == 50_000


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_a_body_that_stops_coming_is_refused(kind: str) -> None:
    with running(kind, Place(), limits=Limits(body_pause_seconds=0.2)) as edge, H2Client(edge.address) as client:
        stream = client.ask("/read-body", b"x", method="POST", end=False)
        client.until_ended(stream)
        assert statuses(client, [stream]) == ["408"]
        assert client.get("/alive") == b"GET /alive 0 "


def test_a_stream_whose_client_opens_no_window_ends_and_the_others_go_on(kind: str) -> None:
    with running(kind, Place(), limits=Limits(send_seconds=0.2)) as edge, H2Client(edge.address) as client:
        client.h2.increment_flow_control_window(AMPLE)
        client.gives_windows_back = False
        stream = client.ask("/flood")
        client.until_ended(stream)
        assert client.ends[stream] == ErrorCodes.CANCEL
        assert client.get("/alive") == b"GET /alive 0 "
        while edge.app.next_event() != "ClientGone":
            pass


def test_a_connection_without_streams_is_closed_after_a_while(kind: str) -> None:
    with running(kind, Place(), limits=Limits(keep_alive_seconds=0.2)) as edge, H2Client(edge.address) as client:
        client.read_to_the_end()


@pytest.mark.parametrize("flood", FLOODS)
def test_a_client_that_sends_much_that_carries_nothing_is_sent_away(
    edge: Edge, flood: str, caplog: pytest.LogCaptureFixture
) -> None:
    with H2Client(edge.address) as client, H2Client(edge.address) as other:
        stream = client.ask("/callback", b"x", method="POST", end=False)
        assert edge.app.next_event() == "waiting"
        if flood == "data after its end":
            client.give_up(stream)
        with suppress(ConnectionError):  # what was not read resets the connection
            client.sock.sendall(FLOODS[flood] * 5000)
            client.read_to_the_end()
        assert client.goodbye is None or client.goodbye.error_code == ErrorCodes.ENHANCE_YOUR_CALM
        assert "in a row" in caplog.text
        assert other.get("/alive") == b"GET /alive 0 "


def test_a_frame_that_is_none_ends_its_connection_only(edge: Edge) -> None:
    with H2Client(edge.address) as broken, H2Client(edge.address) as other:
        held = broken.ask("/callback")
        assert edge.app.next_event() == "waiting"
        broken.sock.sendall(b"\xff" * 1000)
        assert edge.app.next_event() == "cancelled by callback"
        broken.until(lambda: broken.goodbye)
        assert held not in broken.ends
        assert other.get("/alive") == b"GET /alive 0 "


def test_a_flood_of_small_frames_takes_many_turns_of_the_loop(edge: Edge) -> None:
    """In which others are served, here the one who reads the body: it comes in many pieces, and whole."""
    with H2Client(edge.address) as client:
        stream = client.ask("/pieces", method="POST", end=False)
        assert edge.app.next_event() == "began"
        client.sock.sendall(frame(DATA, 0, stream, b"x") * 30_000 + frame(DATA, END_STREAM, stream))
        client.until_ended(stream)
        total, pieces = map(int, client.bodies[stream].split())
        assert total == 30_000
        assert pieces > 30


# -- the end ----------------------------------------------------------------------------------------------------------


def test_the_end_lets_streams_finish_and_refuses_new_ones(kind: str) -> None:
    """Refused streams may be tried elsewhere. The goodbye comes last: httpx reads nothing behind it."""
    with running(kind, Place(), graceful_timeout=PATIENCE) as edge, H2Client(edge.address) as client:
        held = client.ask("/hold")
        assert edge.app.next_event() == "held"
        edge.shut_down()
        late = held
        while client.ends.get(late, "whole") == "whole":
            late = client.ask("/late")
            client.until_ended(late)
        assert client.ends[late] == ErrorCodes.REFUSED_STREAM
        assert client.goodbye is None
        edge.app.permits.put(1)
        client.read_to_the_end()
        assert (client.ends[held], client.bodies[held]) == ("whole", b"released")
        assert client.goodbye is not None
        assert client.goodbye.error_code == ErrorCodes.NO_ERROR
        edge.ended.result(PATIENCE)


def test_streams_that_are_not_done_in_time_say_their_last_words(kind: str) -> None:
    with running(kind, Place(), graceful_timeout=0.2) as edge, H2Client(edge.address) as client:
        talking = client.ask("/last-words")
        assert edge.app.next_event() == "said"
        held = client.ask("/hold")
        assert edge.app.next_event() == "held"
        mute = client.ask("/endless")
        client.until(lambda: client.bodies.get(mute))
        edge.shut_down()
        client.read_to_the_end()
        assert (client.ends[talking], client.bodies[talking]) == ("whole", b"hello farewell")
        assert statuses(client, [held]) == ["503"]
        assert client.ends[mute] == ErrorCodes.INTERNAL_ERROR
