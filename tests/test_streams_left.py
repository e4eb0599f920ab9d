"""Streams whose clients have left: what still runs of them counts, and the model is not unloaded under it."""

from __future__ import annotations

import anyio
import pytest

from mlserve import execute, pool
from mlserve.bounds import Bounds
from tests.engine import load, request, running_pool, until, values, write_models

pytestmark = pytest.mark.anyio

MODELS = """
import asyncio, threading, time
from pathlib import Path
from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput

HERE = Path(__file__).parent


def note(text):
    with (HERE / "notes.txt").open("a") as notes:
        notes.write(text + "\\n")


def shut():
    return (HERE / "gate").exists()


class Base(MLModel):
    def predict(self, request):
        output = ResponseOutput(name="y", shape=[1], datatype="FP32", data=[1.0])
        return InferenceResponse(model_name=self.name, outputs=[output])

    async def unload(self):
        note("unload")


class Plain(Base):
    def predict_stream(self, requests):
        thread = 0
        try:
            for request in requests:
                yield self.predict(request)
                thread = threading.get_ident()
                note("busy")
                while shut():
                    time.sleep(0.005)
                if request.id == "fails":
                    raise ValueError("after its client had left")
        finally:
            note("closed by " + ("the same" if thread == threading.get_ident() else "another"))


class Cleaner(Base):
    async def predict_stream(self, requests):
        try:
            async for request in requests:
                yield self.predict(request)
                note("busy")
                await asyncio.sleep(1000)
        finally:
            note("closing")
            while shut():
                await asyncio.sleep(0.005)
            note("closed")


class Stubborn(Base):
    async def predict_stream(self, requests):
        async for request in requests:
            yield self.predict(request)
            note("deaf")
            while shut():
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    note("cancelled")


class Failing(Base):
    async def predict_stream(self, requests):
        async for request in requests:
            raise ValueError("no chunk")
            yield
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "gate").touch()
    yield write_models(tmp_path, MODELS)
    (tmp_path / "gate").unlink(missing_ok=True)


def close_within(seconds, monkeypatch):
    """How long a call may take to end once nobody waits for it."""
    monkeypatch.setattr(execute, "CLOSE_SECONDS", seconds)
    monkeypatch.setattr(pool, "CLOSE_SECONDS", seconds)


def notes(folder):
    path = folder / "notes.txt"
    return path.read_text().splitlines() if path.exists() else []


def open_gate(folder):
    (folder / "gate").unlink()


async def one(**more):
    yield request([1.0], **more)


async def leave(workers, model, folder, busy="busy", **more):
    """Leaves a stream after its first chunk, once the model is busy with the second."""
    chunks = workers.stream(model, one(**more), "raw")
    await anext(chunks)
    await until(lambda: busy in notes(folder))
    await chunks.aclose()


async def test_a_plain_stream_counts_until_its_step_has_ended(folder, monkeypatch):
    close_within(0.05, monkeypatch)
    async with running_pool() as (workers, _):
        await load(workers, 1, "Plain", folder, Bounds(max_running_calls=1))
        await load(workers, 2, "Stubborn", folder)
        await leave(workers, 1, folder)
        await leave(workers, 2, folder, "deaf")
        await until(lambda: notes(folder).count("cancelled") >= 5)  # long after the time to close
        calls = workers.crew.links[0].calls
        assert [call.model for call in calls.values()] == [1, 2], notes(folder)
        answers = []

        async def ask():
            answers.append(values(await workers.infer(1, request([1.0]), "json")))
            assert "closed by the same" in notes(folder)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await until(lambda: workers.waiting_for(1) == 1)
            open_gate(folder)
        assert answers == [[1.0]]
        await until(lambda: not calls)
    assert "closed by the same" in notes(folder)


@pytest.mark.parametrize("name", ["Plain", "Cleaner"])
async def test_a_model_is_not_unloaded_under_a_stream_that_ends(folder, monkeypatch, name):
    close_within(60.0, monkeypatch)
    async with running_pool() as (workers, _):
        await load(workers, 1, name, folder)
        await load(workers, 2, "Stubborn", folder)
        await leave(workers, 1, folder)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(workers.unload, 1)
            await until(lambda: workers.line_of(1) is None)
            assert values(await workers.infer(2, request([1.0]), "json")) == [1.0], "others are served meanwhile"
            open_gate(folder)
        assert [line.split()[0] for line in notes(folder)][-2:] == ["closed", "unload"]


async def test_a_stream_that_does_not_end_holds_no_unload_up_for_ever(folder, monkeypatch):
    close_within(0.05, monkeypatch)
    async with running_pool() as (workers, _):
        await load(workers, 1, "Plain", folder)
        await leave(workers, 1, folder)
        with anyio.fail_after(60):
            await workers.unload(1)
        assert notes(folder) == ["busy", "unload"]
        open_gate(folder)
        await until(lambda: not workers.crew.links[0].calls)
    assert notes(folder) == ["busy", "unload", "closed by the same"]


async def test_what_a_step_raises_after_its_client_has_left_is_in_the_log(folder, caplog):
    async with running_pool() as (workers, _):
        await load(workers, 1, "Plain", folder)
        await leave(workers, 1, folder, id="fails")
        open_gate(folder)
        await until(lambda: not workers.crew.links[0].calls)
    assert "model 'plain' failed on request fails" in caplog.text
    assert "ValueError: after its client had left" in caplog.text


async def test_the_failure_of_a_stream_is_logged_with_its_request(folder, caplog):
    async with running_pool() as (workers, _):
        await load(workers, 1, "Failing", folder)
        with pytest.raises(Exception, match="no chunk"):
            await anext(workers.stream(1, one(id="r-7"), "raw"))
    assert "model 'failing' failed on request r-7" in caplog.text
