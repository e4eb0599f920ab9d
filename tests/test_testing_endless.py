"""check_runtime: methods that never end, and answers that are not of their model or their request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import numpy as np
import pytest

from mlserve.codecs import NumpyCodec
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.testing import check_runtime
from mlserve.types import InferenceRequest, InferenceResponse

REQUEST = InferenceRequest(inputs=[NumpyCodec.encode_input("x", np.array([[1.0, 2.0]]))])


class Twice(MLModel):
    """Keeps to all rules."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        array = self.decode(payload.inputs[0], NumpyCodec)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", array * 2)])


class EndlessLoad(Twice):
    async def load(self) -> bool:
        await anyio.sleep_forever()
        return True


class EndlessUnload(Twice):
    async def unload(self) -> bool:
        await anyio.sleep_forever()
        return True


class EndlessPredict(Twice):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        await anyio.sleep_forever()
        return await super().predict(payload)


class Foreign(Twice):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answer = await super().predict(payload)
        answer.model_name = "other"
        return answer


class Unnamed(Twice):
    """Leaves to the server what that fills in."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answer = await super().predict(payload)
        answer.model_name = ""
        return answer


class Fixed(Twice):
    """Its streams are made of its answers."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answer = await super().predict(payload)
        answer.id = "fixed"
        return answer


class FixedChunks(Twice):
    async def predict_stream(self, payloads: Any) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            answer = await self.predict(payload)
            answer.id = "fixed"
            yield answer


class ForeignChunks(Twice):
    async def predict_stream(self, payloads: Any) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            answer = await self.predict(payload)
            answer.model_name = "other"
            yield answer


@pytest.mark.parametrize(
    ("implementation", "method"), [(EndlessLoad, "load"), (EndlessPredict, "predict"), (EndlessUnload, "unload")]
)
def test_a_method_that_never_ends_is_named(implementation: type[MLModel], method: str) -> None:
    settings = ModelSettings(name="slow", implementation=implementation)
    with pytest.raises(AssertionError, match=rf"slow.*{method}\(\) has not ended after 0\.3 s"):
        check_runtime(settings, REQUEST, unknown_output=False, longest_call_seconds=0.3)


@pytest.mark.parametrize(
    ("implementation", "words"),
    [
        (Foreign, "an answer says that it is of model 'other'.*model_name=self.name"),
        (ForeignChunks, "an answer says that it is of model 'other'"),
        (Fixed, "a chunk of predict_stream has the id 'fixed'"),
        (FixedChunks, "a chunk of predict_stream has the id 'fixed'.*'check'"),
    ],
)
def test_an_answer_that_is_of_another_model_or_request_is_told(implementation: type[MLModel], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_runtime(implementation, REQUEST, unknown_output=False, leaks=False)


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_what_the_server_fills_in_may_be_left_to_it(seconds: float | None) -> None:
    (answer,) = check_runtime(Unnamed, REQUEST, unknown_output=False, leaks=False, longest_call_seconds=seconds)
    assert answer.model_name == "checked"
