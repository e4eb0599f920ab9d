"""What a model may put where a text, a number or a frame belongs costs its own call at most, never the server."""

from __future__ import annotations

import anyio
import pytest

from mlserve import frames
from mlserve.errors import MLServeError, ModelLoadError, WorkerDied
from tests.engine import load, request, running_pool, until, values, write_models
from tests.scripted import loads, scripted_pool

pytestmark = pytest.mark.anyio

STRANGE = '''
import enum, os, stat, struct, time
import mlserve
from mlserve import MLModel
from mlserve.errors import MLServeError
from mlserve.settings import ModelParameters
from mlserve.types import InferenceResponse, ResponseOutput


class Level(enum.IntEnum):
    HIGH = 3


def raising(**attributes):
    error = MLServeError("so it is", 503)
    for name, value in attributes.items():
        setattr(error, name, value)
    raise error


def give_version(model):
    model._settings.parameters = ModelParameters()
    model._settings.parameters.version = 3


def odd_version(model, response):
    give_version(model)
    response.model_version = None


def odd_name(model, response):
    model._settings.name, response.model_name = 5, None


CHANGES = {
    "fine": lambda model, response: None,
    "bool": lambda model, response: setattr(response.outputs[0], "shape", [True]),
    "bool among sizes": lambda model, response: setattr(response.outputs[0], "shape", [1, False]),
    "version": odd_version,
    "name": odd_name,
    "register": lambda model, response: mlserve.register("mine", None),
    "register a number": lambda model, response: mlserve.register(5, "five"),
    "grpc status": lambda model, response: raising(grpc_status=chr(0xD800)),
    "http status": lambda model, response: raising(http_status="500"),
    "error type": lambda model, response: raising(error_type=5),
    "enum": lambda model, response: setattr(response, "parameters", {"level": Level.HIGH}),
}


class Strange(MLModel):
    """Gives what the request's id says."""

    def answer(self, request):
        output = ResponseOutput(name="y", shape=[1], datatype="FP64", data=[1.0])
        response = InferenceResponse(model_name=self.name, outputs=[output])
        CHANGES[request.id](self, response)
        return response

    def predict(self, request):
        return self.answer(request)

    async def predict_stream(self, requests):
        async for request in requests:
            yield self.answer(request)


class Labelled(Strange):
    """Has a version that is no text when its second call begins."""

    def predict(self, request):
        give_version(self)
        mlserve.log(seen=1.0)
        return self.answer(request)


class Helpless(Strange):
    """Has a metric whose description is no text."""

    def load(self):
        import prometheus_client

        self.seen = prometheus_client.Counter("odd_seen", None)

    def predict(self, request):
        self.seen.inc()
        return self.answer(request)


class LoadFails(MLModel):
    def load(self):
        raise RuntimeError(chr(0xD800))


class ReadyOrNot(MLModel):
    def load(self):
        class Both:
            def __bool__(self):
                raise ValueError("neither")

        self.ready = Both()


class Babbler(Strange):
    """Writes what is no frame to every socket of its process, again and again."""

    def predict(self, request):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for number in range(3, 64):
                try:
                    if stat.S_ISSOCK(os.fstat(number).st_mode):
                        os.write(number, struct.pack("<I", 1) + bytes([0xC1]))
                except OSError:
                    pass
        return self.answer(request)
'''

REFUSED = [
    "bool",
    "bool among sizes",
    "version",
    "name",
    "register",
    "register a number",
    "grpc status",
    "http status",
    "error type",
]


@pytest.fixture
def folder(tmp_path):
    return write_models(tmp_path, STRANGE)


async def _stream(pool, kind):
    async def requests():
        yield request([1.0], id=kind)

    return [chunk async for chunks in pool.stream(1, requests(), "json") for chunk in chunks]


@pytest.mark.parametrize("kind", REFUSED)
async def test_what_could_not_be_read_is_refused_by_the_worker_with_words(folder, kind):
    async with running_pool() as (pool, _):
        await load(pool, 1, "Strange", folder)
        with anyio.fail_after(60):
            with pytest.raises(MLServeError) as unary:
                await pool.infer(1, request([1.0], id=kind), "json")
            with pytest.raises(MLServeError) as streamed:
                await _stream(pool, kind)
        for caught in (unary, streamed):
            assert not isinstance(caught.value, WorkerDied)
            assert 500 <= caught.value.http_status <= 503 and caught.value.message
        assert pool.crew.restarts == 0


async def test_an_enum_of_integers_among_parameters_is_its_number(folder):
    async with running_pool() as (pool, _):
        await load(pool, 1, "Strange", folder)
        with anyio.fail_after(60):
            answer = await pool.infer(1, request([1.0], id="enum"), "json")
        assert dict(answer.parameters) == {"level": 3}


async def test_labels_of_metrics_are_texts_whatever_a_model_is_called(folder):
    async with running_pool() as (pool, _):
        await load(pool, 1, "Labelled", folder)
        for _ in range(2):
            with anyio.fail_after(60), pytest.raises(MLServeError, match="is no text"):
                await pool.infer(1, request([1.0], id="fine"), "json")
        assert pool.crew._observer.values == [("labelled", "", {"seen": 1.0}), ("labelled", "3", {"seen": 1.0})]
        assert pool.crew.restarts == 0


async def test_a_description_of_a_metric_is_a_text_whatever_the_model_gave(folder):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Helpless", folder)
        with anyio.fail_after(60):
            assert values(await pool.infer(1, request([1.0], id="fine"), "json")) == [1.0]
        assert pool.crew.restarts == 0


@pytest.mark.parametrize("name", ["LoadFails", "ReadyOrNot"])
async def test_a_load_that_cannot_be_told_fails_alone(folder, name):
    async with running_pool() as (pool, _):
        with anyio.fail_after(60), pytest.raises(ModelLoadError):
            await load(pool, 1, name, folder)
        assert pool.crew.restarts == 0


async def test_a_worker_that_sends_what_is_no_frame_is_replaced_and_the_others_serve_on(folder, caplog):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Babbler", folder)
        await load(pool, 2, "Strange", folder)
        with anyio.fail_after(120):
            with pytest.raises(WorkerDied):
                await pool.infer(1, request([1.0], id="fine"), "json")
            assert values(await pool.infer(2, request([1.0], id="fine"), "json")) == [1.0]
        assert pool.crew.restarts == 1
    assert "sent what cannot be read; it is ended" in caplog.text


async def test_what_a_worker_had_sent_around_an_unreadable_frame_is_taken_before_and_after_its_end():
    def script(frame):
        if not isinstance(frame, frames.Infer):
            return loads(frame)
        there, kill = launcher.asked.there, launcher.asked.kill
        answer = frames.Reply(frame.call, frame.request, 0.1)
        if frame.request.id == "late":
            launcher.asked.kill = lambda: there.send(answer) or kill()  # it was on its way
            there.put(frames.Registered("mine", None))
            return frames.Reply(frame.call - 1, frame.request, 0.1)
        return answer if frame.request.id == "next" else frames.Waiting(frame.call)

    async with scripted_pool(script) as (pool, launcher), anyio.create_task_group() as callers:
        await pool.load(frames.Load(1, b'{"name": "m"}', ""), None)
        got = []

        async def ask(name):
            got.append((name, values(await pool.infer(1, request([1.0], id=name), "json"))))

        with anyio.fail_after(60):
            callers.start_soon(ask, "same")
            await until(lambda: any(call.waiting for link in pool.crew.links for call in link.calls.values()))
            await ask("late")
            await until(lambda: len(got) == 2)
            await ask("next")
        assert sorted(got) == [("late", [1.0]), ("next", [1.0]), ("same", [1.0])]
        assert pool.crew.restarts == 1


async def test_a_fault_in_the_supervision_of_a_worker_ends_that_worker_and_not_the_server(folder, caplog, monkeypatch):
    async with running_pool(1) as (pool, _):
        await load(pool, 1, "Strange", folder)
        old, link = pool.pids[0], pool.crew.links[0]

        def on_room():
            link.on_room = lambda: None
            raise KeyError("no such model")

        link.on_room = on_room
        with anyio.fail_after(120):
            answer = None
            while answer is None:
                try:
                    answer = await pool.infer(1, request([1.0], id="fine"), "json")
                except WorkerDied:
                    pass
            await until(lambda: pool.pids and pool.pids[0] != old)
            assert values(await pool.infer(1, request([1.0], id="fine"), "json")) == [1.0]
    assert "the supervision of worker" in caplog.text and "no such model" in caplog.text
