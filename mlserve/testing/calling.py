"""Calls a model as a worker does, and compares answers; what the checks share."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import msgspec
import numpy as np

from mlserve import execute
from mlserve.errors import CodecError, MLServeError
from mlserve.model import MLModel
from mlserve.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput
from mlserve.types.dumping import json_hook
from mlserve.wire.parameters import sendable

__all__ = [
    "bytes_of",
    "call_limit",
    "called",
    "check_expected",
    "check_same",
    "check_sendable",
    "each_chunk",
    "finish",
    "only_streams",
    "predicted",
    "told",
    "values_of",
]

STREAM_SECONDS = 60.0  # a stream that has not ended after these is taken for one that never does,
_MOST_CHUNKS = 100_000  # and so is one of more chunks
_UNSENDABLE = (MLServeError, TypeError, ValueError, OverflowError, RecursionError)


call_limit: ContextVar[float | None] = ContextVar("call_limit", default=None)  # of this check


async def finish(value: Any, what: str) -> Any:
    """What a method gives, whether it is async or plain. AssertionError if an async one does not end in its time."""
    if not hasattr(value, "__await__"):
        return value
    seconds = call_limit.get()
    with anyio.move_on_after(seconds):
        return await value
    raise AssertionError(
        f"{what} has not ended after {seconds:g} s; if it needs longer, give check_runtime() more longest_call_seconds"
    )


@contextmanager
def told(what: str) -> Iterator[None]:
    """AssertionError that says what failed."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{what} failed: {type(error).__name__}: {error}") from error


def only_streams(model: MLModel) -> bool:
    """Whether the model has a predict_stream of its own, and no predict."""
    kind = type(model)
    return kind.predict is MLModel.predict and kind.predict_stream is not MLModel.predict_stream


async def predicted(model: MLModel, request: InferenceRequest) -> InferenceResponse:
    """The answer to a request that the model can answer."""
    with told(f"{model!r}: {'predict_stream' if only_streams(model) else 'predict'}() on a request given to the check"):
        return await called(model, request)


async def called(model: MLModel, request: InferenceRequest) -> InferenceResponse:
    """The answer to one request, with what the server fills in; of a model that only streams, the outputs of all its
    chunks, one after the other."""
    if not only_streams(model):
        answer = execute.complete(model, request.id, await finish(model.predict(request), f"{model!r}: predict()"))
        _check_names(model, answer)
        return answer
    chunks: list[InferenceResponse] = []
    await each_chunk(model, request, chunks.append)
    assert chunks, f"{model!r}: predict_stream gives nothing"
    outputs = [output for chunk in chunks for output in chunk.outputs]
    return chunks[0].model_copy(update={"outputs": outputs})


async def each_chunk(model: MLModel, request: InferenceRequest, take: Callable[[InferenceResponse], None]) -> None:
    """Gives the chunks of the answer to a stream of one request away. AssertionError if they do not end."""
    until, count = time.perf_counter() + STREAM_SECONDS, 0
    with anyio.move_on_after(STREAM_SECONDS):
        async with aclosing(execute.stream(model, _one_request(request))) as chunks:
            async for chunk in chunks:
                _check_names(model, chunk)
                _check_id(model, request, chunk)
                take(chunk)
                count += 1
                if count > _MOST_CHUNKS or time.perf_counter() > until:  # it may never wait for anything
                    break
            else:
                return
    raise AssertionError(
        f"{model!r}: predict_stream has not ended after {STREAM_SECONDS:.0f} s or {_MOST_CHUNKS} chunks; give "
        "check_runtime() a request whose stream ends"
    )


def _check_names(model: MLModel, answer: InferenceResponse) -> None:
    assert answer.model_name == model.name, (
        f"{model!r}: an answer says that it is of model {answer.model_name!r}, and the server sends that: give "
        "model_name=self.name"
    )
    names = [one.name for one in answer.outputs]
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    assert twice is None, (
        f"{model!r}: an answer has more than one output named '{twice}': give each a name of its own, for "
        "who reads outputs by their names gets one of them"
    )


def _check_id(model: MLModel, request: InferenceRequest, chunk: InferenceResponse) -> None:
    """Of streams only: the server puts its request's id into any other answer."""
    assert chunk.id == request.id, (
        f"{model!r}: a chunk of predict_stream has the id {chunk.id!r}, and the server sends that, for a request with "
        f"{request.id!r}: leave the id out, or take its request's, by which clients match answers"
    )


async def _one_request(request: InferenceRequest) -> AsyncIterator[InferenceRequest]:
    yield request


def check_sendable(whose: str, response: InferenceResponse) -> None:
    """Whether an answer can go out in each form that a client may ask for."""
    _check_parameters(f"{whose}: its answer", response.parameters)
    for output in response.outputs:
        _check_parameters(f"{whose}, output '{output.name}'", output.parameters)
        _check_output(whose, output)


def _check_parameters(whose: str, parameters: Parameters | None) -> None:
    try:
        msgspec.msgpack.encode(sendable(parameters), enc_hook=json_hook)
    except _UNSENDABLE as error:
        raise AssertionError(f"{whose} cannot be sent: {error}") from error


def _check_output(whose: str, output: ResponseOutput) -> None:
    try:
        output.model_copy(update={"data": []}).model_dump_json()
        output.data.to_json(output.datatype)
        output.data.to_raw(output.datatype)
        if output.datatype != "BYTES":
            output.data.to_numpy(output.datatype, output.shape)
    except (MLServeError, TypeError) as error:
        raise AssertionError(f"{whose}, output '{output.name}' cannot be sent: {error}") from error


def bytes_of(tensor: Any) -> bytes:
    """The values of an input or output as bytes of their own."""
    try:
        return bytes(tensor.data.to_raw(tensor.datatype))
    except CodecError:  # a null among texts has no binary form
        return bytes(tensor.data.to_json(tensor.datatype))


def values_of(answer: InferenceResponse) -> dict[str, Any]:
    """The outputs as arrays."""
    return {one.name: one.data.to_numpy(one.datatype, one.shape) for one in answer.outputs}


def check_expected(answer: InferenceResponse, expected: Mapping[str, Any], rtol: float) -> None:
    """Whether outputs have these values; floating point numbers within `rtol`."""
    found = {output.name: output for output in reversed(answer.outputs)}  # of several chunks the first
    for name, wanted in expected.items():
        assert name in found, f"there is no output '{name}' among {list(found)}"
        values = found[name].data.to_numpy(found[name].datatype, found[name].shape)
        assert values.size == np.size(wanted), f"output '{name}': expected {wanted}, got {values}"
        values = values.reshape(np.shape(wanted))
        exact = not rtol or values.dtype.kind not in "fc"
        same = np.array_equal(values, wanted) if exact else np.allclose(values, wanted, rtol, equal_nan=True)
        assert same, f"output '{name}': expected {wanted}, got {values}"


def check_same(form: str, one: InferenceResponse, other_form: str, other: InferenceResponse) -> None:
    """Whether two answers have the same tensors, bit for bit; the forms say where each comes from."""
    names, other_names = ([output.name for output in response.outputs] for response in (one, other))
    assert names == other_names, f"outputs are {names} over {form}, but {other_names} over {other_form}"
    for was, now in zip(one.outputs, other.outputs):
        for what in ("datatype", "shape"):
            before, after = getattr(was, what), getattr(now, what)
            assert before == after, f"output '{was.name}': {what} {before} over {form}, {after} over {other_form}"
        same = bytes(was.data.to_raw(was.datatype)) == bytes(now.data.to_raw(now.datatype))
        assert same, f"output '{was.name}': {was.data} over {form}, but {now.data} over {other_form}"
