"""A stream of small texts, as a language model gives them, without the model: what is measured is the way out."""

from __future__ import annotations

from collections.abc import AsyncIterator

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
