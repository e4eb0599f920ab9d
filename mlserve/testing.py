"""For tests of runtimes and clients: a suite that every runtime should pass, and a server inside the test's process.

Public; docs/testing.md shows both. Needs no test framework.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import numpy as np
from anyio.from_thread import start_blocking_portal

from mlserve import execute
from mlserve.errors import MLServeError, ModelLoadError
from mlserve.loader import Loader, import_implementation
from mlserve.merging import merge, rows_of, split
from mlserve.model import MLModel
from mlserve.repository import ModelRepository, open_repository
from mlserve.server import Server
from mlserve.settings import ModelSettings, Settings, load_settings
from mlserve.tensors import TensorData
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    State,
)

__all__ = ["RunningServer", "check_runtime", "running_server"]

_FORMS = ("json", "raw", "contents")
_NOBODY = "no-model-has-an-output-of-this-name"
_BATCH_RTOL = 1e-6  # numerical libraries round differently for arrays of another size
_STOP_SECONDS = 60.0


# -- what every runtime should do --------------------------------------------------------------------------------------


def check_runtime(
    model: ModelSettings | type[MLModel],
    requests: InferenceRequest | Iterable[InferenceRequest],
    *,
    expected: Mapping[str, Any] | None = None,
    rtol: float = 0.0,
    unknown_output: bool = True,
    repeatable: bool = True,
    batches: bool = False,
) -> list[InferenceResponse]:
    """Puts a runtime through what the server asks of it; its answers to the requests, to look at further.

    The model loads and is ready; its metadata can be sent; each request gives the same tensors whether it came as
    JSON, as raw bytes, as typed contents or on a stream; wrong requests are refused with a 4xx; it can be unloaded
    and loaded again. AssertionError says what was expected and what came.

    `expected` has the framework's own values for outputs of the first request, within `rtol`: 0 is bit for bit.
    `unknown_output=False` is for runtimes that take no notice of the outputs asked for, `repeatable=False` for those
    whose answers vary; `batches=True` adds that two requests in one batch are answered as they are alone. Runs an
    event loop of its own: call it from a plain test, not from an async one.
    """
    settings = model if isinstance(model, ModelSettings) else ModelSettings(name="checked", implementation=model)
    asked = [requests] if isinstance(requests, InferenceRequest) else list(requests)
    assert asked, "check_runtime() needs a request that the model can answer"

    async def check() -> list[InferenceResponse]:
        loader = Loader()
        modules = loader.open(settings.source_dir)
        with loader.active(modules):
            implementation = import_implementation(settings.implementation, settings, settings.source_dir)
            model = await _loaded(implementation, settings)
        await _check_metadata(model, settings)
        answers = [await _check_ways(model, request, repeatable) for request in asked]
        _check_expected(answers[0], expected or {}, rtol)
        if batches:
            await _check_batch(model, asked[0], answers[0])
        await _check_refusals(model, asked[0], unknown_output)
        await _finish(model.unload())
        with loader.active(modules):
            again = await _loaded(implementation, settings)
        repeated = await _predicted(again, _copied(asked[0]))
        if repeatable:
            _check_same("before", answers[0], "after it was loaded again", repeated)
        await _finish(again.unload())
        loader.discard(modules)
        return answers

    return anyio.run(check)


async def _loaded(implementation: type[Any], settings: ModelSettings) -> MLModel:
    model = implementation(settings)
    assert isinstance(model, MLModel), f"{implementation.__name__} is no MLModel"
    outcome = await _finish(model.load())
    ready = model.ready if outcome is None else bool(outcome)
    assert ready is not False, f"{model!r} is not ready: load() gave {outcome!r}, self.ready is {model.ready!r}"
    assert model.name == settings.name, f"its name is {model.name!r}, its settings say {settings.name!r}"
    assert model.version == settings.version, f"its version is {model.version!r}, not {settings.version!r}"
    return model


async def _check_metadata(model: MLModel, settings: ModelSettings) -> None:
    metadata = await _finish(model.metadata())
    assert isinstance(metadata, MetadataModelResponse), f"metadata() gave {type(metadata).__name__}"
    sent = MetadataModelResponse.model_validate_json(metadata.model_dump_json())
    assert sent == metadata, f"metadata() does not survive the way over JSON: {metadata} became {sent}"
    assert metadata.name == settings.name, f"metadata() is of {metadata.name!r}, not of {settings.name!r}"


async def _check_ways(model: MLModel, request: InferenceRequest, repeatable: bool) -> InferenceResponse:
    """The answer to a request, after making sure that it does not hang on the way on which the request came."""
    first: tuple[str, InferenceResponse] | None = None
    for form in _FORMS:
        if form == "contents" and any(one.datatype == "FP16" for one in request.inputs):
            continue  # typed contents have no field for it
        response = await _predicted(model, _in_form(request, form))
        for output in response.outputs:
            _check_output(model, output)
        first = first or (form, response)
        if repeatable:
            _check_same(*first, form, response)
    assert first is not None
    streamed = await _streamed(model, _copied(request))
    if repeatable and type(model).predict_stream is MLModel.predict_stream:
        assert len(streamed) == 1, f"{model!r} has {len(streamed)} answers to one streamed request"
        _check_same(*first, "a stream", streamed[0])
    return first[1]


async def _streamed(model: MLModel, request: InferenceRequest) -> list[InferenceResponse]:
    async def only() -> AsyncIterator[InferenceRequest]:
        yield request

    answers = [response async for response in execute.stream(model, only())]
    assert answers, f"{model!r}: predict_stream gives nothing"
    return answers


def _check_expected(answer: InferenceResponse, expected: Mapping[str, Any], rtol: float) -> None:
    found = {output.name: output for output in answer.outputs}
    for name, wanted in expected.items():
        assert name in found, f"there is no output '{name}' among {list(found)}"
        values = found[name].data.to_numpy(found[name].datatype, found[name].shape).reshape(np.shape(wanted))
        exact = not rtol or values.dtype.kind not in "fc"
        same = np.array_equal(values, wanted) if exact else np.allclose(values, wanted, rtol, equal_nan=True)
        assert same, f"output '{name}': expected {wanted}, got {values}"


async def _check_batch(model: MLModel, request: InferenceRequest, alone: InferenceResponse) -> None:
    members = [_in_form(request, "raw"), _in_form(request, "raw")]
    wanted = {one.name: one.data.to_numpy(one.datatype, one.shape) for one in alone.outputs}
    try:
        for part in split(await _predicted(model, merge(members)), [rows_of(one) for one in members]):
            _check_expected(part, wanted, _BATCH_RTOL)
    except (AssertionError, MLServeError) as error:
        raise AssertionError(f"{model!r}, two requests in a batch: {error}") from error


async def _check_refusals(model: MLModel, request: InferenceRequest, unknown_output: bool) -> None:
    if unknown_output:
        asks_for_it = _copied(request, outputs=[RequestOutput(name=_NOBODY)])
        await _check_refused(model, asks_for_it, "an output that it does not have")
    numeric = [at for at, one in enumerate(request.inputs) if one.datatype != "BYTES"]
    if numeric:
        await _check_refused(model, _one_value_short(request, numeric[0]), "an input with one value too few")
    await _predicted(model, _copied(request))  # and it goes on serving


def _check_output(model: MLModel, output: ResponseOutput) -> None:
    """Whether an output can go out in each form that a client may ask for."""
    try:
        output.data.to_json(output.datatype)
        output.data.to_raw(output.datatype)
        if output.datatype != "BYTES":
            output.data.to_numpy(output.datatype, output.shape)
    except MLServeError as error:
        raise AssertionError(f"{model!r}, output '{output.name}' cannot be sent: {error}") from error


def _check_same(form: str, one: InferenceResponse, other_form: str, other: InferenceResponse) -> None:
    names, other_names = ([output.name for output in response.outputs] for response in (one, other))
    assert names == other_names, f"outputs are {names} over {form}, but {other_names} over {other_form}"
    for was, now in zip(one.outputs, other.outputs):
        for what in ("datatype", "shape"):
            before, after = getattr(was, what), getattr(now, what)
            assert before == after, f"output '{was.name}': {what} {before} over {form}, {after} over {other_form}"
        same = bytes(was.data.to_raw(was.datatype)) == bytes(now.data.to_raw(now.datatype))
        assert same, f"output '{was.name}': {was.data} over {form}, but {now.data} over {other_form}"


async def _check_refused(model: MLModel, request: InferenceRequest, what: str) -> None:
    try:
        await _predicted(model, request)
    except MLServeError as error:
        assert 400 <= error.http_status < 500, f"{model!r}: {what} gave status {error.http_status}, not 4xx: {error}"
        return
    except Exception as error:
        raise AssertionError(f"{model!r}: {what} made it fail (500) instead of refusing (4xx): {error!r}") from error
    raise AssertionError(f"{model!r} answered a request with {what}")


async def _predicted(model: MLModel, request: InferenceRequest) -> InferenceResponse:
    return execute.complete(model, request.id, await _finish(model.predict(request)))


async def _finish(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value


def _in_form(request: InferenceRequest, form: str) -> InferenceRequest:
    """The request as if its tensors had come over the wire in this form."""
    inputs = []
    for one in request.inputs:
        if form == "json":
            data = TensorData.from_json(bytes(one.data.to_json(one.datatype)))
        elif form == "raw":
            data = TensorData.from_raw(bytes(one.data.to_raw(one.datatype)), one.datatype, one.shape)
        else:
            data = TensorData.from_contents(one.data.to_contents(one.datatype), one.datatype, one.shape)
        inputs.append(_with_data(one, data))
    return _copied(request, inputs=inputs)


def _one_value_short(request: InferenceRequest, at: int) -> InferenceRequest:
    inputs = list(request.inputs)
    flat = inputs[at].data.to_numpy(inputs[at].datatype, inputs[at].shape).ravel()
    assert flat.size, f"input '{inputs[at].name}' has no values: give a request with some"
    inputs[at] = _with_data(inputs[at], TensorData(flat[:-1].tolist()))
    return _copied(request, inputs=inputs)


def _with_data(one: RequestInput, data: TensorData) -> RequestInput:
    parameters = deepcopy(one.parameters)
    return RequestInput(name=one.name, shape=list(one.shape), datatype=one.datatype, parameters=parameters, data=data)


def _copied(request: InferenceRequest, **changed: Any) -> InferenceRequest:
    """A request of its own, since models may note things in what they get."""
    inputs = changed.get("inputs") or [_with_data(one, deepcopy(one.data)) for one in request.inputs]
    outputs = changed.get("outputs", request.outputs)
    return InferenceRequest(
        id=request.id or "check", parameters=deepcopy(request.parameters), inputs=inputs, outputs=deepcopy(outputs)
    )


# -- a server inside the test's process --------------------------------------------------------------------------------


class RunningServer:
    """A server that `running_server` started."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def __repr__(self) -> str:
        return f"<RunningServer {self.rest} {self.grpc}>"

    @property
    def rest(self) -> str:
        """Where REST is, such as http://127.0.0.1:40123."""
        return f"http://{self._address('http')}"

    @property
    def grpc(self) -> str:
        """Where gRPC is, such as 127.0.0.1:40124."""
        return self._address("grpc")

    @property
    def metrics(self) -> str:
        """Where the metrics are, such as http://127.0.0.1:40125."""
        return f"http://{self._address('metrics')}"

    def infer(
        self, model: str, request: InferenceRequest, version: str | None = None, timeout_seconds: float = 30.0
    ) -> InferenceResponse:
        """One call over REST. MLServeError with the status and text of the server's refusal."""
        path = f"/v2/models/{model}/versions/{version}/infer" if version else f"/v2/models/{model}/infer"
        body = request.model_dump_json().encode()
        call = urllib.request.Request(f"{self.rest}{path}", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(call, timeout=timeout_seconds) as answer:
                return InferenceResponse.model_validate_json(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise MLServeError(json.load(error).get("error", ""), error.code) from None

    def _address(self, name: str) -> str:
        host, port = self.server.addresses[name]
        return f"{host}:{port}"


@contextmanager
def running_server(
    models: Path | str | ModelSettings | Iterable[ModelSettings], **settings: Any
) -> Iterator[RunningServer]:
    """A server for a folder of models, or for models given as settings, in a thread and on free ports.

    `settings` are server settings; models run in a thread (`parallel_workers: 0`) unless they say otherwise. Classes
    given as `implementation` must stand at the top of a module, since workers import them by name. StartupError if
    the server does not start, ModelLoadError if a model does not load. The end waits for calls under way.
    """
    given = {"host": "127.0.0.1", "http_port": 0, "grpc_port": 0, "metrics_port": 0, "parallel_workers": 0, **settings}
    server_settings, repository = _opened(models, given)
    with start_blocking_portal(server_settings.backend) as portal:
        try:
            ended, server = portal.start_task(_serve, server_settings, repository)
        except BaseException as error:
            raise _innermost(error) from None
        try:
            for model in server.models:
                if model.state is not State.READY:
                    raise ModelLoadError(f"model '{model.name}' is {model.state}: {model.reason}")
            yield RunningServer(server)
        finally:
            portal.call(server.stop)
            ended.result(_STOP_SECONDS)


async def _serve(settings: Settings, repository: ModelRepository, *, task_status: anyio.abc.TaskStatus[Server]) -> None:
    await Server(settings, repository).run(task_status=task_status)


class _GivenModels(ModelRepository):
    """Models that are given as settings instead of files."""

    def __init__(self, models: list[ModelSettings]) -> None:
        super().__init__(".")
        self._models = models

    def find(self, name: str) -> list[ModelSettings]:
        return [one for one in self._models if one.name == name]

    def list(self) -> list[ModelSettings]:
        return self._models


def _opened(models: Any, given: dict[str, Any]) -> tuple[Settings, ModelRepository]:
    if isinstance(models, str | Path):
        settings = load_settings(models, given)
        return settings, open_repository(models, settings)
    listed = [models] if isinstance(models, ModelSettings) else list(models)
    return load_settings(None, given), _GivenModels(listed)


def _innermost(error: BaseException) -> BaseException:
    """The one error in nested groups, where there is only one."""
    inner: Any = getattr(error, "exceptions", ())
    return _innermost(inner[0]) if len(inner) == 1 else error
