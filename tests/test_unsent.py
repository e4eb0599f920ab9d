"""How much memory answers may hold that nobody takes: counted, waited for, and bounded for streams."""

from __future__ import annotations

import itertools
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from typing import Any

import anyio
import grpc
import httpx
import pytest

from mlserve.frames import CREDIT_BYTES, Message, Part, credit_of
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.rest.requests import PIECE_BYTES, ClientGone, patient_send
from mlserve.unsent import Reading, Unsent, _holds_back
from tests.engine import load, request, running_pool, values, write_models
from tests.unread import LARGE, message, served, until


@pytest.mark.parametrize("backend", ["asyncio", pytest.param("trio", marks=pytest.mark.own_process)])
def test_no_call_begins_while_answers_that_nobody_takes_fill_their_memory(tmp_path, backend, caplog):
    with (
        served(tmp_path, backend, answer_memory_bytes=LARGE) as running,
        ThreadPoolExecutor(2) as threads,
        grpc.insecure_channel(running.grpc) as channel,
    ):
        with closing(running.ask(LARGE)):
            until(lambda: running.unsent.full and "more than answer_memory_bytes" in caplog.text)
            rest = threads.submit(running.infer, 1)
            over_grpc = threads.submit(GRPCInferenceServiceStub(channel).ModelInfer, message(1000), timeout=60)
            until(lambda: running.waiting == 2)
            assert running.infer(1, **{"X-Request-Timeout": "0.2"}).status_code == 504
            assert httpx.get(f"{running.rest}/v2/health/ready").status_code == 200
            assert running.waiting == 2 and not rest.done() and not over_grpc.done()
            assert LARGE < running.unsent.held_bytes < 4 * LARGE
        assert rest.result().status_code == 200
        assert over_grpc.result().outputs[0].shape == [1000]
        until(lambda: running.unsent.held_bytes == 0 and not running.unsent.full)


def test_a_stream_that_nobody_reads_counts_too_and_is_only_a_few_large_chunks_ahead(tmp_path):
    with served(tmp_path) as running, closing(running.ask(1 << 20, "infer_stream")):
        until(lambda: running.unsent.held_bytes > 0)
        counts: list[int] = []

        def waits_for_its_client() -> bool:
            counts.append(running.infer(-1).json()["outputs"][0]["data"][0])
            return len(counts) >= 30 and counts[-1] == counts[-20]

        until(waits_for_its_client)
        assert 1 <= counts[-1] <= 10, "by the number of chunks it could be over 16 ahead"


def test_a_large_chunk_of_a_stream_costs_more_credit():
    small, large = Part("x", "UINT8", [1], "raw", data=b"1"), Part("x", "UINT8", [1], "raw", length=3 * CREDIT_BYTES)
    assert credit_of(Message([small])) == 1
    assert credit_of(Message([small, large])) == 4
    assert credit_of(Message([])) == 1


def test_what_is_held_is_counted_in_and_out_and_room_is_told_of_once():
    unsent, told = Unsent(10), []
    unsent.on_room = lambda: told.append(unsent.held_bytes)
    with pytest.raises(ValueError), unsent.holding(8):
        unsent.hold(3)
        assert unsent.full
        unsent.give(2)
        assert not unsent.full and told == [9]
        raise ValueError
    assert unsent.held_bytes == 1 and told == [9]


def test_answers_that_wait_for_others_fill_half_of_the_memory_at_most():
    unsent = Unsent(10)
    assert unsent.has_room_ahead(5) and not unsent.has_room_ahead(6)
    unsent.count_ahead(1000)
    assert not unsent.full and not unsent.has_room_ahead(0), "whatever they wait for may begin"
    with unsent.holding(6):
        assert unsent.full
    unsent.hold(5)
    assert not unsent.full
    unsent.give(5)
    unsent.count_ahead(-1000)
    assert unsent.has_room_ahead(5)


def test_only_a_client_that_takes_nothing_of_what_waits_for_it_does_not_read():
    now = itertools.count(0, 4)
    with ExitStack() as closed:
        listener = closed.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = closed.enter_context(socket.create_connection(listener.getsockname()))
        sock = closed.enter_context(listener.accept()[0])
        reading = Reading(10)
        assert not any(reading.has_stopped(sock, next(now)) for _ in range(10)), "nothing waits for it"
        _fill(sock)
        until(lambda: reading.has_stopped(sock, next(now)))
        assert not Reading(0).has_stopped(sock, next(now))
        while reading.has_stopped(sock, next(now)):
            assert client.recv(1 << 20)
        until(lambda: reading.has_stopped(sock, next(now)))
    assert not reading.has_stopped(sock, next(now)), "closed"


def _fill(sock: socket.socket) -> None:
    sock.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            sock.send(bytes(1 << 16))


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_over_plain_asgi_a_body_goes_out_in_pieces_and_not_for_ever(anyio_backend):
    sent: list[Any] = []
    stuck = anyio.Event()

    async def send(one: Any) -> None:
        sent.append(one)
        if stuck.is_set():
            await anyio.sleep_forever()

    patient = patient_send(send, 0.05)
    body = bytes(range(256)) * 1000
    await patient({"type": "http.response.start", "status": 200, "headers": []})
    await patient({"type": "http.response.body", "body": memoryview(body), "more_body": True})
    await patient({"type": "http.response.body", "body": b"x" * PIECE_BYTES})
    assert b"".join(one["body"] for one in sent[1:]) == body + b"x" * PIECE_BYTES
    assert max(len(one["body"]) for one in sent[1:]) == PIECE_BYTES
    assert [one.get("more_body", False) for one in sent[1:]] == [True] * (len(sent) - 2) + [False]
    stuck.set()
    with pytest.raises(ClientGone, match="does not read"):
        await patient({"type": "http.response.body", "body": b"x"})


def test_the_body_of_an_answer_counts_as_json(tmp_path):
    """What is counted is what is sent: JSON text here, of two bytes and more for each number."""
    with served(tmp_path) as running, closing(running.ask(LARGE)):
        until(lambda: running.unsent.held_bytes >= 2 * LARGE)
        assert json.loads(running.infer(1).text)["outputs"][0]["data"] == [0]


@pytest.mark.parametrize(
    ("bytes_per_second", "full", "holds_back", "slow"),
    [
        (4096, True, True, True),
        (4096, False, True, False),
        (1 << 20, True, True, False),
        (4096, True, False, False),  # a long line: something is always under way, and no more is there
    ],
)
def test_a_client_that_takes_little_of_much_is_cut_off_only_while_the_memory_is_full(
    monkeypatch, bytes_per_second, full, holds_back, slow
):
    monkeypatch.setattr("mlserve.unsent._COUNTS", True)
    monkeypatch.setattr("mlserve.unsent._holds_back", lambda sock: holds_back)
    taken = itertools.count(1, 4 * bytes_per_second)
    monkeypatch.setattr("mlserve.unsent._taken", lambda sock: next(taken))
    unsent = Unsent(10)
    unsent.hold(11 if full else 9)
    reading = Reading(10, unsent)
    with socket.socket() as sock:
        assert any(reading.has_stopped(sock, now) for now in range(0, 60, 4)) == slow


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was not sent")
def test_more_waits_than_is_under_way_for_a_client_that_does_not_read():
    with ExitStack() as closed:
        listener = closed.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = closed.enter_context(socket.create_connection(listener.getsockname()))
        sock = closed.enter_context(listener.accept()[0])
        sock.send(b"what its system takes for it")
        until(lambda: not _holds_back(sock))
        _fill(sock)
        until(lambda: _holds_back(sock))
        client.setblocking(False)
        until(lambda: _drained(client) and not _holds_back(sock))


def _drained(client: socket.socket) -> bool:
    with suppress(BlockingIOError):
        while True:
            client.recv(1 << 20)
    return True


@pytest.mark.anyio
async def test_models_with_small_answers_run_while_the_memory_is_full(tmp_path):
    folder = write_models(tmp_path)
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Double", folder)
        await load(pool, 2, "AsyncDouble", folder)
        await pool.infer(1, request([1.0] * 100_000), "raw")
        pool._unsent.limit_bytes = 10
        pool._unsent.hold(11)
        assert values(await pool.infer(2, request([1.0]), "raw")) == [2.0]
        with anyio.move_on_after(0.2) as waiting:
            await pool.infer(1, request([1.0]), "raw")
        assert waiting.cancelled_caught, "it gave a large answer before"
        pool._unsent.give(11)
        assert values(await pool.infer(1, request([1.0]), "raw")) == [2.0]
