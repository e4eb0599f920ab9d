"""The conformance suite: what a server expects of a runtime, tried on one model with one request."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlserve import execute
from mlserve.datatypes import BYTES
from mlserve.errors import CodecError, MLServeError
from mlserve.loader import import_implementation
from mlserve.merging import merge, rows_of, split
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.testing.forms import FORMS, can_carry, resent_output, resent_request, values_of
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    RequestOutput,
    ResponseOutput,
)

__all__ = ["check_runtime", "load_model"]

_BATCH_RTOL = 1e-6  # numerical libraries round differently for arrays of another size
_NO_SUCH_OUTPUT = "mlserve-testing-no-such-output"

Answer = dict[str, Any]


async def load_model(settings: ModelSettings, folder: Path | None = None) -> MLModel:
    """A model as a worker makes it: from settings that went through JSON, loaded and ready.

    Whatever constructing or loading raises comes out; AssertionError if the model refuses.
    """
    sent = ModelSettings.model_validate_json(settings.model_dump_json())
    sent.source_dir = folder if folder is not None else settings.source_dir
    sent.implementation = settings.implementation  # JSON has a class only by its name
    model: MLModel = import_implementation(settings.implementation, sent, sent.source_dir)(sent)
    outcome = await _finished(model.load())
    if outcome is not None:
        model.ready = bool(outcome)
    elif model.ready is None:
        model.ready = True
    assert model.ready, f"{model!r}: load() refused"
    return model


async def check_runtime(
    settings: ModelSettings,
    request: InferenceRequest,
    expected: Mapping[str, Any] | None = None,
    *,
    rtol: float = 0.0,
    deterministic: bool = True,
    selects_outputs: bool = True,
    batches: bool = True,
) -> None:
    """Loads the model twice and checks that it serves `request`, the way a server would ask it.

    `expected` has the framework's own answer for each output, which must come within `rtol`: 0 means bit for bit.
    Switch off what cannot hold for a runtime: `deterministic`, where the same request has other answers;
    `selects_outputs`, where `request.outputs` is no choice between outputs; `batches`, where an answer does not have a
    row for each row of its input. AssertionError says what is wrong.
    """
    model = await load_model(settings)
    await _check_metadata(model)
    answer = await _ask(model, _as_sent(request))
    if expected is not None:
        _check_equal(f"{model!r}: against the expected answer", answer, expected, rtol)
    await _check_forms(model, request, answer if deterministic else None, rtol)
    await _check_stream(model, request, answer if deterministic else None, rtol)
    if selects_outputs:
        await _check_selection(model, request, answer if deterministic else None, rtol)
    if batches and deterministic:
        await _check_batch(model, request, answer, rtol)
    await _check_refusals(model, request)
    await _finished(model.unload())
    again = await load_model(settings)
    repeated = await _ask(again, _as_sent(request))
    if deterministic:
        _check_equal(f"{again!r}: loaded again after unload", repeated, answer, rtol)
    await _finished(again.unload())


def _as_sent(request: InferenceRequest) -> InferenceRequest:
    """The request in the first form that can carry it."""
    return resent_request(request, next(form for form in FORMS if can_carry(request, form)))


async def _finished(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def _ask(model: MLModel, request: InferenceRequest) -> Answer:
    """The values of a model's answer, which is checked as a server relies on it."""
    response = execute.complete(model, request.id, await _finished(model.predict(request)))
    return _checked(model, response)


def _checked(model: MLModel, response: InferenceResponse) -> Answer:
    assert response.model_name == model.name, f"{model!r}: answers under the name '{response.model_name}'"
    assert response.model_version == model.version, f"{model!r}: answers as version {response.model_version!r}"
    answer: Answer = {}
    for output in response.outputs:
        values = values_of(output)
        assert output.name not in answer or np.array_equal(answer[output.name], values), (
            f"{model!r}: two outputs '{output.name}' with different values"
        )
        _check_output(model, output, values)
        answer[output.name] = values
    return answer


def _check_output(model: MLModel, output: ResponseOutput, values: Any) -> None:
    """An output can be sent in every form, and says the same in each."""
    where = f"{model!r}: output '{output.name}'"
    assert all(size >= 0 for size in output.shape), f"{where}: shape {output.shape} leaves a size open"
    assert list(values.shape) == list(output.shape) or output.datatype == BYTES, (
        f"{where}: shape {output.shape} does not hold its {values.size} values"
    )
    for form in FORMS:
        try:
            found = values_of(resent_output(output, form))
        except CodecError:
            assert not can_carry(output, form), f"{where}: cannot be sent as {form}"
            continue
        if form == "json" and values.dtype.kind == "f":
            found, values = _finite(found), _finite(values)  # JSON has null for NaN and the infinities
        _check_equal(f"{where}: sent as {form}", {"": found}, {"": values}, 0.0)


def _finite(values: Any) -> Any:
    return np.where(np.isfinite(values), values, np.nan)


async def _check_metadata(model: MLModel) -> None:
    metadata = await _finished(model.metadata())
    if not isinstance(metadata, MetadataModelResponse):
        metadata = MetadataModelResponse.model_validate(metadata)
    assert metadata.name == model.name, f"{model!r}: its metadata is of '{metadata.name}'"
    again = MetadataModelResponse.model_validate_json(metadata.model_dump_json())
    assert again.model_dump() == metadata.model_dump(), f"{model!r}: its metadata does not survive JSON"
    for tensor in [*(metadata.inputs or []), *(metadata.outputs or [])]:
        assert isinstance(tensor, MetadataTensor), f"{model!r}: {tensor!r} in its metadata is no MetadataTensor"


async def _check_forms(model: MLModel, request: InferenceRequest, answer: Answer | None, rtol: float) -> None:
    """The form that a tensor came in makes no difference, and the model leaves it as it was."""
    for form in FORMS:
        if not can_carry(request, form):
            continue
        sent = resent_request(request, form)
        before = [bytes(one.data.payload) for one in sent.inputs]
        found = await _ask(model, sent)
        if answer is not None:
            _check_equal(f"{model!r}: with input as {form}", found, answer, rtol)
        after = [bytes(one.data.payload) for one in sent.inputs]
        assert after == before, f"{model!r}: predict changes the data of its request (sent as {form})"


async def _check_stream(model: MLModel, request: InferenceRequest, answer: Answer | None, rtol: float) -> None:
    """Every model can be streamed; one that does not say how answers each request once."""

    async def requests() -> AsyncIterator[InferenceRequest]:
        yield _as_sent(request)

    answers = [_checked(model, response) async for response in execute.stream(model, requests())]
    assert answers, f"{model!r}: predict_stream gives nothing"
    if type(model).predict_stream is MLModel.predict_stream:
        assert len(answers) == 1, f"{model!r}: {len(answers)} answers to one streamed request"
        if answer is not None:
            _check_equal(f"{model!r}: streamed", answers[0], answer, rtol)


async def _check_selection(model: MLModel, request: InferenceRequest, answer: Answer | None, rtol: float) -> None:
    """Outputs come as they are asked for, by name and in order; unknown ones are refused."""
    asked = [one.name for one in request.outputs] if request.outputs else list(answer or [])
    for names in (asked[::-1], asked[:1]):
        sent = _as_sent(request)
        sent.outputs = [RequestOutput(name=name) for name in names]
        found = await _ask(model, sent)
        if answer is not None and set(asked) == set(answer):  # else an output stands for several
            assert list(found) == names, f"{model!r}: gives {list(found)} where {names} were asked for"
            _check_equal(f"{model!r}: asked for {names}", found, {name: answer[name] for name in names}, rtol)
    sent = _as_sent(request)
    sent.outputs = [RequestOutput(name=_NO_SUCH_OUTPUT)]
    await _check_refused(model, sent, "an output that the model does not have")


async def _check_batch(model: MLModel, request: InferenceRequest, answer: Answer, rtol: float) -> None:
    """Two requests in one batch have the answers that they have alone."""
    parts = [_as_sent(request), _as_sent(request)]
    response = await _finished(model.predict(merge(parts)))
    for part in split(response, [rows_of(one) for one in parts]):
        found = {one.name: values_of(one) for one in part.outputs}
        _check_equal(f"{model!r}: in a batch", found, answer, max(rtol, _BATCH_RTOL))


async def _check_refusals(model: MLModel, request: InferenceRequest) -> None:
    """What is wrong with a request is said as such, and the model goes on serving."""
    if request.inputs and request.inputs[0].datatype != BYTES:
        sent = _as_sent(request)
        sent.inputs[0].shape = [sent.inputs[0].shape[0] + 1, *sent.inputs[0].shape[1:]]
        await _check_refused(model, sent, "a tensor whose values do not fill its shape")
        await _ask(model, _as_sent(request))


async def _check_refused(model: MLModel, request: InferenceRequest, what: str) -> None:
    try:
        await _finished(model.predict(request))
    except MLServeError as error:
        assert 400 <= error.http_status < 500, f"{model!r}: {what} gives status {error.http_status}: {error}"
        return
    except Exception as error:
        raise AssertionError(f"{model!r}: {what} should be an MLServeError, got {error!r}") from error
    raise AssertionError(f"{model!r}: accepts {what}")


def _check_equal(where: str, found: Mapping[str, Any], wanted: Mapping[str, Any], rtol: float) -> None:
    """The same names, with the same values; of expected values the shape may lack sizes of one."""
    assert list(found) == list(wanted), f"{where}: outputs are {list(found)}, expected {list(wanted)}"
    for name, want in wanted.items():
        have, want = np.asarray(found[name]), _flat(want)
        assert have.size == want.size, f"{where}: '{name}' has {have.size} values, expected {want.size}"
        have = _flat(have)
        if have.dtype.kind in "biufc" and want.dtype.kind in "biufc":
            same = np.isclose(have, want, rtol=rtol, atol=rtol * 1e-3, equal_nan=True)
        else:
            same = np.array([_text(one) == _text(other) for one, other in zip(have, want, strict=True)], dtype=bool)
        if not same.all():
            at = int(np.flatnonzero(~same)[0])
            raise AssertionError(f"{where}: '{name}'[{at}] is {have[at]!r}, expected {want[at]!r}")


def _flat(values: Any) -> Any:
    return np.asarray(values).ravel()


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
