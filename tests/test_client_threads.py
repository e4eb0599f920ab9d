"""The synchronous client's thread: interrupted calls, streams that are left in every way, other event loops."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from mlserve.client import Client, ClientError
from mlserve.types import InferenceRequest
from tests.client_edge import GOOD, KINDS, Scripted, address_of, connected, words
from tests.fake_dataplane import echo
from tests.grpc_edge import FakePlane

LONG = 60.0  # as long as an event may take on a busy machine


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Stalling:
    """A model whose stream gives one answer and then waits; `ended` is set when its generator is closed."""

    def __init__(self) -> None:
        self.waits = threading.Event()
        self.ended = threading.Event()

    async def __call__(self, request: InferenceRequest) -> Any:
        try:
            yield echo(request)
            self.waits.set()
            await anyio.sleep_forever()
        finally:
            self.ended.set()


@contextmanager
def interrupting(when: threading.Event) -> Iterator[None]:
    """Ctrl+C for this thread, once that has happened."""
    here = threading.get_ident()

    def interrupt() -> None:
        if when.wait(LONG):
            signal.pthread_kill(here, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            try:
                yield
            finally:
                thread.join(LONG)
    finally:
        signal.signal(signal.SIGINT, before)


def clients() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "mlserve-client"]


def test_ctrl_c_in_a_stream_arrives_as_itself_and_ends_the_call(kind, capfd):
    model = Stalling()
    with connected(kind, FakePlane(stalls=model)) as client:
        with interrupting(model.waits):
            for _ in client.stream("stalls", ["text"]):
                pass
        assert model.ended.wait(LONG)
        assert client.infer("echo", [1.0]).outputs["input-1"].item() == 1.0
    assert capfd.readouterr().err == ""


def test_ctrl_c_in_a_call_arrives_as_itself_and_cancels_it(kind):
    began, ended = threading.Event(), threading.Event()

    async def slow(request: InferenceRequest) -> Any:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    with connected(kind, FakePlane(slow=slow)) as client:
        with interrupting(began):
            client.infer("slow", [1])
        assert ended.wait(LONG)


def test_a_stream_can_be_closed_dropped_or_outlive_its_client(kind, capfd):
    def opened(client: Client, model: Stalling) -> Any:
        answers = client.stream("stalls", ["text"])
        next(answers)
        assert model.waits.wait(LONG) and not model.ended.is_set()
        return answers

    for leave in ("closed", "dropped", "outlived"):
        model = Stalling()
        with address_of(kind, FakePlane(stalls=model)) as address:
            client = Client(address)
            answers = opened(client, model)
            if leave == "closed":
                answers.close()
            elif leave == "dropped":
                del answers
                gc.collect()
            else:
                client.close()
                with pytest.raises(ClientError, match="was closed before the answer was there"):
                    next(answers)
            assert model.ended.wait(LONG)
            client.close()
    assert not clients()
    gc.collect()
    assert capfd.readouterr().err == ""


def test_closing_a_client_tells_the_threads_that_wait(kind):
    models = {"calls": Stalling(), "streams": Stalling()}
    began = threading.Event()
    caught: list[Exception] = []

    async def slow(request: InferenceRequest) -> Any:
        began.set()
        await anyio.sleep_forever()

    def call() -> None:
        try:
            client.infer("slow", [1])
        except ClientError as error:
            caught.append(error)

    def stream() -> None:
        try:
            list(client.stream("streams", ["text"]))
        except ClientError as error:
            caught.append(error)

    with address_of(kind, FakePlane(slow=slow, streams=models["streams"])) as address:
        client = Client(address)
        threads = [threading.Thread(target=one) for one in (call, stream)]
        for thread in threads:
            thread.start()
        assert began.wait(LONG) and models["streams"].waits.wait(LONG)
        client.close()
        for thread in threads:
            thread.join(LONG)
        assert len(caught) == 2 and all("was closed" in str(one) for one in caught)
        assert models["streams"].ended.wait(LONG)


def test_a_stream_that_was_never_begun_costs_nothing():
    with Scripted() as server, Client(server.address) as client:
        client.stream("m", [1]).close()
        client.stream("m", [1])
        gc.collect()
        assert server.count == 0


def test_a_stream_dropped_in_the_clients_own_thread_does_not_wait_for_itself():
    """The garbage collector runs in any thread, also there."""
    ended = threading.Event()
    with connected("json", FakePlane(words=words(1_000_000, seen=ended.set))) as client:
        held = [client.stream("words", ["text"])]
        next(held[0])
        assert client._running().post(held.clear)
        assert ended.wait(LONG)


def run(script: str, *arguments: str) -> tuple[int, str]:
    """A program of its own; its exit status, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["json", "grpc"])
def test_a_program_may_end_with_a_stream_open_and_nothing_closed(kind):
    script = """
        import sys
        from mlserve.client import Client
        client = Client(sys.argv[1])
        answers = client.stream("words", ["text"])
        print(next(answers).outputs["w"])
    """
    ended = threading.Event()
    with address_of(kind, FakePlane(words=words(1_000_000, seen=ended.set))) as address:
        assert run(script, address) == (0, "['word 0']\n")
        assert ended.wait(LONG)


def test_it_works_in_the_threads_of_a_trio_program_with_trio_asyncio():
    script = """
        import sys, trio, warnings
        warnings.simplefilter("ignore")  # of trio-asyncio itself, on Python 3.12 and newer
        import trio_asyncio
        from mlserve.client import Client

        def ask():
            with Client(sys.argv[1]) as client:
                print(client.infer("m", [1]).model_name)

        async def main():
            await trio.to_thread.run_sync(ask)
            async with trio_asyncio.open_loop():
                await trio.to_thread.run_sync(ask)

        trio.run(main)
        ask()
    """
    with Scripted(GOOD, GOOD, GOOD) as server:
        status, printed = run(script, server.address)
        assert (status, printed) == (0, "m\nm\nm\n")
