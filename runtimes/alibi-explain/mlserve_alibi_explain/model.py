"""AlibiExplainRuntime: answers requests with explanations of what another model says."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import numpy as np

from mlserve import MLModel
from mlserve.artifacts import local_artifact
from mlserve.codecs import StringCodec
from mlserve.errors import InferenceError, MLServeError, ModelError, ModelLoadError, ModelParametersMissing
from mlserve.extra import Extra
from mlserve.handlers import custom_handler
from mlserve.merging import may_merge
from mlserve.settings import ModelSettings
from mlserve.thread_limits import ThreadLimit
from mlserve.types import InferenceRequest, InferenceResponse
from mlserve_alibi_explain.arguments import arguments_of, as_alibi_has_it
from mlserve_alibi_explain.artifact import Maker, quieten, untouched
from mlserve_alibi_explain.bounds import check_cost, fitting
from mlserve_alibi_explain.graph import Graph
from mlserve_alibi_explain.kinds import kind_of
from mlserve_alibi_explain.remote import RemoteModel
from mlserve_alibi_explain.requests import check_shapes, instances_of
from mlserve_alibi_explain.turns import in_turn
from mlserve_alibi_explain.whitebox import read_model
from mlserve_alibi_explain.words import words_of

__all__ = ["AlibiExplainRuntime"]

_OUTPUT = "explanation"
_INFER_SECONDS = 60
# What an explainer raises for instances or arguments that it cannot take; shap checks by assert.
_INPUT_ERRORS = (ValueError, TypeError, IndexError, KeyError, AssertionError, ZeroDivisionError, NotImplementedError)


class AlibiExplainRuntime(MLModel):
    """An explainer: its explanations, as JSON, are the output.

    `parameters.extra` holds `explainer_type` and `infer_uri`, and may hold `infer_output`, `explainer_batch`,
    `init_parameters`, `explain_parameters`, `ssl_verify_path`, `infer_timeout`, `seed` and `threads`.

    An explanation runs in a thread; each time it asks the model, that call runs in the worker's event loop. So the
    model may live in this very worker.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        extra = Extra(settings)
        self._kind = kind_of(self.name, self._needed(extra, "explainer_type"))
        self._infer_uri = self._needed(extra, "infer_uri")
        self._infer_output = extra.text("infer_output")
        self._infer_seconds = extra.count("infer_timeout") or _INFER_SECONDS
        self._certificates = extra.text("ssl_verify_path")
        is_batch = extra.flag("explainer_batch")
        self._is_batch = self._kind.takes == "batch" or (self._kind.takes == "either" and is_batch)
        self._is_saved = extra.get("init_parameters") is None
        self._init_parameters = extra.mapping("init_parameters")
        self._defaults = {**self._kind.defaults, **self._in_settings(extra.mapping("explain_parameters"))}
        self._seed = _seed_of(extra)
        self._threads = ThreadLimit(extra.threads())
        self._maker: Maker | None = None
        self._graph: Graph | None = None
        self._predictor: Any = None
        self._explainer: Any = None

    def _needed(self, extra: Extra, key: str) -> str:
        value = extra.text(key)
        if not value:
            raise ModelParametersMissing(self.name, f"parameters.extra.{key} is not set")
        return value

    def _in_settings(self, given: dict[str, Any]) -> dict[str, Any]:
        try:
            return as_alibi_has_it(self._kind.class_name, given)
        except InferenceError as error:
            raise ModelLoadError(f"model '{self.name}': parameters.extra.{error}") from None

    async def load(self) -> bool:
        """Reads the explainer. A black-box one asks its model for the first time at the first request, since that
        model may be loaded after this one. ModelLoadError if it cannot be served."""
        if may_merge(self._settings):
            raise ModelLoadError(
                f"model '{self.name}': requests for explanations cannot be merged: each has arguments of its own, and "
                f"one explanation may be for all rows of a request. Leave max_batch_size and max_batch_time out"
            )
        place = self._place()
        if self._kind.is_blackbox:
            remote = (self._infer_uri, self._infer_output, self._infer_seconds, self._certificates)
            takes_texts = self._kind.class_name.startswith("Anchor")
            self._predictor = RemoteModel(self.name, *remote, takes_texts, self._kind.takes == "batch")
        quieten()
        await anyio.to_thread.run_sync(_import)
        self._threads.prepare()
        self._graph = Graph() if self._kind.is_graph else None
        folder, data = (place, None) if self._is_saved else (None, place)
        self._maker = Maker(self.name, self._kind, folder, self._init_parameters, data, self._graph)
        with self._threads.held():
            if self._kind.is_blackbox:
                self._maker.check()
            else:
                self._predictor = await read_model(self._settings, self._infer_uri)
                self._explainer = self._maker.make(self._predictor)
        return True

    def _place(self) -> Path | None:
        """The folder of a saved explainer, or the file of data that one is fitted to."""
        parameters = self._settings.parameters
        if self._is_saved:
            return Path(local_artifact(self._settings))
        if not self._kind.is_fitted_to_data or parameters is None or not parameters.uri:
            return None
        place = Path(local_artifact(self._settings))
        return None if place.is_dir() else place  # the model's own folder, where the settings name no file

    async def unload(self) -> bool:
        """Drops the explainer, and closes the connections to its model."""
        if self._graph is not None:
            self._graph.close()
        if isinstance(self._predictor, RemoteModel):
            await self._predictor.aclose()
        self._explainer = self._predictor = None
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """An explanation for each instance, or one for all. InferenceError for what cannot be explained."""
        unknown = [one.name for one in payload.outputs or () if one.name != _OUTPUT]
        if unknown:
            raise InferenceError(f"model '{self.name}' has no output '{unknown[0]}': it has {_OUTPUT}")
        texts = await self._explanations(payload)
        output = StringCodec.encode_output(_OUTPUT, texts)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])

    @custom_handler(rest_path="/explain")
    async def explain(self, payload: InferenceRequest) -> Any:
        """The explanation as a JSON document of its own; a list of them, if the request has several instances."""
        from starlette.responses import Response

        texts = await self._explanations(payload)
        text = texts[0] if len(texts) == 1 else f"[{','.join(texts)}]"
        return Response(text, media_type="application/json")

    async def _explanations(self, payload: InferenceRequest) -> list[str]:
        instances = instances_of(self, self._kind, self._is_batch, payload)
        arguments = arguments_of(self._kind.class_name, self._defaults, payload)
        return await in_turn(partial(self._explain, instances, arguments))

    def _explain(self, instances: list[Any], arguments: dict[str, Any]) -> list[str]:
        """In a thread. The caller leaves or its time is over: the question to the model then, or the next, ends it."""
        predictor = self._predictor
        predictor.failure = None
        with self._threads.held(), self._graph.entered() if self._graph is not None else nullcontext():
            try:
                if self._explainer is None:
                    assert self._maker is not None
                    self._explainer = self._maker.make(predictor)
                check_shapes(self, self._explainer, instances)
                for one in instances:
                    check_cost(self._explainer, one, arguments, self._defaults)
                given = [fitting(self._explainer, one, arguments) for one in instances]
                return [self._explain_one(one, own) for one, own in zip(instances, given, strict=True)]
            except Exception as error:
                if predictor.failure is not None:
                    raise predictor.failure from None
                if isinstance(error, MLServeError):
                    raise
                text = f"model '{self.name}': {self._kind.class_name} cannot explain this: {words_of(error)}"
                raise (InferenceError if _is_of_input(error) else ModelError)(text) from error

    def _explain_one(self, instance: Any, arguments: Mapping[str, Any]) -> str:
        if self._seed is not None:
            np.random.seed(self._seed)
            random.seed(self._seed)
        if self._kind.class_name == "IntegratedGradients" and "target" not in arguments:
            arguments = {**arguments, "target": np.asarray(self._predictor(instance)).argmax(axis=1)}
        with untouched(self._explainer):
            text: str = self._explainer.explain(instance, **arguments).to_json()
        return text


def _is_of_input(error: Exception) -> bool:
    return (
        isinstance(error, _INPUT_ERRORS) or type(error).__name__ == "ExplainerError"
    )  # shap's, imported by no one here


def _seed_of(extra: Extra) -> int | None:
    seed = extra.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32):
        raise extra.refusal("seed", "a whole number from 0 on")
    return seed


def _import() -> None:
    """It takes 12 to 25 seconds."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import alibi.explainers
        import alibi.saving  # noqa: F401
