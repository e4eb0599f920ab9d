"""ModelStreamInfer in MLServer's form, with grpcio."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import grpc
import pytest

from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.types import InferenceRequest, InferenceResponse, ResponseOutput
from tests.grpc_calls import say, words
from tests.grpc_edge import BACKENDS, SECONDS, FakePlane, Running, serving, wait_for


@pytest.fixture(params=BACKENDS)
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(request.param, FakePlane(words=words)) as running:
        yield running


@pytest.fixture
def stub(server: Running) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield GRPCInferenceServiceStub(channel)


def said(answers: Any) -> list[tuple[str, bytes]]:
    return [(one.id, one.outputs[0].contents.bytes_contents[0]) for one in answers]


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
