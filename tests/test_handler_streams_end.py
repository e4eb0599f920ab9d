"""What ends streams of custom handlers besides their clients: the drain, an unload, a reload, a death, a full model."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving import Running, serving
from tests.test_handler_streams import Place, told, waited, write

pytestmark = pytest.mark.slow

WAYS = ["async", "plain", "fastapi"]


@contextmanager
def served(folder: Path, workers: int, **settings: Any) -> Iterator[tuple[Place, Running]]:
    write(folder, **settings)
    with serving(folder, "--parallel-workers", str(workers), "--set", "shutdown_timeout_seconds=5") as server:
        yield Place(server, folder), server


@contextmanager
def streaming(place: Place, way: str, name: str, count: int = 10**6) -> Iterator[list[str]]:
    """A client in a thread that reads to the end; what it got, once it has something, and at last the end's name."""
    got: list[str] = []
    begun = threading.Event()

    def read() -> None:
        try:
            with httpx.stream("GET", f"{place.rest}/{way}?count={count}&pause=0.01&name={name}", timeout=60) as answer:
                for text in answer.iter_text():
                    got.append(text)
                    begun.set()
            got.append("whole")
        except httpx.HTTPError as error:
            got.append(type(error).__name__)
        begun.set()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        assert begun.wait(60)
        yield got
    finally:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("way", WAYS)
def test_a_drain_waits_for_a_stream_that_ends_and_breaks_off_one_that_does_not(
    tmp_path: Path, workers: int, way: str
) -> None:
    with (
        served(tmp_path, workers) as (place, server),
        streaming(place, way, "endless") as endless,
        streaming(place, way, "short", count=40) as short,
    ):
        assert server.stop() == 0
    assert short[-1] == "whole" and told("".join(short[:-1])) == list(range(40))
    assert endless[-1] == "RemoteProtocolError"
    place.noted("endless closed")
    assert place.notes()[-1].endswith("unloaded"), "the model was unloaded under its stream"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("way", WAYS)
def test_an_unload_lets_a_stream_end_and_a_reload_lets_it_go_on(tmp_path: Path, workers: int, way: str) -> None:
    def unloads() -> list[str]:
        """One for each version that served, and one of the process in which the second was tried."""
        return [one for one in place.notes() if one.endswith("unloaded")]

    with served(tmp_path, workers) as (place, server):
        repository = f"{place.rest}/v2/repository/models/streaming"
        with streaming(place, way, "old", count=100) as old:
            assert httpx.post(f"{repository}/load", timeout=60).status_code == 200
            assert httpx.get(f"{place.rest}/{way}?count=3", timeout=60).text == "".join(
                f"data: {at} \n\n" for at in range(3)
            )
        assert old[-1] == "whole" and told("".join(old[:-1])) == list(range(100))
        place.noted("unloaded")
        waited(lambda: len(unloads()) == 1 + (workers > 0))
        with streaming(place, way, "last") as last:
            assert httpx.post(f"{repository}/unload", timeout=60).status_code == 200
            assert httpx.get(f"{place.rest}/{way}", timeout=60).status_code in (400, 404)
        assert last[-1] == "RemoteProtocolError"
        place.noted("last closed")
        waited(lambda: len(unloads()) == 2 + (workers > 0))
        assert place.notes()[-1].endswith("unloaded")
        assert server.stop() == 0


def test_a_worker_that_dies_is_a_breach_of_its_streams(tmp_path: Path) -> None:
    with served(tmp_path, 1) as (place, server):
        with streaming(place, "async", "killed") as killed:
            os.kill(server.workers[0], signal.SIGKILL)
        assert killed[-1] == "RemoteProtocolError"
        waited(lambda: httpx.get(f"{place.rest}/async?count=2", timeout=60).status_code == 200)
        assert server.stop() == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_streams_take_places_of_their_model_and_give_them_back(tmp_path: Path, workers: int) -> None:
    got: list[str] = []

    def wait_for_a_place(url: str) -> None:
        got.append(waited(lambda: (answer := httpx.get(url, timeout=60)).status_code == 200 and answer.text))

    with served(tmp_path, workers, max_running_calls=1, max_queue_size=1) as (place, server):
        url = f"{place.rest}/async"
        with httpx.stream("GET", f"{url}?count=1000000&pause=0.01&name=first") as first:
            pieces = first.iter_bytes()  # which would leave with its last reference
            next(pieces)
            waiting = threading.Thread(target=wait_for_a_place, args=(f"{url}?count=5",))
            waiting.start()
            # Of the two that ask, one waits and the other is refused; this one waits for a moment only.
            impatient = {"X-Request-Timeout": "0.1"}
            assert waited(lambda: httpx.get(url, headers=impatient, timeout=60).status_code == 429)
            assert not got
        waiting.join(60)
        assert told(got[0]) == list(range(5))
        assert server.stop() == 0
