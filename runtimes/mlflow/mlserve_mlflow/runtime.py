"""MLflowRuntime: answers requests with any model that MLflow saved, over the protocol and as MLflow's own server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import anyio.lowlevel
from mlflow.exceptions import MlflowException
from starlette.requests import Request
from starlette.responses import Response

from mlserve import MLModel, spark_process
from mlserve.artifacts import get_model_uri
from mlserve.by_rows import ByRows
from mlserve.errors import InferenceError, ModelError
from mlserve.extra import Extra
from mlserve.handlers import custom_handler
from mlserve.held_folders import held_folder
from mlserve.merging import may_merge, members_of
from mlserve.settings import ModelSettings, is_address
from mlserve.types import InferenceRequest, InferenceResponse, MetadataModelResponse, Parameters
from mlserve.written_out import WrittenOut
from mlserve_mlflow import scoring
from mlserve_mlflow.artifact import SavedModel, fetch
from mlserve_mlflow.errors import from_mlflow, is_about_input, words_of
from mlserve_mlflow.inputs import Inputs
from mlserve_mlflow.outputs import encode_prediction
from mlserve_mlflow.signature import inputs_of, outputs_of
from mlserve_mlflow.threads import Threads

__all__ = ["MLflowRuntime"]

_logger = logging.getLogger("mlserve_mlflow")
_END: Any = object()
_ONNX = "mlflow.onnx"
_SPARK = "mlflow.spark"


class MLflowRuntime(MLModel):
    """A model of any flavour that MLflow can load as a Python function.

    Input is what the model's signature says; without one, a lone tensor is an array and several are a DataFrame.
    `parameters.extra` may hold `model_config` (a dict for the model), `threads`, `max_answer_numbers` of sparse answers
    and `invocations` (true: this model answers `/invocations` where there are several).
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._model: Any = None
        self._inputs: Any = None
        self._threads = Threads(None)
        self._is_code = self._is_spark = False
        self._place = ""  # the folder that it was loaded from
        self._java: object = None  # the Java process that a model of Spark lives in
        self._fetched = ExitStack()  # the folder of a model that came from elsewhere
        self._rows = ByRows(self.name, is_extended=type(self).predict is not MLflowRuntime.predict)
        self._written_out = WrittenOut(settings)

    async def load(self) -> bool:
        """Loads the folder, or what an address names. InvalidModelURI, ModelLoadError if MLflow cannot load it."""
        extra = Extra(self._settings)
        self._threads = Threads(extra.threads())
        if extra.get("invocations") is not None:
            extra.flag("invocations")  # the server reads it; only true and false will do
        place = await get_model_uri(self._settings)
        try:
            if is_address(place):
                folder = self._fetched.enter_context(held_folder("mlserve-mlflow-"))
                place = fetch(place, folder, self.name)
            self._open(place)
        except BaseException:
            self._fetched.close()
            raise
        if self._is_spark and may_merge(self._settings):
            _logger.warning(
                "model '%s': the rows of Spark that MLflow hands on have no order, so requests for it run one by one: "
                "leave max_batch_size and max_batch_time out, or serve its folder sparkml with implementation 'mllib'",
                self.name,
            )
        metadata = self._model.metadata
        self._inputs = Inputs(metadata)
        self._threads.apply(self._model, self.name)
        self.inputs = self.inputs or inputs_of(metadata.get_input_schema())
        self.outputs = self.outputs or outputs_of(metadata.get_output_schema(), self._names_of_outputs())
        return True

    def _open(self, place: str) -> None:
        """Loads the folder. Spark, where it or its code needs that, runs on until this model is unloaded."""
        saved = SavedModel(place, self.name)
        self._is_spark = is_spark = saved.loader == _SPARK
        self._is_code = saved.is_code  # which may start Spark as well
        if is_spark or self._is_code:
            spark_process.use(self, is_sure=is_spark)
        try:
            self._model = saved.load(Extra(self._settings).mapping("model_config"))
        except BaseException:
            spark_process.leave(self)
            raise
        if self._is_code and spark_process.running() is None:
            spark_process.leave(self)
        self._place = place
        self._java = spark_process.running() if is_spark else None

    def _predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        """MLflow's predict; of a model of Spark whose Java process is gone, by the model loaded again."""
        if self._java is None:
            return self._model.predict(data, params=params)
        is_there = self._java is spark_process.running()
        return spark_process.call_again(
            self.name, is_there, lambda: self._model.predict(data, params=params), partial(self._open, self._place)
        )

    def _names_of_outputs(self) -> list[str]:
        """An ONNX graph's own names, under which MLflow gives its outputs; none of another flavour."""
        if self._model.loader_module != _ONNX:
            return []
        return [str(one.name) for one in self._model.get_raw_model().get_outputs()]

    async def unload(self) -> bool:
        """Drops the model, and what was fetched for it."""
        self._model = self._inputs = None
        spark_process.leave(self)
        self._fetched.close()
        return True

    async def metadata(self) -> MetadataModelResponse:
        """Inputs and outputs from the signature, and the content type for a whole request."""
        described = await super().metadata()
        own = self._settings.parameters.content_type if self._settings.parameters is not None else None
        described.parameters = Parameters(content_type=own or self._inputs.content_type)
        return described

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]  # plain: it never waits
        """What the model predicts, as outputs. InferenceError for input that its signature does not allow."""
        if self._is_spark and len(members_of(payload)) > 1:
            raise ModelError(f"model '{self.name}': rows of Spark have no order, so requests for it run one by one")
        return self._rows.answer(payload, self._answer)

    def _answer(self, payload: InferenceRequest) -> InferenceResponse:
        data, params = self._data_of(payload)
        return self._response(self._call(self._predict, data, params), payload)

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        """What the model's own predict_stream gives, chunk by chunk; else one answer a request."""
        streams = self._model.metadata.flavors["python_function"].get("streamable", False)
        async for payload in payloads:
            if not streams:
                yield self.predict(payload)
                continue
            chunks = self._call(self._model.predict_stream, *self._data_of(payload))
            with closing(chunks):
                while (chunk := self._call(next, chunks, _END)) is not _END:
                    yield self._response(chunk, payload)
                    await anyio.lowlevel.checkpoint()  # the generator is a plain one: others get their turn here

    # -- MLflow's scoring protocol ------------------------------------------------------------------------------------

    @custom_handler("/invocations", claimed_by="invocations", error_codes=scoring.ERROR_CODES)
    async def invocations(self, request: Request) -> Response:
        """One request of MLflow's scoring protocol."""
        content_type = request.headers.get("content-type", "")
        model = scoring.Watched(self._predict, self._model.metadata, self._threads.limit)
        return scoring.invoke(model, await request.body(), content_type)

    @custom_handler("/ping", "GET", fixed=True, error_codes=scoring.ERROR_CODES)
    def ping(self) -> Response:
        """Whether the server is there."""
        return scoring.ping()

    @custom_handler("/health", "GET", fixed=True, error_codes=scoring.ERROR_CODES)
    def health(self) -> Response:
        """The same."""
        return scoring.ping()

    @custom_handler("/version", "GET", fixed=True, error_codes=scoring.ERROR_CODES)
    def mlflow_version(self) -> Response:
        """The version of MLflow."""
        return scoring.version()

    # -- one call -----------------------------------------------------------------------------------------------------

    def _data_of(self, payload: InferenceRequest) -> tuple[Any, dict[str, Any] | None]:
        params = self._inputs.params(payload)
        payload = self._inputs.with_content_type(payload, self.inputs)
        return self._inputs.fit(self.decode_request(payload, default_codec=self._inputs.codec_for(payload))), params

    def _call(self, method: Any, *args: Any) -> Any:
        try:
            with self._threads.limit():
                return method(*args)
        except MlflowException as error:
            raise from_mlflow(error) from error
        except Exception as error:
            if self._is_code or not is_about_input(error, self._model.loader_module):
                raise  # somebody's own code: a mistake in it is not the client's
            raise InferenceError(f"model '{self.name}' cannot use this input: {words_of(error)}") from error

    def _response(self, prediction: Any, payload: InferenceRequest) -> InferenceResponse:
        content_type, outputs = encode_prediction(prediction, payload.outputs, self.outputs, self._written_out)
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            parameters=Parameters(content_type=content_type),
            outputs=outputs,
        )
