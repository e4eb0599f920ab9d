"""Models that stream, written as people write them; the tests of streams serve this file as it stands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import mlserve
from mlserve import MLModel
from mlserve.codecs import decode_args
from mlserve.errors import MLServeError
from mlserve.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput


def note(model: MLModel, text: str) -> None:
    """Leaves a line, with the time, for the test to read."""
    with Path(__file__).with_name("notes.txt").open("a") as notes:
        notes.write(f"{model.name} {time.time()} {text}\n")


def wish(request: InferenceRequest, name: str, default: Any) -> Any:
    parameters = request.parameters or Parameters()
    return parameters.get(name, default)


def token(model: MLModel, request: InferenceRequest, place: int) -> InferenceResponse:
    text = f"{place} " + "x" * wish(request, "size", 0)
    output = ResponseOutput(name="token", shape=[1], datatype="BYTES", data=[text])
    asked = (request.parameters or Parameters()).headers or {}
    headers = {"X-Place": str(place), "X-Asked": asked.get("x-asked", "")}
    return InferenceResponse(model_name=model.name, parameters=Parameters(headers=headers), outputs=[output])


class Counter(MLModel):
    """Counts to `count`, with a pause before each number; raises before `boom`."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return token(self, payload, -1)

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        place = -1
        try:
            async for payload in payloads:
                for place in range(wish(payload, "count", 10)):
                    await asyncio.sleep(wish(payload, "pause", 0))
                    if place == wish(payload, "boom", None):
                        raise MLServeError("the counter met its boom", 418)
                    mlserve.log(numbers_counted=1)
                    yield token(self, payload, place)
        finally:
            note(self, f"closed at {place}")


class Plain(MLModel):
    """The same as a plain generator over a plain iterator; its steps block."""

    def predict_stream(self, payloads: Iterator[InferenceRequest]) -> Iterator[InferenceResponse]:
        place = -1
        try:
            for payload in payloads:
                for place in range(wish(payload, "count", 10)):
                    time.sleep(wish(payload, "pause", 0))
                    yield token(self, payload, place)
        finally:
            note(self, f"closed at {place}")


class Spinner(MLModel):
    """Computes for `pause` seconds before each number and never gives way by itself."""

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        place = -1
        try:
            async for payload in payloads:
                for place in range(wish(payload, "count", 10)):
                    end = time.perf_counter() + wish(payload, "pause", 0)
                    while time.perf_counter() < end:
                        pass
                    yield token(self, payload, place)
        finally:
            note(self, f"closed at {place}")


class Total(MLModel):
    """One answer for the whole stream of requests."""

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        total = 0.0
        async for payload in payloads:
            total += sum(payload.inputs[0].data)
        output = ResponseOutput(name="total", shape=[1], datatype="FP64", data=[total])
        yield InferenceResponse(model_name=self.name, outputs=[output])


class Words(MLModel):
    """Arguments by name, results by their hint."""

    @decode_args
    async def predict_stream(self, text: list[str]) -> AsyncIterator[list[str]]:
        for word in text[0].split():
            yield [word]


class Quick(MLModel):
    """Has its first number at once, and computes for `pause` seconds before each other one, without giving way."""

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            for place in range(wish(payload, "count", 10)):
                if place:
                    end = time.perf_counter() + wish(payload, "pause", 0)
                    while time.perf_counter() < end:
                        pass
                yield token(self, payload, place)


class Returned(MLModel):
    """Its predict_stream is no generator, but gives one, a plain one."""

    def predict_stream(self, payloads: Any) -> Any:
        return (token(self, payload, place) for payload in payloads for place in range(wish(payload, "count", 10)))


class Steps(MLModel):
    """A plain generator with arguments by name, whose steps block while the file "gate" is there."""

    @decode_args
    def predict_stream(self, text: list[str]) -> Iterator[list[str]]:
        for word in text[0].split():
            yield [word]
            while Path(__file__).with_name("gate").exists():
                time.sleep(0.005)


class Cleaner(MLModel):
    """Needs some time, and other tasks, to clean up."""

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        place = -1
        helper = asyncio.ensure_future(asyncio.sleep(1000))
        Path(__file__).with_name("begun").touch()
        try:
            async for payload in payloads:
                for place in range(wish(payload, "count", 10)):
                    await asyncio.sleep(wish(payload, "pause", 0))
                    yield token(self, payload, place)
        finally:
            helper.cancel()
            await asyncio.wait([helper])
            await asyncio.sleep(0.05)
            note(self, f"cleaned up at {place}")


class Listing(MLModel):
    """Gives all at once, which is no stream."""

    def predict_stream(self, payloads: Any) -> Any:
        return [InferenceResponse(model_name=self.name, outputs=[])]
