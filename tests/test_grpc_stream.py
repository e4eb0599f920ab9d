"""ModelStreamInfer in MLServer's form and in Triton's, with grpcio and tritonclient."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from mlserve.errors import ModelError
from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.grpc.streaming import STREAM_FORM_KEY
from mlserve.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput
from mlserve.wire.schema import schema_class
from tests.grpc_edge import BACKENDS, SECONDS, FakePlane, Running, serving, wait_for


async def words(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
    """One answer for each word; fails at the word boom."""
    for word in request.inputs[0].data.tolist()[0].split():
        if word == b"boom":
            raise ModelError("the stream met the word boom")
        output = ResponseOutput(name="word", shape=[1], datatype="BYTES", data=[word])
        yield InferenceResponse(
            model_name="", id=request.id, outputs=[output], parameters=Parameters(last=word == b"z")
        )


@pytest.fixture(params=BACKENDS)
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(request.param, FakePlane(words=words)) as running:
        yield running


@pytest.fixture
def stub(server: Running) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield GRPCInferenceServiceStub(channel)


def say(text: str, model: str = "words", **more: Any) -> Any:
    request = pb.ModelInferRequest(model_name=model, **more)
    request.inputs.add(name="x", shape=[1], datatype="BYTES").contents.bytes_contents.append(text.encode())
    return request


def said(answers: Any) -> list[tuple[str, bytes]]:
    return [(one.id, one.outputs[0].contents.bytes_contents[0]) for one in answers]


# -- MLServer's form --------------------------------------------------------------------------------------------------


def test_answers_come_one_by_one_with_the_metadata_at_the_end(stub: GRPCInferenceServiceStub) -> None:
    """All requests go into one call."""
    answers = stub.ModelStreamInfer(iter([say("a b", id="1"), say("c", id="2")]), timeout=SECONDS)
    assert said(answers) == [("1", b"a"), ("1", b"b"), ("2", b"c")]
    assert dict(answers.trailing_metadata()) == {"ce-id": "2", "ce-endpoint": "words"}
    assert answers.initial_metadata() == ()


def test_the_form_of_the_first_request_is_that_of_the_answers(stub: GRPCInferenceServiceStub) -> None:
    """Raw for raw."""
    request = pb.ModelInferRequest(model_name="echo", raw_input_contents=[b"\1\0\0\0a"])
    request.inputs.add(name="x", shape=[1], datatype="BYTES")
    (answer,) = stub.ModelStreamInfer(iter([request]), timeout=SECONDS)
    assert list(answer.raw_output_contents) == [b"\1\0\0\0a"]


def test_answers_come_while_the_client_still_asks(stub: GRPCInferenceServiceStub) -> None:
    """A conversation: each question depends on the answer before it."""
    questions: queue.SimpleQueue[Any] = queue.SimpleQueue()
    answers = stub.ModelStreamInfer(iter(questions.get, None), timeout=SECONDS)
    for text in ("a", "b", "c"):
        questions.put(say(text, id=text))
        assert said([next(answers)]) == [(text, text.encode())]
    questions.put(None)
    assert list(answers) == []


def test_an_error_ends_the_stream_after_the_answers_before_it(stub: GRPCInferenceServiceStub) -> None:
    """With the status of the error, and no metadata."""
    answers = stub.ModelStreamInfer(iter([say("a boom b", id="1")]), timeout=SECONDS)
    assert said([next(answers)]) == [("1", b"a")]
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "the stream met the word boom")
    assert caught.value.trailing_metadata() == ()


def test_packed_messages_of_a_stream_are_read(stub: GRPCInferenceServiceStub) -> None:
    """And answered in kind."""
    requests = [say("a" * 5000 + " b", id="1"), say("c", id="2")]
    answers = stub.ModelStreamInfer(iter(requests), timeout=SECONDS, compression=grpc.Compression.Gzip)
    assert said(answers) == [("1", b"a" * 5000), ("1", b"b"), ("2", b"c")]


def test_a_stream_without_requests_has_no_answers(stub: GRPCInferenceServiceStub) -> None:
    """And is no error."""
    assert list(stub.ModelStreamInfer(iter([]), timeout=SECONDS)) == []


@pytest.mark.parametrize("place", ["first", "second"])
def test_a_broken_request_ends_the_stream(stub: GRPCInferenceServiceStub, place: str) -> None:
    """INVALID_ARGUMENT, with the answers to what came before."""
    broken = say("x")
    broken.inputs[0].datatype = "FP32"
    requests = [broken] if place == "first" else [say("a", id="1"), broken]
    answers = stub.ModelStreamInfer(iter(requests), timeout=SECONDS)
    found = []
    with pytest.raises(grpc.RpcError) as caught:
        for answer in answers:
            found.append(answer)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "bytes_contents" in (caught.value.details() or "")
    assert said(found) == [("1", b"a")][: len(requests) - 1]


def test_an_unknown_model_is_not_found(stub: GRPCInferenceServiceStub) -> None:
    """The first request names it."""
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ModelStreamInfer(iter([say("a", "nope")]), timeout=SECONDS))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_client_that_leaves_ends_the_models_generator(server: Running, stub: GRPCInferenceServiceStub) -> None:
    """Its `finally` runs."""
    ended = threading.Event()

    async def endless(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        try:
            while True:
                yield InferenceResponse(model_name="", outputs=[])
                await anyio.sleep(0.001)
        finally:
            ended.set()

    server.plane.models["endless"] = endless
    answers = stub.ModelStreamInfer(iter([say("a", "endless")]))
    next(answers)
    answers.cancel()
    wait_for(ended)


def test_a_client_that_does_not_read_holds_the_model_up(server: Running, stub: GRPCInferenceServiceStub) -> None:
    """Answers do not pile up in the server: HTTP/2's windows and the socket push back as far as the model."""
    made, payload = 0, bytes(1 << 20)

    async def counted(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        nonlocal made
        for _ in range(200):
            made += 1
            yield InferenceResponse(
                model_name="",
                outputs=[ResponseOutput(name="x", shape=[1], datatype="BYTES", data=[payload])],
            )

    server.plane.models["plenty"] = counted
    answers = stub.ModelStreamInfer(iter([say("a", "plenty")]), timeout=SECONDS)
    next(answers)
    seen = -1
    while seen != made:  # Until it makes no progress any more.
        seen = made
        threading.Event().wait(0.2)
    assert made < 100
    answers.cancel()


# -- Triton's form ----------------------------------------------------------------------------------------------------


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
    """Answers in the order of the requests, each for itself, to several models; errors are messages."""
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
        assert said(stub.ModelStreamInfer(iter([say("a", id="1")]), metadata=metadata)) == [("1", b"a")]
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ModelStreamInfer(iter([say("a")]), metadata=[(STREAM_FORM_KEY, "else")]))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def triton_answers(server: Running, requests: list[Any]) -> list[Any]:
    """What a stream in Triton's form answers."""
    answer_type = schema_class("inference.ModelStreamInferResponse")
    with grpc.insecure_channel(server.address) as channel:
        call = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            answer_type.FromString,
        )
        return list(call(iter(requests), metadata=[(STREAM_FORM_KEY, "triton")], timeout=SECONDS))


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
    """The stream goes on."""
    broken = say("x", id="2")
    broken.inputs[0].datatype = "FP32"
    answers = triton_answers(server, [say("a", id="1"), broken, say("b", id="3")])
    assert [(bool(one.error_message), one.infer_response.id) for one in answers] == [
        (False, "1"),
        (True, ""),
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
