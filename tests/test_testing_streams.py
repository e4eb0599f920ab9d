"""check_runtime: streams of a runtime's own, and memory that is shared with requests or answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import numpy as np
import pytest

from mlserve import execute
from mlserve.codecs import NumpyCodec, decode_args
from mlserve.errors import ModelError
from mlserve.model import MLModel
from mlserve.tensors import TensorData
from mlserve.testing import calling, check_runtime
from mlserve.types import InferenceRequest, InferenceResponse, MetadataTensor, Parameters, ResponseOutput

REQUEST = InferenceRequest(inputs=[NumpyCodec.encode_input("x", np.array([[1.0, 2.0], [3.0, 4.0]]))])


class Twice(MLModel):
    """Twice its input; as a stream, in two chunks. Keeps to all rules."""

    async def load(self) -> bool:
        self.outputs = [MetadataTensor(name="y", datatype="FP64", shape=[-1, 2])]
        return True

    def answer(self, payload: InferenceRequest) -> InferenceResponse:
        array = self.decode(payload.inputs[0], NumpyCodec)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", array * 2)])

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return self.answer(payload)

    async def predict_stream(self, payloads: Any) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            for _ in range(2):
                yield self.answer(payload)


class Patient(Twice):
    """Answers when all requests have come; awaits something in its `finally`."""

    async def predict_stream(self, payloads: Any) -> AsyncIterator[InferenceResponse]:
        given = [payload async for payload in payloads]
        try:
            for payload in given:
                yield self.answer(payload)
                yield self.answer(payload)
        finally:
            await anyio.sleep(0)


class Plain(Twice):
    def predict_stream(self, payloads: Any) -> Iterator[InferenceResponse]:  # type: ignore[override]
        for payload in payloads:
            yield self.answer(payload)
            yield self.answer(payload)


class ByArguments(Twice):
    @decode_args
    async def predict(self, x: np.ndarray) -> np.ndarray:  # type: ignore[override]
        return x * 2

    @decode_args
    async def predict_stream(self, x: np.ndarray) -> AsyncIterator[np.ndarray]:  # type: ignore[override]
        for row in x:
            yield row * 2

    async def load(self) -> bool:
        return True


# -- streams ----------------------------------------------------------------------------------------------------------


class Nothing(Twice):
    async def predict_stream(self, payloads: Any) -> AsyncIterator[Any]:
        async for _ in payloads:
            yield None


class Unspeakable(Twice):
    async def predict_stream(self, payloads: Any) -> AsyncIterator[Any]:
        async for payload in payloads:
            yield self.answer(payload)
            odd = ResponseOutput(name="y", shape=[1], datatype="FP64", data=[object()])
            yield InferenceResponse(model_name=self.name, outputs=[odd])


class Misshapen(Twice):
    async def predict_stream(self, payloads: Any) -> AsyncIterator[Any]:
        async for _ in payloads:
            short = ResponseOutput(name="y", shape=[5, 2], datatype="FP64", data=[1.0])
            yield InferenceResponse(model_name=self.name, outputs=[short])


class Misnamed(Twice):
    async def predict_stream(self, payloads: Any) -> AsyncIterator[Any]:
        async for payload in payloads:
            answer = self.answer(payload)
            answer.outputs[0].name = "z"
            yield answer


class Failing(Twice):
    async def predict_stream(self, payloads: Any) -> AsyncIterator[Any]:
        async for payload in payloads:
            yield self.answer(payload)
            raise ModelError("out of words")


class Stubborn(Twice):
    """Takes its client's leaving for a failure of its own."""

    async def predict_stream(self, payloads: Any) -> AsyncIterator[Any]:
        async for payload in payloads:
            try:
                yield self.answer(payload)
            except BaseException:
                yield self.answer(payload)


class StubbornPlainly(Twice):
    def predict_stream(self, payloads: Any) -> Iterator[Any]:  # type: ignore[override]
        for payload in payloads:
            try:
                yield self.answer(payload)
            except BaseException:
                yield self.answer(payload)


class Slow(Twice):
    """Tidies up for longer than anybody waits."""

    async def predict_stream(self, payloads: Any) -> AsyncIterator[Any]:
        async for payload in payloads:
            try:
                yield self.answer(payload)
            except GeneratorExit:
                await anyio.sleep(60)
                raise


class Forgetful(Twice):
    """Starts a task and a thread for each stream and lets them go on."""

    async def predict_stream(self, payloads: Any) -> AsyncIterator[Any]:
        task = asyncio.ensure_future(asyncio.sleep(3600))
        task.set_name("the rest of the stream")
        STARTED.append(task)
        async for payload in payloads:
            yield self.answer(payload)


STARTED: list[Any] = []


class SameChunk(Twice):
    """Each chunk lies where the one before lay."""

    async def predict_stream(self, payloads: Any) -> AsyncIterator[Any]:
        buffer = np.zeros((1, 2))
        async for payload in payloads:
            for row in self.decode(payload.inputs[0], NumpyCodec):
                buffer[:] = row
                yield _answer_in(self, buffer)


# -- memory -----------------------------------------------------------------------------------------------------------


class Aliasing(Twice):
    """Answers in the array that it keeps."""

    async def load(self) -> bool:
        self.buffer = np.zeros((2, 2))
        return await super().load()

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        self.buffer[:] = payload.inputs[0].data.to_numpy("FP64", [2, 2]) * 2
        return _answer_in(self, self.buffer)


class Scaling(Twice):
    """Writes into the memory of the request, where it can."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        array = payload.inputs[0].data.to_numpy("FP64", [2, 2], writable=False)
        answer = NumpyCodec.encode_output("y", array * 2)
        if array.flags.writeable:
            array *= 2
        return InferenceResponse(model_name=self.name, outputs=[answer])


class Sorting(Twice):
    """Sorts the list of its input in place."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answer = self.answer(payload)
        payload.inputs[0].data.root.reverse()
        return answer


class Consuming(Twice):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answer = self.answer(payload)
        payload.inputs.pop()
        return answer


def _answer_in(model: MLModel, buffer: np.ndarray) -> InferenceResponse:
    output = ResponseOutput(name="y", shape=list(buffer.shape), datatype="FP64", data=TensorData(buffer))
    return InferenceResponse(model_name=model.name, outputs=[output])


# -- runtimes that only stream, and answers ---------------------------------------------------------------------------


class OnlyStreams(MLModel):
    @decode_args
    async def predict_stream(self, x: np.ndarray) -> AsyncIterator[np.ndarray]:  # type: ignore[override]
        for row in x:
            yield row * 2


class OnlyStreamsPlainly(MLModel):
    def predict_stream(self, payloads: Any) -> Iterator[InferenceResponse]:  # type: ignore[override]
        for payload in payloads:
            for row in NumpyCodec.decode_input(payload.inputs[0]):
                yield InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", row * 2)])


class KeepsCount(OnlyStreams):
    """Its stream has one chunk more each time."""

    async def load(self) -> bool:
        self.count = 0
        return True

    @decode_args
    async def predict_stream(self, x: np.ndarray) -> AsyncIterator[np.ndarray]:  # type: ignore[override]
        self.count += 1
        for _ in range(self.count):
            yield x


class BlockingStream(OnlyStreams):
    @decode_args
    async def predict_stream(self, x: np.ndarray) -> AsyncIterator[np.ndarray]:  # type: ignore[override]
        time.sleep(0.6)  # this is what is to be found
        yield x


class Endless(Twice):
    async def predict_stream(self, payloads: Any) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            while True:
                yield self.answer(payload)
                await anyio.sleep(0.01)


class EndlessWithoutWaiting(Twice):
    async def predict_stream(self, payloads: Any) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            while True:
                yield self.answer(payload)


class Silent(Twice):
    async def predict_stream(self, payloads: Any) -> AsyncIterator[InferenceResponse]:
        await anyio.sleep_forever()
        yield


class Dividing(Twice):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        raise ZeroDivisionError("by zero")


class DividingStream(Twice):
    async def predict_stream(self, payloads: Any) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            yield self.answer(payload)
            raise ZeroDivisionError("by zero")


class FailingToLoad(Twice):
    async def load(self) -> bool:
        raise OSError("no such file")


class FailingToUnload(Twice):
    async def unload(self) -> bool:
        raise OSError("busy")


class FailingAtTimes(Twice):
    """Fails while another call is under way."""

    under_way = 0

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        self.under_way += 1
        try:
            await anyio.sleep(0)
            if self.under_way > 1:
                raise RuntimeError("one at a time")
            return self.answer(payload)
        finally:
            self.under_way -= 1


class Unsaid(Twice):
    """Answers with a parameter that no transport can carry."""

    value: Any = object()

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answer = self.answer(payload)
        answer.parameters = Parameters(secret=self.value)
        return answer


class UnsaidHuge(Unsaid):
    value = {"a": [1 << 70]}


class UnsaidOfOutput(Twice):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answer = self.answer(payload)
        assert answer.outputs[0].parameters is not None
        answer.outputs[0].parameters.secret = object()
        return answer


class UnsaidStream(Twice):
    async def predict_stream(self, payloads: Any) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            answer = self.answer(payload)
            answer.parameters = Parameters(secret=object())
            yield answer


@pytest.fixture(autouse=True)
def forget_what_was_started() -> Iterator[None]:
    yield
    STARTED.clear()


@pytest.mark.parametrize("model", [Twice, Patient, Plain, ByArguments, OnlyStreams, OnlyStreamsPlainly])
def test_a_stream_that_keeps_to_the_rules_passes(model):
    threads = set(threading.enumerate())
    check_runtime(model, REQUEST, unknown_output=False, leaks=False, longest_block_seconds=60.0)
    for one in set(threading.enumerate()) - threads:
        if "worker" not in one.name:
            one.join(60)  # that of a plain generator may be about to end
            assert not one.is_alive(), one


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Nothing, r"chunk 0 of predict_stream: model 'checked' returned no predictions"),
        (Unspeakable, r"chunk 1 of predict_stream, output 'y' cannot be sent"),
        (Misshapen, r"chunk 0 of predict_stream, output 'y' cannot be sent: shape"),
        (Misnamed, r"output 'z' is not among metadata\(\)'s"),
        (Failing, r"chunk 1 of predict_stream: out of words"),
        (Stubborn, r"its client left, and predict_stream went on to yield. Let GeneratorExit"),
        (StubbornPlainly, r"its client left, and predict_stream went on to yield. Let GeneratorExit"),
        (Slow, r"its client left, and predict_stream took \d+\.\d s to end"),
        (Forgetful, r"its client left, and predict_stream left the rest of the stream running"),
        (SameChunk, r"chunk 0 of predict_stream changed when chunk 1 came: its output 'y'"),
        (Aliasing, r"an answer changed when the next call was answered: its output 'y'"),
        (Scaling, r"predict\(\) changed input 'x' of its request: it was FP64 \[2, 2\].* of other values"),
        (Sorting, r"predict\(\) changed input 'x' of its request: it was FP64 \[2, 2\].* of other values"),
        (Consuming, r"predict\(\) changed how many inputs"),
        (KeepsCount, r"outputs are \['output-0'.*\] over json, but \['output-0', 'output-0'.*\] over raw"),
        (Dividing, r"predict\(\) on a request given to the check failed: ZeroDivisionError: by zero"),
        (DividingStream, r"chunk 1 of predict_stream: ZeroDivisionError: by zero"),
        (FailingToLoad, r"load\(\) failed: OSError: no such file"),
        (FailingToUnload, r"unload\(\) failed: OSError: busy"),
        (FailingAtTimes, r"predict\(\) on a request given to the check failed: RuntimeError: one at a time"),
        (Unsaid, r"its answer cannot be sent: parameter 'secret' cannot be sent: object has no JSON form"),
        (UnsaidHuge, r"its answer cannot be sent: .*2\*\*64"),
        (UnsaidOfOutput, r"output 'y' cannot be sent: parameter 'secret'"),
        (UnsaidStream, r"chunk 0 of predict_stream: its answer cannot be sent: parameter 'secret'"),
    ],
)
def test_a_breach_is_told(model, said, monkeypatch):
    if model is Slow:
        monkeypatch.setattr(execute, "CLOSE_SECONDS", 0.5)
    with pytest.raises(AssertionError, match=said):
        check_runtime(model, REQUEST, unknown_output=False, longest_block_seconds=60.0)


def test_the_answer_of_a_runtime_that_only_streams_has_the_outputs_of_all_chunks() -> None:
    (answer,) = check_runtime(OnlyStreams, REQUEST, unknown_output=False, leaks=False, expected={"output-0": [2, 4]})
    assert [one.data.root for one in answer.outputs] == [[2.0, 4.0], [6.0, 8.0]]
    with pytest.raises(AssertionError, match=r"has no predict\(\): batches are not for streams"):
        check_runtime(OnlyStreams, REQUEST, unknown_output=False, batches=True)
    with pytest.raises(AssertionError, match=r"predict_stream\(\) held up the event loop for"):
        check_runtime(BlockingStream, REQUEST, unknown_output=False, longest_block_seconds=0.5)


@pytest.mark.parametrize("model", [Endless, EndlessWithoutWaiting, Silent])
def test_a_stream_that_does_not_end_is_told(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "STREAM_SECONDS", 0.3)
    with pytest.raises(AssertionError, match=r"predict_stream has not ended after 0 s .* give\s+check_runtime"):
        check_runtime(model, REQUEST, unknown_output=False)
