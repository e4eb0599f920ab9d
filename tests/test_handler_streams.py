"""What custom handlers stream travels piece by piece: at once, as fast as its client reads, and no longer than that."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded, StreamReset

from tests.serving import Running, serving, write_model

PATIENCE_SECONDS = 60.0
SOON_SECONDS = 0.1
ENOUGH = (0.5, 5.0, 50.0)  # deadlines, tried until something happens before them: the machine may be slow
TRIES = 30  # the machine may have other things to do
WAYS = ["async", "plain", "fastapi"]


class Place:
    """A server with the model, and the notes that it leaves."""

    def __init__(self, server: Running, folder: Path) -> None:
        self.rest = server.rest
        self.metrics = f"http://{server.addresses['metrics']}"
        self.folder = folder / "streaming"

    def notes(self) -> list[str]:
        path = self.folder / "notes.txt"
        return path.read_text().splitlines() if path.exists() else []

    def noted(self, text: str) -> float:
        """Waits for a note that begins so; when it was made."""
        return waited(lambda: next((float(one.split()[0]) for one in self.notes() if f" {text}" in one), None))

    def address(self) -> tuple[str, int]:
        host, port = self.rest.removeprefix("http://").split(":")
        return host, int(port)


def waited(look: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if (found := look()) not in (None, False):
            return found
        time.sleep(0.005)
    raise AssertionError("it did not happen")


def write(folder: Path, **settings: Any) -> Path:
    place = write_model(folder, "streaming", "streaming_handlers.Streaming", **settings)
    shutil.copy(Path(__file__).with_name("streaming_handlers.py"), place)
    return folder


@pytest.fixture(scope="module", params=["0 asyncio", "1 asyncio", "2 trio"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    workers, backend = request.param.split()
    folder = write(tmp_path_factory.mktemp("models"))
    with serving(folder, "--parallel-workers", workers, "--backend", backend) as server:
        yield Place(server, folder)


def told(text: str) -> list[int]:
    return [int(one.split()[1]) for one in text.split("\n\n")[:-1]]


# -- how it travels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_body_is_there_piece_by_piece(place: Place, way: str) -> None:
    with httpx.stream("GET", f"{place.rest}/{way}?count=1000000&pause=0.001&name=pieces-{way}") as answer:
        assert (answer.status_code, answer.headers["transfer-encoding"]) == (200, "chunked")
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert "content-encoding" not in answer.headers  # although the client takes gzip
        pieces = answer.iter_text()
        first = next(pieces)
        assert first.startswith("data: 0 ")
        assert told(first + next(pieces)) == list(range(len(told(first)) + 1)) or told(first)
    place.noted(f"pieces-{way} closed")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [0, 300_000])
def test_a_body_is_whole(place: Place, way: str, size: int) -> None:
    answer = httpx.get(f"{place.rest}/{way}?count=40&size={size}&name=whole", timeout=60)
    assert told(answer.text) == list(range(40))
    assert len(answer.text) == sum(len(f"data: {at} \n\n") + size for at in range(40))


def test_status_and_headers_are_the_responses_and_the_request_can_be_read(place: Place) -> None:
    with httpx.stream("POST", f"{place.rest}/lines", content="a b c") as answer:
        assert (answer.status_code, answer.headers["x-kind"]) == (207, "words")
        assert [json.loads(line)["word"] for line in answer.iter_lines()] == ["a", "b", "c"]


def test_the_head_does_not_wait_for_the_first_piece(place: Place) -> None:
    with httpx.stream("GET", f"{place.rest}/silent?name=head") as answer:
        assert answer.status_code == 200
    place.noted("head closed")


def test_files_and_large_answers_have_their_length(place: Place) -> None:
    answer = httpx.get(f"{place.rest}/file", headers={"accept-encoding": "identity"})
    assert answer.content == bytes(range(256)) * 4096
    assert answer.headers["content-length"] == str(1 << 20)
    assert "transfer-encoding" not in answer.headers
    place.noted("file sent")
    part = httpx.get(f"{place.rest}/file", headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    answer = httpx.get(f"{place.rest}/large")
    assert len(answer.json()["text"]) == 3 << 20
    assert answer.headers["content-length"] == str(len(answer.content))


# -- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_leaves_ends_the_generator(place: Place, way: str) -> None:
    def leave(attempt: int) -> float:
        name = f"left-{way}-{attempt}."
        with httpx.stream("GET", f"{place.rest}/{way}?count=1000000&pause=0.01&name={name}") as answer:
            next(answer.iter_bytes())
            left_at = time.time()
        return place.noted(f"{name} closed") - left_at

    assert any(leave(attempt) < SOON_SECONDS for attempt in range(TRIES))


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_does_not_read_holds_the_generator_up(place: Place, way: str) -> None:
    name = f"unread-{way}."
    with socket.create_connection(place.address()) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.sendall(f"GET /{way}?count=1000&size=200000&name={name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        assert httpx.get(f"{place.rest}/async?count=3").text  # others are served
    place.noted(f"{name} closed at")
    (line,) = (one for one in place.notes() if name in one)
    assert int(line.split()[-1]) < 200, "a few pieces in the sockets, a few that wait, and no more"


@pytest.mark.parametrize("way", ["async", "plain"])
def test_a_deadline_holds_for_a_client_that_does_not_read(place: Place, way: str) -> None:
    for seconds in ENOUGH:
        name = f"unread-late-{way}-{seconds}."
        with socket.create_connection(place.address()) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            path = f"/{way}?count=1000000&size=200000&name={name}"
            asked_at = time.time()
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Request-Timeout: {seconds}\r\n\r\n".encode())
            if sock.recv(100).startswith(b"HTTP/1.1 200"):
                assert place.noted(f"{name} closed at") - asked_at < seconds + 40, "not only after a minute unread"
                break
    else:
        raise AssertionError("it never began")


def test_a_background_task_runs_also_when_the_client_leaves(place: Place) -> None:
    with httpx.stream("GET", f"{place.rest}/async/then?name=then") as answer:
        next(answer.iter_bytes())
    place.noted("then closed")
    place.noted("then cleaned up")


def test_a_generator_that_swallows_its_end_comes_to_one(place: Place) -> None:
    with httpx.stream("GET", f"{place.rest}/deaf?name=deaf") as answer:
        next(answer.iter_bytes())
    place.noted("deaf closed")


@pytest.mark.parametrize("way", WAYS)
def test_an_error_in_mid_body_is_a_breach_and_one_before_it_an_answer(place: Place, way: str) -> None:
    with (
        pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"),
        httpx.stream("GET", f"{place.rest}/{way}?boom=3&name=boom") as answer,
    ):
        came = []
        for text in answer.iter_text():
            came.append(text)
    assert told("".join(came)) == [0, 1, 2]
    with httpx.Client() as client:
        assert client.get(f"{place.rest}/async?boom=0&name=boom").status_code == 500


def test_a_deadline_holds_for_the_whole_body(place: Place) -> None:
    url = f"{place.rest}/async?count=1000000&pause=0.01&name=late"
    for seconds in ENOUGH:
        with httpx.stream("GET", url, headers={"X-Request-Timeout": f"{seconds}"}) as answer:
            if answer.status_code == 200:
                with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
                    for _ in answer.iter_bytes():
                        pass
                break
    assert answer.status_code == 200
    place.noted("late closed")


# -- over HTTP/2 ------------------------------------------------------------------------------------------------------


class Http2:
    """One request of a client that reads when it is told to."""

    def __init__(self, place: Place, path: str) -> None:
        self.sock = socket.create_connection(place.address(), timeout=PATIENCE_SECONDS)
        self.connection = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.connection.initiate_connection()
        host = place.rest.removeprefix("http://")
        head = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", host)]
        self.connection.send_headers(1, head, end_stream=True)
        self.sock.sendall(self.connection.data_to_send())

    def events(self) -> Iterator[Any]:
        """What comes, acknowledged, until the connection closes."""
        while data := self.sock.recv(65536):
            for event in self.connection.receive_data(data):
                size = getattr(event, "flow_controlled_length", 0)
                if size:
                    self.connection.acknowledge_received_data(size, 1)
                yield event
            self.sock.sendall(self.connection.data_to_send())


def test_over_http2_a_body_comes_in_pieces_and_ends_with_its_client(place: Place) -> None:
    asked = Http2(place, "/async?count=1000000&pause=0.001&name=h2-left")
    came = b""
    for event in asked.events():
        came += getattr(event, "data", b"")
        if came.count(b"data: ") > 3:
            break
    asked.connection.reset_stream(1)
    asked.sock.sendall(asked.connection.data_to_send())
    place.noted("h2-left closed")
    asked.sock.close()


def test_over_http2_a_body_is_whole_or_seen_to_be_broken_off(place: Place) -> None:
    whole = Http2(place, "/async?count=40&size=30000&name=h2")
    came = b""
    for event in whole.events():
        came += getattr(event, "data", b"")
        if isinstance(event, StreamEnded):
            break
    assert told(came.decode()) == list(range(40))
    whole.sock.close()
    broken = Http2(place, "/async?boom=3&name=h2")
    assert isinstance(next(one for one in broken.events() if isinstance(one, (StreamEnded, StreamReset))), StreamReset)
    broken.sock.close()


# -- what is around it ------------------------------------------------------------------------------------------------


def test_background_tasks_run_after_their_answer(place: Place) -> None:
    gate = place.folder / "later.gate"
    gate.touch()
    with httpx.Client() as client:
        assert client.get(f"{place.rest}/later?name=later").json() == {"name": "later"}
        place.noted("later began")
        assert client.get(f"{place.rest}/async?count=1").status_code == 200  # the same connection goes on
    assert not any("later ended" in one for one in place.notes())
    gate.unlink()
    place.noted("later ended")
    assert httpx.get(f"{place.rest}/later/fastapi?name=fast").json() == {"name": "fast"}
    place.noted("fast ended")


@pytest.mark.parametrize("size", [10, 3 << 20])
@pytest.mark.parametrize("way", ["", "/fastapi", "/streaming"])
def test_an_answer_does_not_wait_for_what_follows_it_and_blocks(place: Place, way: str, size: int) -> None:
    """Nor its last bytes, where the worker's socket does not take all of it at once."""
    name = f"blocks{way.replace('/', '-')}-{size}"
    gate = place.folder / f"{name}.gate"
    gate.touch()
    try:
        answer = httpx.get(f"{place.rest}/blocks{way}?name={name}&size={size}", timeout=40)
        assert answer.json() == "x" * size
        place.noted(f"{name} began")
        assert not any(f"{name} ended" in one for one in place.notes())
    finally:
        gate.unlink()
    place.noted(f"{name} ended")


def test_handlers_of_one_model_share_an_applications_state(place: Place) -> None:
    def seen(path: str) -> Any:
        answer = httpx.request("GET", f"{place.rest}{path}", content=b"the body")
        assert answer.status_code == 200, answer.text
        return answer.json()

    first, disconnected, body = seen("/state")
    assert (first, disconnected, body) == (1, False, "the body")
    assert seen("/state/fastapi") in (1, 2)  # each worker has its own


def test_streams_are_counted(place: Place) -> None:
    httpx.get(f"{place.rest}/async?count=7&pause=0.001")

    def settled() -> bool:
        text = httpx.get(f"{place.metrics}/metrics").text
        lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("model_stream"))
        labels = 'model="streaming",version="None"'
        chunks = float(lines.get(f"model_stream_chunks_total{{{labels}}}", 0))
        return chunks >= 7 and float(lines[f"model_stream_open{{{labels}}}"]) == 0

    assert waited(settled)
