"""The client's connections, streams and event loops."""

from __future__ import annotations

import gc
import json
import queue
import socket
import threading
from contextlib import aclosing
from functools import partial
from typing import Any

import anyio
import pytest

from mlserve import client as client_package
from mlserve import errors
from mlserve.client import AsyncClient, Client, ClientError
from mlserve.client.bodies import Events, decode_response
from mlserve.types import (
    InferenceRequest,
)
from tests.client_edge import BUSY, GOOD, KINDS, OUTPUT, SECONDS, Cut, Scripted, address_of, answer, connected, words
from tests.fake_dataplane import echo
from tests.grpc_edge import FakePlane


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- connections ------------------------------------------------------------------------------------------------------


def test_connections_are_kept_and_shared():
    with Scripted(*[GOOD] * 5) as server, Client(server.address) as client:
        for _ in range(5):
            client.infer("m", [1])
        assert server.connections == 1


def test_a_connection_that_the_server_closed_is_not_used_again():
    closing = answer({"model_name": "m", "outputs": [OUTPUT]}, Connection="close")
    silent = GOOD  # And then the server hangs up without having said so.
    with Scripted(closing, silent, GOOD) as server, Client(server.address) as client:
        client.infer("m", [1])
        client.infer("m", [1])
        assert server.connections == 2
        (home,) = client._running().client._transports._homes.values()
        (stream, _) = home.transport._pool._idle[0]
        stream.extra(anyio.abc.SocketAttribute.raw_socket).shutdown(socket.SHUT_RDWR)  # As if the other side had.
        client.infer("m", [1])
        assert server.connections == 3


def test_interim_answers_and_bodies_without_a_length_are_read():
    body = json.dumps({"model_name": "m", "outputs": [OUTPUT]}).encode()
    early = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + GOOD
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with Scripted(early, chunked) as server, Client(server.address) as client:
        assert client.infer("m", [1]).outputs["y"].tolist() == [1, 2]
        assert client.infer("m", [1]).outputs["y"].tolist() == [1, 2]


def test_no_more_connections_than_allowed():
    gates = [threading.Event() for _ in range(3)]
    with Scripted(*gates) as server, Client(server.address, max_connections=2, retries=0) as client:
        caught: queue.Queue[Exception] = queue.Queue()

        def call() -> None:
            try:
                client.infer("m", [1])
            except ClientError as error:
                caught.put(error)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            server.requests.get(timeout=SECONDS)
        assert server.connections == 2
        for gate in gates:
            gate.set()
        for thread in threads:
            thread.join(SECONDS)
        assert caught.qsize() == 3 and server.connections == 3


def test_many_threads_share_a_client(kind):
    with connected(kind) as client:
        found: queue.Queue[tuple[int, float]] = queue.Queue()

        def call(number: int) -> None:
            found.put((number, client.infer("echo", [float(number)]).outputs["input-1"].item()))

        threads = [threading.Thread(target=call, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert sorted(found.queue) == [(number, float(number)) for number in range(12)]


def test_a_closed_client_starts_anew_and_a_forgotten_one_leaves_no_thread():
    gc.collect()
    others = threading.enumerate()

    def threads() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one.name == "mlserve-client" and one not in others]

    with Scripted(GOOD, GOOD, GOOD) as server:
        client = Client(server.address)
        client.infer("m", [1])
        client.close()
        client.close()
        assert not threads()
        client.infer("m", [1])
        (thread,) = threads()
        del client
        gc.collect()
        thread.join(SECONDS)
        assert not thread.is_alive()


@pytest.mark.anyio
async def test_it_works_where_a_loop_is_running_already(anyio_backend):
    with Scripted(GOOD) as server, Client(server.address) as client:
        assert client.infer("m", [1]).model_name == "m"


# -- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_gives_its_answers_one_by_one(kind):
    with connected(kind, FakePlane(words=words(3))) as client:
        said = [one.outputs["w"] for one in client.stream("words", ["text"])]
        assert said == [["word 0"], ["word 1"], ["word 2"]]
        assert [*client.stream("words", "again", timeout_seconds=SECONDS)][-1].outputs["w"] == ["word 2"]


def test_leaving_a_stream_cancels_the_call(kind):
    ended = threading.Event()
    with connected(kind, FakePlane(words=words(1_000_000, seen=ended.set))) as client:
        for one in client.stream("words", ["text"]):
            assert one.outputs["w"] == ["word 0"]
            break
        assert ended.wait(SECONDS)


def test_an_error_before_the_first_answer_and_one_after_it(kind):
    plane = FakePlane(empty=words(0, errors.ModelNotReady("empty")), broken=words(2, errors.ModelError("it broke")))
    with connected(kind, plane) as client:
        with pytest.raises(errors.ModelNotReady):
            next(client.stream("empty", ["text"]))
        answers = client.stream("broken", ["text"])
        assert [next(answers).outputs["w"], next(answers).outputs["w"]] == [["word 0"], ["word 1"]]
        with pytest.raises(errors.ModelError, match="it broke"):
            next(answers)
        with pytest.raises(errors.ModelNotFound):
            next(client.stream("nope", ["text"]))


def test_a_stream_has_the_time_that_it_is_given(kind):
    async def stalls(request: InferenceRequest) -> Any:
        yield echo(request)
        await anyio.sleep_forever()

    with connected(kind, FakePlane(stalls=stalls)) as client:
        came: list[Any] = []
        for seconds in (0.5, 5.0, 50.0):  # a busy machine may need more for the first answer
            with pytest.raises(errors.DeadlineExceeded):
                came.extend(client.stream("stalls", ["text"], timeout_seconds=seconds))
            if came:
                break
        assert len(came) == 1


def test_a_stream_is_tried_again_only_before_its_first_answer():
    event = b"data: " + json.dumps({"model_name": "m", "outputs": [OUTPUT]}).encode() + b"\n\n"
    cut = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(event), event)
    with Scripted(BUSY, cut + b"0\r\n\r\n") as server, Client(server.address) as client:
        answers = client.stream("m", ["text"])
        assert next(answers).outputs["y"].tolist() == [1, 2]
        assert list(answers) == []
        assert server.count == 2
    with Scripted(Cut(cut), cut) as server, Client(server.address) as client:
        answers = client.stream("m", ["text"])
        next(answers)
        with pytest.raises(ClientError, match="the connection broke before the answer was complete"):
            next(answers)
        assert server.count == 1


def test_events_are_read_however_they_are_cut():
    text = b': comment\nevent: a\r\ndata: 1\r\n\r\ndata: {"x":\ndata: 2}\n\nid: 3\n\ndata:4\n\n'
    expected = [("a", b"1"), ("message", b'{"x":\n2}'), ("message", b"4")]
    for size in (1, 2, 7, len(text)):
        events = Events()
        found = [one for at in range(0, len(text), size) for one in events.feed(text[at : at + size])]
        assert found == expected


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"{}", 9),
        (b"{}", 0),
        (
            b'{"model_name":"m","outputs":[{"name":"y","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":9}}]}',
            None,
        ),
    ],
)
def test_binary_answers_that_do_not_come_out_even_are_refused(body, length):
    with pytest.raises(ValueError):
        decode_response(body, len(body) if length is None else length)


# -- the asynchronous client ------------------------------------------------------------------------------------------


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.anyio
async def test_the_asynchronous_client_runs_on_both_backends(anyio_backend):
    ended = threading.Event()
    plane = FakePlane(words=words(1_000_000, seen=ended.set))
    with address_of("json", plane) as address:
        async with AsyncClient(address, binary=True) as client:
            assert await client.server_ready() and await client.model_ready("echo")
            results: list[float] = []

            async def call(number: int) -> None:
                results.append((await client.infer("echo", [float(number)])).outputs["input-1"].item())

            async with anyio.create_task_group() as tasks:
                for number in range(10):
                    tasks.start_soon(call, number)
            assert sorted(results) == [float(number) for number in range(10)]
            async with aclosing(client.stream("words", ["text"])) as answers:
                async for one in answers:
                    assert one.outputs["w"] == ["word 0"]
                    break
            assert await anyio.to_thread.run_sync(ended.wait, SECONDS)
            assert repr(client) == f"<AsyncClient {address}>"


@pytest.mark.anyio
async def test_cancelling_closes_the_connection(anyio_backend):
    gate = threading.Event()
    with Scripted(gate, GOOD) as server:
        async with AsyncClient(server.address) as client:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.infer, "m", [1])
                await anyio.to_thread.run_sync(partial(server.requests.get, timeout=SECONDS))
                tasks.cancel_scope.cancel()
            assert (await client.infer("m", [1])).model_name == "m"
            assert server.connections == 2
        gate.set()


@pytest.mark.anyio
async def test_grpc_runs_on_asyncio_and_says_so_on_trio(anyio_backend):
    with address_of("grpc", FakePlane()) as address:
        async with AsyncClient(address) as client:
            if anyio_backend == "trio":
                with pytest.raises(ClientError, match="gRPC needs asyncio"):
                    await client.server_live()
            else:
                assert (await client.infer("echo", [1])).model_name == "echo"


def test_public_names_are_sorted_and_there():
    assert list(client_package.__all__) == sorted(client_package.__all__)
    assert all(hasattr(client_package, name) for name in client_package.__all__)
