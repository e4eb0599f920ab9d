"""A stream of small texts, as a language model gives them, without the model: what is measured is the way out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import anyio

from mlserve import MLModel
from mlserve.types import InferenceRequest, InferenceResponse, ResponseOutput


class Tokens(MLModel):
    """Gives as many tokens as the first input says, after so many milliseconds each as the second says."""

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            count, pause_ms = (one.data[0] for one in payload.inputs)
            for place in range(int(count)):
                if pause_ms:
                    await anyio.sleep(pause_ms / 1000)
                token = ResponseOutput(name="token", shape=[1], datatype="BYTES", data=[f"token {place}"])
                yield InferenceResponse(id=payload.id, model_name=self.name, outputs=[token])


class PlainTokens(MLModel):
    """The same as a plain generator, which runs in a thread."""

    def predict_stream(  # type: ignore[override]  # a plain generator
        self, payloads: Iterator[InferenceRequest]
    ) -> Iterator[InferenceResponse]:
        for payload in payloads:
            count, pause_ms = (one.data[0] for one in payload.inputs)
            for place in range(int(count)):
                if pause_ms:
                    time.sleep(pause_ms / 1000)
                token = ResponseOutput(name="token", shape=[1], datatype="BYTES", data=[f"token {place}"])
                yield InferenceResponse(id=payload.id, model_name=self.name, outputs=[token])
