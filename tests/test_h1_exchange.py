"""One exchange without a socket: the scope's extensions, and what an application may and may not do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from mlserve.errors import BodyTooLarge
from mlserve.rest.h1_body import IN_PLACE_BYTES, RESERVE_BYTES, Body
from mlserve.rest.h1_exchange import LAST_WORDS, ClientGone, Exchange

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class RecordingLink:
    """A connection that takes everything at once and writes down what happens."""

    def __init__(self) -> None:
        self.written = b""
        self.happened: list[str] = []
        self.is_stopping = False
        self.on_wanted: Callable[[], None] = lambda: None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    async def drain(self) -> None:
        pass

    def body_wanted(self, exchange: Exchange, whole: bool) -> None:
        self.on_wanted()

    def answered(self, exchange: Exchange) -> None:
        self.happened.append("answered")

    def cut_off(self, exchange: Exchange) -> None:
        self.happened.append("cut off")

    def date_line(self) -> bytes:
        return b""

    def stopping(self) -> bool:
        return self.is_stopping


def make(app: Any = None, length: int | None = 0, *pieces: bytes) -> tuple[Exchange, RecordingLink]:
    link = RecordingLink()
    body = Body(length)
    for piece in pieces:
        body.add(piece)
    body.complete = length is not None and sum(map(len, pieces)) == length
    scope = {"type": "http", "method": "POST", "path": "/", "http_version": "1.1"}
    return Exchange(app, link, scope, body, True, False), link


async def test_a_callback_is_called_once_when_the_client_leaves() -> None:
    exchange, _ = make()
    called: list[int] = []
    exchange.scope["extensions"]["mlserve.disconnect"](lambda: called.append(1))
    assert called == []
    exchange.leave(lost=False)
    exchange.leave(lost=True)
    assert called == [1]


async def test_a_callback_that_comes_too_late_is_called_at_once() -> None:
    exchange, _ = make()
    exchange.leave(lost=False)
    called: list[int] = []
    exchange.on_disconnect(lambda: called.append(1))
    assert called == [1]


async def test_a_callback_that_was_taken_back_is_not_called() -> None:
    exchange, _ = make()
    called: list[int] = []
    exchange.on_disconnect(lambda: called.append(1))
    exchange.on_disconnect(None)
    exchange.leave(lost=True)
    assert called == []


async def test_a_callback_is_not_called_after_the_answer() -> None:
    called: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x"})

    exchange, link = make(app)
    exchange.on_disconnect(lambda: called.append(1))
    await exchange.run()
    exchange.leave(lost=True)
    exchange.on_disconnect(lambda: called.append(2))
    assert called == []
    assert link.happened == ["answered"]


async def test_a_callback_that_fails_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    exchange, _ = make()
    exchange.on_disconnect(lambda: 1 / 0)  # type: ignore[arg-type]
    exchange.leave(lost=True)
    assert exchange.lost
    assert "ZeroDivisionError" in caplog.text


async def test_read_body_gives_a_small_body_without_a_copy() -> None:
    piece = b"x" * 100
    exchange, _ = make(None, 100, piece)
    assert await exchange.read_body(100) is piece


async def test_read_body_refuses_by_the_announced_length_before_anything_is_asked_for() -> None:
    exchange, link = make(None, 101)
    with pytest.raises(BodyTooLarge, match="101 bytes are over the limit of 100"):
        await exchange.read_body(100)
    assert link.written == b""


async def test_read_body_refuses_chunks_as_soon_as_they_are_too_many() -> None:
    exchange, link = make(None, None, b"x" * 60)
    link.on_wanted = lambda: exchange.body.add(b"x" * 60)
    with pytest.raises(BodyTooLarge, match="more than the limit of 100 bytes"):
        await exchange.read_body(100)
    exchange.body.add(b"x" * 1000)
    assert exchange.body.buffered == 0  # dropped from now on


async def test_read_body_then_receive_waits_for_the_client_to_leave() -> None:
    exchange, _ = make(None, 3, b"abc")
    assert await exchange.read_body(10) == b"abc"
    async with anyio.create_task_group() as tasks:
        messages: list[Any] = []

        async def watch() -> None:
            messages.append(await exchange.receive())

        tasks.start_soon(watch)
        await anyio.wait_all_tasks_blocked()
        assert messages == []
        exchange.leave(lost=False)
    assert messages == [{"type": "http.disconnect"}]


async def test_two_tasks_may_wait_in_receive() -> None:
    exchange, _ = make(None, 3)
    async with anyio.create_task_group() as tasks:
        messages: list[Any] = []

        async def watch() -> None:
            messages.append((await exchange.receive())["type"])

        tasks.start_soon(watch)
        tasks.start_soon(watch)
        await anyio.wait_all_tasks_blocked()
        exchange.leave(lost=True)
    assert messages == ["http.disconnect"] * 2


async def test_a_request_that_was_complete_when_its_client_left_is_given_out_before_the_disconnect() -> None:
    exchange, _ = make(None, 3, b"abc")
    exchange.leave(lost=False)
    assert (await exchange.receive())["body"] == b"abc"
    assert (await exchange.receive())["type"] == "http.disconnect"


async def test_sending_to_a_lost_client_raises_and_is_no_error_of_the_application(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        exchange.leave(lost=True)
        with pytest.raises(OSError):
            await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.start", "status": 200})

    exchange, link = make(app)
    await exchange.run()
    assert link.happened == ["cut off"]
    assert caplog.text == ""


@pytest.mark.parametrize(
    "messages",
    [
        [{"type": "http.response.body", "body": b"x"}],
        [{"type": "http.response.start", "status": 200}, {"type": "http.response.start", "status": 200}],
        [{"type": "websocket.accept"}],
    ],
)
async def test_messages_out_of_order_are_errors_of_the_application(messages: list[dict[str, Any]]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    exchange, link = make(app)
    await exchange.run()
    assert link.written.startswith(b"HTTP/1.1 500 ")
    assert link.happened == ["answered"]


async def test_a_message_after_the_end_raises_and_the_answer_stands() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x"})
        with pytest.raises(RuntimeError, match="after the end"):
            await send({"type": "http.response.body", "body": b"y"})

    exchange, link = make(app)
    await exchange.run()
    assert link.written.endswith(b"\r\n\r\nx")


@pytest.mark.parametrize("http_version", ["1.1", "1.0"])
async def test_a_stream_that_is_broken_off_ends_with_its_last_words(http_version: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], LAST_WORDS: b"farewell"})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        link.is_stopping = True
        raise RuntimeError("broken off")

    exchange, link = make(app)
    exchange.scope["http_version"] = http_version
    await exchange.run()
    assert link.happened == ["answered"]
    assert link.written.endswith(b"3\r\none\r\n8\r\nfarewell\r\n0\r\n\r\n" if http_version == "1.1" else b"onefarewell")
    assert not exchange.say_last_words(), "once"


async def test_nothing_comes_behind_the_last_piece_while_that_is_on_its_way() -> None:
    """The client may be slow to take it."""
    exchange, link = make()
    await exchange.send({"type": "http.response.start", "status": 200, "headers": [], LAST_WORDS: b"farewell"})
    await exchange.send({"type": "http.response.body", "body": b"one", "more_body": True})
    taken = anyio.Event()
    link.drain = taken.wait  # type: ignore[method-assign]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exchange.send, {"type": "http.response.body", "body": b"two"})
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match="after the end"):
            await exchange.send({"type": "http.response.body", "body": b": still there", "more_body": True})
        assert not exchange.say_last_words()
        taken.set()
    assert link.written.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_head_and_body_are_one_write_and_a_buffer_of_wider_items_is_sent_whole() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": memoryview(bytes(16)).cast("Q")})

    exchange, link = make(app)
    await exchange.run()
    assert b"content-length: 16\r\n" in link.written
    assert link.written.endswith(b"\r\n\r\n" + bytes(16))


def test_a_large_body_is_received_in_place_and_memory_follows_what_arrives() -> None:
    total = RESERVE_BYTES * 20
    body = Body(total)
    body.add(b"a" * 1000)
    assert body.move_in_place()
    reserved = []
    while not body.complete:
        space = body.space()
        reserved.append(body.buffered + len(space))
        count = min(len(space), 3_000_000)
        space[:count] = b"b" * count
        body.filled(count)
    assert reserved[0] == RESERVE_BYTES
    assert set(reserved) == {RESERVE_BYTES, RESERVE_BYTES * 16, total}
    whole = body.take()
    assert len(whole) == total
    assert whole[:1001] == b"a" * 1000 + b"b"
    assert whole.count(b"b") == total - 1000


@pytest.mark.parametrize("length", [None, IN_PLACE_BYTES - 1])
def test_a_body_that_is_small_or_of_unknown_length_is_kept_in_pieces(length: int | None) -> None:
    assert not Body(length).move_in_place()


async def test_reading_on_after_the_client_left_raises() -> None:
    exchange, _ = make(None, 10, b"abc")
    exchange.leave(lost=True)
    with pytest.raises(ClientGone):
        await exchange.read_body(100)
