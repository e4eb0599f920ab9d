"""Calls a model for one request, and makes sure that what comes out is an answer."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel

from mlserve.errors import MLServeError, ModelError, from_exception
from mlserve.model import MLModel
from mlserve.types import InferenceRequest, InferenceResponse

_logger = logging.getLogger("mlserve.model")
_CLOSE_SECONDS = 5.0  # how long a generator's `finally` may take after its client has left


def complete(model: MLModel, request_id: str | None, response: Any) -> InferenceResponse:
    """The answer with what its model left out. ModelError if it is no answer at all."""
    if not isinstance(response, InferenceResponse):
        raise ModelError(
            f"model '{model.name}' returned no predictions: expected an InferenceResponse, "
            f"got {type(response).__name__}"
        )
    if response.id is None:
        response.id = request_id
    if not response.model_name:
        response.model_name = model.name
    if response.model_version is None:
        response.model_version = model.version
    return response


def describe_failure(model: MLModel, request_id: str | None, error: BaseException) -> MLServeError:
    """The error for the caller; the traceback of anything that is not a client's fault goes to the log, once."""
    known = from_exception(error)
    if known.http_status >= 500:
        _logger.error("model '%s' failed on request %s", model.name, request_id, exc_info=error)
    return known


async def stream(model: MLModel, requests: AsyncIterator[InferenceRequest]) -> AsyncGenerator[InferenceResponse, None]:
    """The answers of a model's `predict_stream`, which may be an async or a plain generator.

    The model's generator is always closed at the end, so that its `finally` blocks run, also when nobody waits any
    more.
    """
    request_id: str | None = None

    async def noting_id() -> AsyncIterator[InferenceRequest]:
        nonlocal request_id
        async for request in requests:
            request_id = request.id
            yield request

    generator: Any = model.predict_stream(noting_id())
    if inspect.isawaitable(generator):
        generator = await generator
    try:
        if isinstance(generator, Iterator):
            for response in generator:
                yield complete(model, request_id, response)
                await anyio.lowlevel.checkpoint()
        else:
            async for response in generator:
                yield complete(model, request_id, response)
    finally:
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True), suppress(StopAsyncIteration):
            close = getattr(generator, "aclose", None)
            if close is not None:
                await close()
            elif hasattr(generator, "close"):
                generator.close()
