"""MLlibModel: answers requests with a model of Spark."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.ml.linalg import DenseVector, VectorUDT
from pyspark.mllib.linalg import Vectors as RddVectors
from pyspark.sql.functions import col
from pyspark.sql.types import DataType

from mlserve import MLModel
from mlserve.artifacts import get_model_uri
from mlserve.codecs import NumpyCodec, PandasCodec
from mlserve.errors import InferenceError, ModelError
from mlserve.extra import Extra
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput, RequestOutput, ResponseOutput
from mlserve_mllib.artifact import Saved, load_saved, read_metadata
from mlserve_mllib.columns import FEATURES, Columns, stages_of
from mlserve_mllib.errors import SPARK_ERRORS, reason_of
from mlserve_mllib.frames import arrange, frame_of, values_of
from mlserve_mllib.session import Wanted, is_alive, session_of, stop_using
from mlserve_mllib.signature import signature

__all__ = ["MLlibModel"]

_logger = logging.getLogger("mlserve_mllib")

_DIRECT_ROWS = 64  # up to here, asking a model row by row is faster than a job of Spark
_DIRECT = {"predictionCol": "predict", "probabilityCol": "predictProbability", "rawPredictionCol": "predictRaw"}
_COLUMNS = (None, PandasCodec.ContentType, NumpyCodec.ContentType)  # content types whose tensors are columns


class MLlibModel(MLModel):
    """A PipelineModel or a single model of Spark ML, or a model of the older RDD-based MLlib.

    Each tensor is a column; a lone one is the column of vectors, or has a column of the model in each of its own.
    `parameters.extra` may hold `threads` and `memory` of Spark, more of its settings (`spark_conf`), and `signature`
    (true: inputs and outputs that the settings leave empty are described from the model).
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._model: Any = None
        self._session: Any = None
        self._saved = Saved(Path(), "", None)
        self._wanted = Wanted(settings)
        self._columns = Columns({}, {}, None)
        self._direct: dict[str, Callable[[Any], Any]] = {}

    async def load(self) -> bool:
        """Starts Spark if need be, and reads the folder. InvalidModelURI if there is none, ModelLoadError."""
        self._saved = read_metadata(await get_model_uri(self._settings), self.name)
        self._open()
        if Extra(self._settings).flag("signature"):
            inputs, outputs = signature(self._columns)
            self.inputs = self.inputs or inputs
            self.outputs = self.outputs or outputs
        return True

    def _open(self) -> None:
        self._session = session_of(self._wanted)
        try:
            self._model = load_saved(self._saved, self._session, self.name)
            if self._saved.of_rdds:
                self._direct = {"prediction": lambda row: self._model.predict(RddVectors.dense(row))}
                self._columns = Columns({FEATURES: VectorUDT()}, {}, getattr(self._model, "numFeatures", None))
            else:
                self._columns = Columns.of(self._model, self._session)
                self._direct = _direct_of(self._model, self._columns)
        except BaseException:
            self._give_back()
            raise

    async def unload(self) -> bool:
        """Drops the model, and ends Spark if no other model of this process uses it."""
        self._give_back()
        return True

    def _give_back(self) -> None:
        self._model, self._direct = None, {}
        session, self._session = self._session, None
        stop_using(session)

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]  # plain: it never waits
        """One output for each column that the request names, in its order; InferenceError where there is none."""
        given = arrange(self._columns_of(payload), self._columns)
        names = [one.name for one in payload.outputs or ()] or self._usual
        try:
            values = self._answer_or_recover(given, list(dict.fromkeys(names)))
        except SPARK_ERRORS as error:
            if not is_alive(self._session):
                raise ModelError(f"model '{self.name}': Spark's Java process ended: {reason_of(error)}") from error
            raise InferenceError(f"model '{self.name}' cannot use this input: {reason_of(error)}") from error
        asked = payload.outputs or [RequestOutput(name=name) for name in names]
        outputs = [self._encode(values[one.name], one) for one in asked]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)

    def _answer_or_recover(self, given: dict[str, Any], names: list[str]) -> dict[str, Any]:
        """The answer; where the Java process is gone, such as for lack of memory, by a new one."""
        if is_alive(self._session):  # a session that is gone must not be used: it would become pyspark's active one
            try:
                return self._answer(given, names)
            except SPARK_ERRORS:
                if is_alive(self._session):
                    raise
        _logger.warning("model '%s': the Java process of Spark is gone; it is started again", self.name)
        self._open()
        return self._answer(given, names)

    # -- in and out ---------------------------------------------------------------------------------------------------

    def _columns_of(self, payload: InferenceRequest) -> dict[str, Any]:
        content_type = payload.parameters.content_type if payload.parameters is not None else None
        if content_type is None and self._settings.parameters is not None:
            content_type = self._settings.parameters.content_type
        if content_type in _COLUMNS:
            columns = {one.name: self._column_of(one) for one in payload.inputs}
            if len(columns) < len(payload.inputs):
                raise InferenceError("two inputs have the same name")
            return columns
        decoded = self.decode_request(payload)
        if isinstance(decoded, InferenceRequest):
            raise InferenceError(f"there is no content type '{content_type}'")
        if isinstance(decoded, dict):
            return decoded
        pandas = sys.modules.get("pandas")
        if pandas is not None and isinstance(decoded, pandas.DataFrame):
            return {str(name): decoded[name].to_numpy() for name in decoded.columns}
        return {payload.inputs[0].name: decoded}

    def _column_of(self, one: RequestInput) -> Any:
        if one.parameters is not None and one.parameters.content_type == PandasCodec.JsonContentType:
            return PandasCodec.decode_request(InferenceRequest(inputs=[one]))[one.name].tolist()
        return self.decode(one, default_codec=NumpyCodec)

    def _encode(self, value: Any, asked: RequestOutput) -> ResponseOutput:
        named = asked.parameters is not None and asked.parameters.content_type is not None
        if named or isinstance(value, np.ndarray):
            return self.encode(value, asked, default_codec=NumpyCodec)
        import pandas as pd

        return PandasCodec.encode_outputs(pd.Series(value, dtype=object).to_frame(asked.name))[0]

    # -- the answer ---------------------------------------------------------------------------------------------------

    @property
    def _usual(self) -> list[str]:
        return self._columns.usual or ["prediction"]

    def _answer(self, given: dict[str, Any], names: list[str]) -> dict[str, Any]:
        rows = next(iter(given.values()))
        is_rdd = self._saved.of_rdds
        if self._direct.keys() >= set(names) and _are_vectors(rows) and (is_rdd or len(rows) <= _DIRECT_ROWS):
            return {name: self._ask_directly(name, rows) for name in names}
        if is_rdd:
            other = [name for name in names if name not in self._direct]
            if other:
                raise InferenceError(f"model '{self.name}' has no output '{other[0]}': it gives prediction")
            raise InferenceError(f"model '{self.name}' takes a tensor of numbers of shape [rows, size]")
        frame = self._model.transform(frame_of(given, self._columns, self._session))
        for name in names:
            if name not in frame.columns:
                raise InferenceError(f"model '{self.name}' has no output '{name}': it has {', '.join(frame.columns)}")
        chosen = frame.select(*(col(f"`{name}`") for name in names))
        kinds = [field.dataType for field in chosen.schema.fields]
        collected = chosen.collect()
        return {
            name: values_of([row[at] for row in collected], kind)
            for at, (name, kind) in enumerate(zip(names, kinds, strict=True))
        }

    def _ask_directly(self, name: str, rows: Any) -> Any:
        method = self._direct[name]
        found = [method(DenseVector(row)) for row in np.asarray(rows, np.float64).reshape(len(rows), -1)]
        kind: DataType | None = self._columns.given.get(name)
        return np.asarray(found) if kind is None else values_of(found, kind)


def _direct_of(model: Any, columns: Columns) -> dict[str, Callable[[Any], Any]]:
    """By output, the methods of a lone stage that answer for one vector without a job of Spark."""
    stages = stages_of(model)
    taken = columns.taken or {}
    if len(stages) != 1 or len(taken) != 1 or not isinstance(next(iter(taken.values())), VectorUDT):
        return {}
    stage = stages[0]
    found = {}
    for param, name in _DIRECT.items():
        method = getattr(stage, name, None)
        if method is not None and stage.hasParam(param):
            found[stage.getOrDefault(param)] = method
    return found


def _are_vectors(rows: Any) -> bool:
    return isinstance(rows, np.ndarray) and rows.dtype.kind in "biuf" and rows.ndim <= 2 and len(rows) > 0
