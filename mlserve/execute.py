"""Calls a model for one request, and makes sure that what comes out is an answer."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import anyio

from mlserve.datatypes import DATATYPES
from mlserve.errors import MLServeError, ModelError, from_exception
from mlserve.model import MLModel
from mlserve.nesting import MOST_LEVELS, is_too_deep
from mlserve.plain_streams import EitherWay, in_thread
from mlserve.types import InferenceRequest, InferenceResponse
from mlserve.wire.json_data import encodable

_logger = logging.getLogger("mlserve.model")
CLOSE_SECONDS = 5.0  # how long a call may take to end once nobody waits for it: until then its `finally` may await


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
    _check(model, response)  # with what the model says of itself: that may be no text either
    return response


def _check(model: MLModel, response: InferenceResponse) -> None:
    """ModelError unless names, versions, shapes and parameters are what they should be: structs do not look."""
    texts = (response.id, response.model_name, response.model_version)
    if not all(text is None or isinstance(text, str) for text in texts):
        raise ModelError(f"model '{model.name}' returned an id, name or version that is no text: {texts}")
    headers = None if response.parameters is None else response.parameters.headers
    if headers is not None and not isinstance(headers, dict):
        raise ModelError(f"model '{model.name}' returned headers that are no dict: {headers!r:.80}")
    _check_parameters(model, response)
    for place, output in enumerate(response.outputs):
        _check_parameters(model, output)
        shape = output.shape
        if not isinstance(output.name, str) or output.datatype not in DATATYPES:
            raise ModelError(
                f"model '{model.name}' returned outputs[{place}] with name {output.name!r:.80} and datatype "
                f"{output.datatype!r:.80}; a text and one of the protocol's datatypes were expected"
            )
        if not isinstance(shape, list) or not all(
            isinstance(size, int) and size.__class__ is not bool and abs(size) < 2**63 for size in shape
        ):
            raise ModelError(f"model '{model.name}' returned output '{output.name}' with shape {shape!r:.80}")


def _check_parameters(model: MLModel, owner: Any) -> None:
    parameters = owner.parameters
    if not parameters:
        return
    if not all(isinstance(key, str) for key in parameters):
        raise ModelError(f"model '{model.name}' returned parameters with a key that is no text: {parameters!r:.80}")
    if is_too_deep(parameters):
        raise ModelError(f"model '{model.name}' returned parameters with more than {MOST_LEVELS} levels")


def sendable(error: MLServeError) -> tuple[str, int, str]:
    """Message, HTTP status and gRPC status of an error as they can be sent, whatever a model put there."""
    message, name = error.message, error.grpc_status
    text = message if isinstance(message, str) else _text_of(message)
    return encodable(text), status_of(error), encodable(name) if isinstance(name, str) else "INTERNAL"


def status_of(error: MLServeError) -> int:
    """The HTTP status of an error; 500 where a model has put something else there."""
    status = error.http_status
    return int(status) if isinstance(status, int) and 400 <= status <= 599 else 500


def type_of(error: MLServeError) -> str:
    """The name of the class that was raised, as it can be sent."""
    given = error.error_type
    return encodable(given if given and isinstance(given, str) else type(error).__name__)


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return type(value).__name__


def describe_failure(model: MLModel, request_id: str | None, error: BaseException) -> MLServeError:
    """The error for the caller; the traceback of anything that is not a client's fault goes to the log, once."""
    known = from_exception(error)
    if status_of(known) >= 500:
        where = f" on request {request_id}" if request_id else ""
        _logger.error("model '%s' failed%s", model.name, where, exc_info=error)
    return known


async def stream(model: MLModel, incoming: AsyncIterator[InferenceRequest]) -> AsyncGenerator[InferenceResponse, None]:
    """The answers of a model's `predict_stream`, which may be an async or a plain generator.

    A plain one gets a plain iterator of requests and runs in a thread, since each of its steps may block. The model's
    generator is always closed at the end, so that its `finally` blocks run, also when nobody waits any more.
    """
    request_id: str | None = None

    async def noting_id() -> AsyncIterator[InferenceRequest]:
        nonlocal request_id
        async for request in incoming:
            request_id = request.id
            yield request

    generator: Any = model.predict_stream(EitherWay(noting_id()))
    if inspect.isawaitable(generator):
        generator = await generator
    if isinstance(generator, Iterator):
        generator = in_thread(generator)
    if not hasattr(generator, "__aiter__"):
        raise ModelError(
            f"model '{model.name}': predict_stream() returned {type(generator).__name__}, not a generator; write it "
            "with `yield`"
        )
    try:
        async for response in generator:
            yield complete(model, request_id, response)
    finally:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True), suppress(StopAsyncIteration):
            close = getattr(generator, "aclose", None)
            if close is not None:
                await close()
