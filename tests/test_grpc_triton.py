"""ModelStreamInfer in Triton's form, with grpcio and tritonclient."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.grpc.streaming import STREAM_FORM_KEY, all_over
from mlserve.types import InferenceRequest, InferenceResponse
from mlserve.wire.schema import schema_class
from tests.grpc_calls import say, words
from tests.grpc_edge import BACKENDS, SECONDS, FakePlane, Running, serving, wait_for
from tests.unread import until


@pytest.fixture(params=BACKENDS)
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(request.param, FakePlane(words=words)) as running:
        yield running


class TritonClient:
    """tritonclient's stream API, which hands answers to a callback."""

    def __init__(self, server: Running, **headers: str) -> None:
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._client = triton.InferenceServerClient(server.address)
        self._client.start_stream(lambda result, error: self.answers.put((result, error)), headers=headers)

    def ask(self, values: Any, model: str = "echo", **more: Any) -> None:
        tensor = triton.InferInput("x", [len(values)], "FP32")
        tensor.set_data_from_numpy(np.float32(values))
        self._client.async_stream_infer(model, [tensor], **more)

    def hear(self) -> Any:
        return self.answers.get(timeout=SECONDS)

    def close(self) -> None:
        self._client.stop_stream()
        self._client.close()


@pytest.mark.parametrize("by", ["metadata", "setting"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_tritonclients_stream_works(backend: str, by: str) -> None:
    """Plain models are answered in the order of the requests, each for itself; errors are messages."""
    settings = {"grpc_stream_response": "triton"} if by == "setting" else {}
    headers = {} if by == "setting" else {STREAM_FORM_KEY: "triton"}
    with serving(backend, **settings) as server:
        server.plane.models["other"] = server.plane.models["echo"]
        client = TritonClient(server, **headers)
        for at in range(100):
            client.ask([at, 0.5], "other" if at % 2 else "echo", request_id=str(at))
        client.ask([1], "nope", request_id="bad")
        client.ask([2], request_id="last")
        for at in range(100):
            result, error = client.hear()
            assert error is None and result.get_response().id == str(at)
            assert result.as_numpy("x").tolist() == [at, 0.5]
            assert result.get_response().model_name == ("other" if at % 2 else "echo")
        result, error = client.hear()
        assert result is None and "nope" in str(error)
        assert client.hear()[0].get_response().id == "last"
        client.close()


def test_the_metadata_of_a_call_is_stronger_than_the_setting() -> None:
    """Also the other way round; another word is an error."""
    with (
        serving(grpc_stream_response="triton", plane=FakePlane(words=words)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        metadata = [(STREAM_FORM_KEY, "mlserver")]
        (answer,) = stub.ModelStreamInfer(iter([say("a", id="1")]), metadata=metadata)
        assert (answer.id, answer.outputs[0].contents.bytes_contents[0]) == ("1", b"a")
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ModelStreamInfer(iter([say("a")]), metadata=[(STREAM_FORM_KEY, "else")]))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def triton_answers(server: Running, requests: list[Any]) -> list[Any]:
    """What a stream in Triton's form answers; those to one request together, in their order."""
    answer_type = schema_class("inference.ModelStreamInferResponse")
    with grpc.insecure_channel(server.address) as channel:
        call = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            answer_type.FromString,
        )
        answers = call(iter(requests), metadata=[(STREAM_FORM_KEY, "triton")], timeout=SECONDS)
        return sorted(answers, key=lambda answer: str(answer.infer_response.id))


def test_several_answers_to_one_request_and_the_last_of_them(server: Running) -> None:
    """An empty final answer where the client asks for it, as from Triton's decoupled models."""
    asked = say("a b", id="1")
    asked.parameters["triton_enable_empty_final_response"].bool_param = True
    answers = triton_answers(server, [asked, say("c boom d", id="2"), say("e", id="3")])
    assert [(one.error_message, one.infer_response.id, len(one.infer_response.outputs)) for one in answers] == [
        ("", "1", 1),
        ("", "1", 1),
        ("", "1", 0),
        ("", "2", 1),
        ("the stream met the word boom", "2", 0),
        ("", "3", 1),
    ]
    final = [one.infer_response.parameters["triton_final_response"].bool_param for one in answers[:3]]
    assert final == [False, False, True]


def test_a_broken_request_in_tritons_form_is_one_error_among_answers(server: Running) -> None:
    """With its id, as far as that can be read; the stream goes on."""
    broken = say("x", id="2")
    broken.inputs[0].datatype = "FP32"
    answers = triton_answers(server, [say("a", id="1"), broken, say("b", id="3")])
    assert [(bool(one.error_message), one.infer_response.id) for one in answers] == [
        (False, "1"),
        (True, "2"),
        (False, "3"),
    ]


def test_an_unexpected_error_in_tritons_form_says_nothing(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """The log has it."""

    async def broken(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        raise KeyError("secret")
        yield

    server.plane.models["broken"] = broken
    answers = triton_answers(server, [say("a", "broken", id="1"), say("b", id="2")])
    assert "secret" not in answers[0].error_message and answers[0].error_message
    assert answers[1].infer_response.id == "2"
    assert "secret" in caplog.text


def test_a_client_that_leaves_in_tritons_form_ends_all_its_calls(server: Running) -> None:
    """Those that run and those whose answers nobody has taken."""
    began, ended = threading.Semaphore(0), threading.Semaphore(0)

    async def waiting(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        began.release()
        try:
            await anyio.sleep_forever()
            yield InferenceResponse(model_name="", outputs=[])
        finally:
            ended.release()

    server.plane.models["waiting"] = waiting
    client = TritonClient(server, **{STREAM_FORM_KEY: "triton"})
    for _ in range(3):
        client.ask([1], "waiting")
    assert all(began.acquire(timeout=SECONDS) for _ in range(3))
    client._client.stop_stream(cancel_requests=True)
    assert all(ended.acquire(timeout=SECONDS) for _ in range(3))
    client._client.close()


# -- answers of several requests --------------------------------------------------------------------------------------


class Gates:
    """A model that streams: begins, gives one answer, another for each time it is let through, and never ends."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.open: set[str] = set()
        self.ended = threading.Semaphore(0)

    async def predict_stream(self, request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        name = str(request.id)
        self.begun.append(name)
        try:
            yield InferenceResponse(model_name="", id=request.id, outputs=[])
            while name not in self.open:
                await anyio.sleep(0.005)
        finally:
            self.ended.release()

    def model(self) -> Any:
        async def gates(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
            async for one in self.predict_stream(request):
                yield one

        return gates


class Conversation:
    """A stream in Triton's form on which the test asks one thing after the other."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._questions: queue.SimpleQueue[Any] = queue.SimpleQueue()
        call = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            schema_class("inference.ModelStreamInferResponse").FromString,
        )
        self.answers = call(
            iter(self._questions.get, None), metadata=[(STREAM_FORM_KEY, "triton")], timeout=2 * SECONDS
        )

    def ask(self, text: str, model: str, id: str) -> None:
        self._questions.put(say(text, model, id=id))

    def hear(self) -> str:
        """Whose answer comes next; `id!` for an error."""
        answer = next(self.answers)
        return f"{answer.infer_response.id}!" if answer.error_message else str(answer.infer_response.id)

    def end(self) -> list[str]:
        """The rest of the answers."""
        self._questions.put(None)
        return [str(answer.infer_response.id) for answer in self.answers]


@pytest.fixture
def talk(server: Running) -> Iterator[Conversation]:
    with grpc.insecure_channel(server.address) as channel:
        made = Conversation(channel)
        yield made
        made.answers.cancel()
        made._questions.put(None)


def test_a_long_answer_holds_up_no_other(server: Running, talk: Conversation) -> None:
    """Neither streams nor plain models, nor errors; each request's answers stay in order."""
    gates = Gates()
    server.plane.models["gates"] = gates.model()
    talk.ask("x", "gates", "long")
    assert talk.hear() == "long"
    talk.ask("a b c", "words", "quick")
    assert [talk.hear() for _ in range(3)] == ["quick"] * 3
    talk.ask("a", "echo", "plain")
    assert talk.hear() == "plain"
    talk.ask("boom", "words", "bad")
    assert talk.hear() == "bad!"
    talk.ask("a", "nope", "unknown")
    assert talk.hear() == "unknown!"
    gates.open.add("long")
    assert talk.end() == []


def test_plain_models_are_answered_in_the_order_of_the_requests(server: Running, talk: Conversation) -> None:
    """Also where a later one has its answer first, fails, or cannot be read."""
    finished, go = threading.Event(), threading.Event()

    async def slow(request: InferenceRequest) -> InferenceResponse:
        while not go.is_set():
            await anyio.sleep(0.005)
        return InferenceResponse(model_name="", outputs=[])

    def fast(request: InferenceRequest) -> InferenceResponse:
        if request.id == "4":
            finished.set()
        return InferenceResponse(model_name="", outputs=[])

    server.plane.models |= {"slow": slow, "fast": fast}
    for at, model in enumerate(("slow", "fast", "nope", "slow", "fast")):
        talk.ask("a", model, str(at))
    wait_for(finished)
    go.set()
    assert [talk.hear() for _ in range(5)] == ["0", "1", "2!", "3", "4"]


def test_so_many_run_at_once_and_begin_in_the_order_of_the_requests(server: Running, talk: Conversation) -> None:
    """The others wait; the client is held back."""
    gates = Gates()
    server.plane.models["gates"] = gates.model()
    names = [f"{at:03}" for at in range(70)]
    for name in names:
        talk.ask("x", "gates", name)
    assert sorted(talk.hear() for _ in range(64)) == names[:64]
    assert gates.begun == names[:64]
    gates.open.update(names[10:12])
    assert sorted(talk.hear() for _ in range(2)) == names[64:66]
    assert gates.begun == names[:66]
    gates.open.update(names)
    assert sorted(talk.end()) == names[66:]


def test_a_deadline_ends_all_calls_of_the_stream(server: Running) -> None:
    """With the status of gRPC, as in the other form."""
    gates = Gates()
    server.plane.models["gates"] = gates.model()
    with grpc.insecure_channel(server.address) as channel:
        call = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            schema_class("inference.ModelStreamInferResponse").FromString,
        )
        requests = [say("x", "gates", id=str(at)) for at in range(3)]
        answers = call(iter(requests), metadata=[(STREAM_FORM_KEY, "triton")], timeout=1.0)
        with pytest.raises(grpc.RpcError) as caught:
            list(answers)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        for _ in gates.begun:  # a slow machine may have begun fewer within the time
            assert gates.ended.acquire(timeout=SECONDS)


async def _cancelled_often(times: int) -> list[str]:
    """What happens when the wait for two tasks that take their time to end is cancelled so often."""
    happened: list[str] = []

    async def stubborn() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.05)
            happened.append("ended")

    async def wait(tasks: set[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        try:
            await all_over(tasks)
        except asyncio.CancelledError:
            happened.append("cancelled")

    tasks = {asyncio.create_task(stubborn()) for _ in range(2)}
    await asyncio.sleep(0)
    waiting = asyncio.create_task(wait(tasks))
    for _ in range(times):
        await asyncio.sleep(0)
        waiting.cancel()
    await waiting
    return happened


@pytest.mark.parametrize("times", [0, 1, 3])
def test_the_end_of_a_streams_calls_is_waited_for_however_often_that_is_cancelled(times: int) -> None:
    assert asyncio.run(_cancelled_often(times)) == ["ended", "ended", *["cancelled"] * (times > 0)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_clients_that_leave_many_calls_behind_leave_nothing(backend: str) -> None:
    begun_calls: list[int] = []
    ended: list[int] = []

    async def endless(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        begun_calls.append(1)
        try:
            while True:
                yield InferenceResponse(model_name="endless", outputs=[])
                await anyio.sleep(0)
        finally:
            ended.append(1)

    plane = FakePlane(endless=endless)
    with serving(backend, plane) as running:
        for attempt in range(10):
            with grpc.insecure_channel(running.address) as channel:
                asked = (pb.ModelInferRequest(model_name="endless", id=str(at)) for at in range(30))
                call = GRPCInferenceServiceStub(channel).ModelStreamInfer(asked, metadata=[(STREAM_FORM_KEY, "triton")])
                for _ in range(attempt % 3):
                    next(call)
                call.cancel()
        with grpc.insecure_channel(running.address) as channel:
            assert GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=SECONDS).live
        assert begun_calls
        name = {"grpc_method": "ModelStreamInfer"}
        until(
            lambda: (
                running.counted("grpc_server_handled_total", **name)
                == running.counted("grpc_server_started_total", **name)
            )
        )
        until(lambda: len(ended) == len(begun_calls))
