"""A stream: the words of the prompt, one by one."""

import asyncio
from typing import AsyncIterator  # noqa: UP035

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Text(MLModel):
    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        payload = [one async for one in payloads][0]  # noqa: RUF015  # as the document has it
        for at, word in enumerate(StringCodec.decode_input(payload.inputs[0])[0].split(" ")):
            await asyncio.sleep(0)
            chunk = StringCodec.encode_output(name="output", payload=[f" {word}" if at else word], use_bytes=True)
            yield InferenceResponse(model_name=self._settings.name, outputs=[chunk])
