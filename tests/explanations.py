"""Asks explainers in this process, and alibi itself for what they should answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from mlserve import ModelSettings
from mlserve.codecs import NumpyRequestCodec, StringRequestCodec
from mlserve.types import InferenceRequest, InferenceResponse
from mlserve_alibi_explain import AlibiExplainRuntime

__all__ = ["explained", "own", "request_of", "texts"]


def explained(extra: dict[str, Any], *requests: InferenceRequest, uri: Path | None = None) -> list[InferenceResponse]:
    """Loads a model, asks it, unloads it: in one event loop, as a worker does."""

    async def live() -> list[InferenceResponse]:
        parameters = {"uri": str(uri) if uri is not None else None, "version": "v1", "extra": extra}
        model = AlibiExplainRuntime(
            ModelSettings(name="why", implementation=AlibiExplainRuntime, parameters=parameters)
        )
        assert await model.load()
        try:
            return [await model.predict(request) for request in requests]
        finally:
            await model.unload()

    return anyio.run(live)


def request_of(data: Any, **arguments: Any) -> InferenceRequest:
    codec: Any = StringRequestCodec if isinstance(data, list) else NumpyRequestCodec
    request: InferenceRequest = codec.encode_request(data)
    if arguments:
        assert request.parameters is not None
        request.parameters["explain_parameters"] = arguments
    return request


def own(make: Callable[[], Any], instance: Any, **arguments: Any) -> str:
    """What alibi says itself."""
    explainer = make()
    np.random.seed(7)
    random.seed(7)
    text: str = explainer.explain(instance, **arguments).to_json()
    return text


def texts(response: InferenceResponse) -> list[str]:
    (output,) = response.outputs
    assert (output.name, output.datatype) == ("explanation", "BYTES")
    assert output.parameters is not None
    assert output.parameters.content_type == "str"
    assert output.shape == [len(output.data), 1]
    return [one.decode() if isinstance(one, bytes) else one for one in output.data]
