"""`check_runtime`: puts a runtime through what the server asks of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import anyio

from mlserve.errors import MLServeError
from mlserve.loader import Loader, import_implementation
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.testing.batches import check_batches
from mlserve.testing.calling import (
    call_limit,
    called,
    check_expected,
    check_same,
    check_sendable,
    finish,
    only_streams,
    predicted,
    told,
)
from mlserve.testing.sharing import check_answer_stays, check_request_stays
from mlserve.testing.streams import check_leaving, streamed
from mlserve.testing.variants import copied, in_form, one_value_short
from mlserve.testing.watching import check_leaks, loop_goes_on
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    RequestOutput,
)

__all__ = ["check_runtime"]

_FORMS = ("json", "raw", "contents")
_NOBODY = "no-model-has-an-output-of-this-name"
_AT_ONCE = 8  # calls


def check_runtime(
    model: ModelSettings | type[MLModel],
    requests: InferenceRequest | Iterable[InferenceRequest],
    *,
    expected: Mapping[str, Any] | None = None,
    rtol: float = 0.0,
    unknown_output: bool = True,
    repeatable: bool = True,
    batches: bool = False,
    leaks: bool = True,
    longest_block_seconds: float | None = 1.0,
    longest_call_seconds: float | None = 300.0,
) -> list[InferenceResponse]:
    """Puts a runtime through what the server asks of it; its answers to the requests, to look at further.

    The model loads and is ready; its metadata can be sent, and is true; each request gives the same tensors whether it
    came as JSON, as raw bytes, as typed contents, on a stream, or beside other calls; requests and earlier answers stay
    as they are; a stream of its own gives chunks that can be sent, and ends when its client leaves; wrong requests are
    refused with a 4xx; it can be unloaded and loaded again, and leaves nothing behind. AssertionError says what was
    expected and what came.

    `expected` has the framework's own values for outputs of the first request, within `rtol`: 0 is bit for bit.
    `unknown_output=False` is for runtimes that take no notice of the outputs asked for, `repeatable=False` for those
    whose answers vary, `leaks=False` for those whose framework keeps what it has loaded; an async predict() may hold
    up the event loop for `longest_block_seconds`. An async load(), predict() or unload() has `longest_call_seconds` to
    end; a plain one cannot be broken off. `batches=True` adds that requests in one batch are answered as they
    are alone. Runs an event loop of its own: call it from a plain test, not from an async one.
    """
    settings = model if isinstance(model, ModelSettings) else ModelSettings(name="checked", implementation=model)
    asked = [requests] if isinstance(requests, InferenceRequest) else list(requests)
    assert asked, "check_runtime() needs a request that the model can answer"

    async def check() -> list[InferenceResponse]:
        call_limit.set(longest_call_seconds)
        loader = Loader()
        modules = loader.open(settings.source_dir)

        async def loaded() -> MLModel:
            with loader.active(modules):
                implementation = import_implementation(settings.implementation, settings, settings.source_dir)
                return await _loaded(implementation, settings)

        async def round_trip() -> MLModel:
            """A model that has been loaded, used and unloaded."""
            used = await loaded()
            await predicted(used, copied(asked[0]))
            await _unloaded(used)
            return used

        model = await loaded()
        metadata = await _checked_metadata(model, settings)
        assert not (batches and only_streams(model)), f"{model!r} has no predict(): batches are not for streams"
        method = "predict_stream" if only_streams(model) else "predict"
        if _is_async(getattr(model, method)) and longest_block_seconds is not None:
            async with loop_goes_on(f"{model!r}: {method}()", longest_block_seconds):
                await predicted(model, copied(asked[0]))
        answers = [await _check_ways(model, request, repeatable) for request in asked]
        _check_agreement(metadata, answers)
        for request, answer in zip(asked, answers):
            await _check_stream(model, request, answer, metadata, repeatable)
            await check_request_stays(model, request)
        await check_answer_stays(model, asked)
        check_expected(answers[0], expected or {}, rtol)
        if repeatable:
            await _check_at_once(model, asked, answers)
        if batches:
            await check_batches(model, asked, answers)
        await _check_refusals(model, asked[0], unknown_output)
        await _unloaded(model)
        again = await loaded()
        repeated = await predicted(again, copied(asked[0]))
        if repeatable:
            check_same("before", answers[0], "after it was loaded again", repeated)
        await _unloaded(again)
        del model, again
        if leaks:
            await check_leaks(round_trip)
        loader.discard(modules)
        return answers

    try:
        return anyio.run(check)
    except Exception as error:
        first = _first(error)
        raise first from first.__cause__


def _first(error: BaseException) -> BaseException:
    """What began it, without the groups of task groups around it."""
    inner: Any = getattr(error, "exceptions", None)
    return _first(inner[0]) if inner else error


def _is_async(method: Any) -> bool:
    return inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)


async def _unloaded(model: MLModel) -> None:
    with told(f"{model!r}: unload()"):
        await finish(model.unload(), f"{model!r}: unload()")


async def _loaded(implementation: type[Any], settings: ModelSettings) -> MLModel:
    model = implementation(settings)
    assert isinstance(model, MLModel), f"{implementation.__name__} is no MLModel"
    with told(f"{model!r}: load()"):
        outcome = await finish(model.load(), f"{model!r}: load()")
    ready = model.ready if outcome is None else bool(outcome)
    assert ready is not False, f"{model!r} is not ready: load() gave {outcome!r}, self.ready is {model.ready!r}"
    assert model.name == settings.name, f"its name is {model.name!r}, its settings say {settings.name!r}"
    assert model.version == settings.version, f"its version is {model.version!r}, not {settings.version!r}"
    return model


async def _checked_metadata(model: MLModel, settings: ModelSettings) -> MetadataModelResponse:
    with told(f"{model!r}: metadata()"):
        metadata = await finish(model.metadata(), f"{model!r}: metadata()")
    assert isinstance(metadata, MetadataModelResponse), f"metadata() gave {type(metadata).__name__}"
    sent = MetadataModelResponse.model_validate_json(metadata.model_dump_json())
    assert sent == metadata, f"metadata() does not survive the way over JSON: {metadata} became {sent}"
    assert metadata.name == settings.name, f"metadata() is of {metadata.name!r}, not of {settings.name!r}"
    return metadata


def _check_agreement(metadata: MetadataModelResponse, answers: Iterable[InferenceResponse]) -> None:
    """Whether outputs are what the metadata says of them. A shape of [N] is as good as [N, 1]."""
    declared = {one.name: one for one in metadata.outputs or ()}
    for answer in answers:
        for output in answer.outputs:
            if not declared:
                return
            known = declared.get(output.name)
            assert known is not None, f"output '{output.name}' is not among metadata()'s: {list(declared)}"
            assert known.datatype == output.datatype, (
                f"output '{output.name}': metadata() says {known.datatype}, the answer {output.datatype}"
            )
            says, is_so = _column(known.shape), _column(output.shape)
            fits = len(says) == len(is_so) and all(size in (-1, real) for size, real in zip(says, is_so))
            assert fits, f"output '{output.name}': metadata() says shape {known.shape}, the answer {output.shape}"


def _column(shape: list[int]) -> list[int]:
    return [*shape, 1] if len(shape) == 1 else shape


async def _check_at_once(model: MLModel, asked: list[InferenceRequest], answers: list[InferenceResponse]) -> None:
    """Whether calls that run side by side get what they get alone."""
    given: dict[int, InferenceResponse] = {}

    async def call(number: int) -> None:
        given[number] = await predicted(model, in_form(asked[number % len(asked)], "raw"))

    async with anyio.create_task_group() as tasks:
        for number in range(max(_AT_ONCE, 2 * len(asked))):
            tasks.start_soon(call, number)
    for number, answer in given.items():
        check_same("json alone", answers[number % len(asked)], "raw beside other calls", answer)


async def _check_ways(model: MLModel, request: InferenceRequest, repeatable: bool) -> InferenceResponse:
    """The answer to a request, after making sure that it does not hang on the way on which the request came."""
    first: tuple[str, InferenceResponse] | None = None
    for form in _FORMS:
        if form == "contents" and any(one.datatype == "FP16" for one in request.inputs):
            continue  # typed contents have no field for it
        response = await predicted(model, in_form(request, form))
        check_sendable(repr(model), response)
        first = first or (form, response)
        if repeatable:
            check_same(*first, form, response)
    assert first is not None
    return first[1]


async def _check_stream(
    model: MLModel, request: InferenceRequest, answer: InferenceResponse, metadata: MetadataModelResponse, same: bool
) -> None:
    """Whether the request can be streamed: a stream of predict's answers gives the same, one of its own agrees with
    the metadata and ends when its client leaves."""
    chunks = await streamed(model, copied(request))
    if type(model).predict_stream is not MLModel.predict_stream:
        _check_agreement(metadata, chunks)
        await check_leaving(model, request)
    elif same:
        assert len(chunks) == 1, f"{model!r} has {len(chunks)} answers to one streamed request"
        check_same("json", answer, "a stream", chunks[0])


async def _check_refusals(model: MLModel, request: InferenceRequest, unknown_output: bool) -> None:
    if unknown_output:
        asks_for_it = copied(request, outputs=[RequestOutput(name=_NOBODY)])
        await _check_refused(model, asks_for_it, "an output that it does not have")
    numeric = [at for at, one in enumerate(request.inputs) if one.datatype != "BYTES"]
    if numeric:
        await _check_refused(model, one_value_short(request, numeric[0]), "an input with one value too few")
    await predicted(model, copied(request))  # and it goes on serving


async def _check_refused(model: MLModel, request: InferenceRequest, what: str) -> None:
    try:
        await called(model, request)
    except MLServeError as error:
        assert 400 <= error.http_status < 500, f"{model!r}: {what} gave status {error.http_status}, not 4xx: {error}"
        return
    except Exception as error:
        raise AssertionError(f"{model!r}: {what} made it fail (500) instead of refusing (4xx): {error!r}") from error
    raise AssertionError(f"{model!r} answered a request with {what}")
