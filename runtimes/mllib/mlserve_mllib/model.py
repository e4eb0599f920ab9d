"""MLlibModel: answers requests with a model of Spark."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.ml.linalg import SparseVector
from pyspark.sql.functions import col

from mlserve import MLModel, spark_process
from mlserve.artifacts import local_artifact
from mlserve.codecs import NumpyCodec, PandasCodec
from mlserve.errors import InferenceError, ModelError
from mlserve.extra import Extra
from mlserve.merging import give_rows, members_of, rows_of
from mlserve.repeated import check_repeated
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput, RequestOutput, ResponseOutput
from mlserve.written_out import WrittenOut
from mlserve_mllib.artifact import Saved, load_saved, read_metadata
from mlserve_mllib.columns import PREDICTION, Columns
from mlserve_mllib.direct import Direct
from mlserve_mllib.errors import SPARK_ERRORS, reason_of
from mlserve_mllib.frames import arrange, values_of
from mlserve_mllib.rdds import RddModel
from mlserve_mllib.rows import Rows, counts_of
from mlserve_mllib.session import Wanted, is_alive, session_of, stop_using
from mlserve_mllib.signature import signature

__all__ = ["MLlibModel"]

_COLUMNS = (None, PandasCodec.ContentType, NumpyCodec.ContentType)  # content types whose tensors are columns


class MLlibModel(MLModel):
    """A PipelineModel or a single model of Spark ML, or a model of the older RDD-based MLlib.

    Each tensor is a column; a lone one is the column of vectors, or has a column of the model in each of its own.
    `parameters.extra` may hold `threads` and `memory` of Spark, more of its settings (`spark_conf`),
    `max_answer_numbers`, and `signature` (true: inputs and outputs that the settings leave empty are described from the
    model).
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._model: Any = None
        self._session: Any = None
        self._saved = Saved(Path(), "", None)
        self._wanted = Wanted(settings)
        self._columns = Columns({}, {}, None, [])
        self._written_out = WrittenOut(settings)
        self._direct: Direct | None = None
        self._rows: Rows | None = None
        self._rdds: RddModel | None = None

    async def load(self) -> bool:
        """Starts Spark if need be, and reads the folder. InvalidModelURI if there is none, ModelLoadError."""
        self._saved = read_metadata(local_artifact(self._settings), self.name)
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
                self._rdds = RddModel(self._model, self._session, self.name)
                self._columns = self._rdds.columns
            else:
                self._columns = Columns.of(self._model, self._session)
                self._direct = Direct(self._model, self._columns, self._session)
                self._rows = Rows(self._model, self._columns, self._session)
        except BaseException:
            self._give_back()
            raise

    async def unload(self) -> bool:
        """Drops the model, and ends Spark if no other model of this process uses it."""
        self._give_back()
        return True

    def _give_back(self) -> None:
        self._model = self._direct = self._rows = self._rdds = None
        self._session = None
        stop_using(self._wanted)

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]  # plain: it never waits
        """One output for each column that the request names, in its order; InferenceError where there is none."""
        check_repeated(payload.outputs or ())
        given = arrange(self._columns_of(payload), self._columns)
        names = [one.name for one in payload.outputs or ()] or self._columns.usual
        sent = [rows_of(one) for one in members_of(payload)] if len(members_of(payload)) > 1 else None
        call = partial(self._answer, given, list(dict.fromkeys(names)), sent)
        # A session that is gone must not be used: it would become pyspark's active one.
        try:
            values, counts = spark_process.call_again(self.name, is_alive(self._session), call, self._open)
        except SPARK_ERRORS as error:
            raise InferenceError(f"model '{self.name}' cannot use this input: {reason_of(error)}") from error
        asked = payload.outputs or [RequestOutput(name=name) for name in values]
        outputs = [self._encode(values[one.name], one) for one in asked]
        response = InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
        if counts is not None:
            give_rows(response, counts)
        return response

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

    def _answer(
        self, given: dict[str, Any], names: list[str], sent: list[int] | None
    ) -> tuple[dict[str, Any], list[int] | None]:
        """The outputs; and where several requests `sent` so many rows each, how many each gets, if that may differ."""
        if self._rdds is not None:
            return self._rdds.answer(given, names), None
        directly = self._direct.answer(given, names) if self._direct is not None and names else None
        return self._transform(given, names, sent) if directly is None else (directly, None)

    def _transform(
        self, given: dict[str, Any], names: list[str], sent: list[int] | None
    ) -> tuple[dict[str, Any], list[int] | None]:
        assert self._rows is not None
        transformed = self._rows.transform(given)
        if sent is not None and not transformed.is_by_row:
            raise self._refusal()
        names = names or [PREDICTION if PREDICTION in transformed.names else transformed.names[-1]]
        for name in names:
            if name not in transformed.names:
                raise InferenceError(
                    f"model '{self.name}' has no output '{name}': it has {', '.join(transformed.names)}"
                )
        number = [] if transformed.number is None else [transformed.number]
        chosen = transformed.frame.select(*(col(f"`{name}`") for name in [*names, *number]))
        kinds = [field.dataType for field in chosen.schema.fields[: len(names)]]
        collected = transformed.in_order(chosen.collect())
        if sent is not None and not number and len(collected) != sum(sent):
            raise self._refusal()
        columns = {name: [row[at] for row in collected] for at, name in enumerate(names)}
        for name, rows in columns.items():
            sparse = [len(one) for one in rows if isinstance(one, SparseVector)]
            self._written_out.check(name, len(sparse), max(sparse, default=0))
        values = {name: values_of(rows, kind) for (name, rows), kind in zip(columns.items(), kinds, strict=True)}
        return values, counts_of(collected, sent) if sent is not None and number else None

    def _refusal(self) -> ModelError:
        """Of several requests in one, which then run one by one."""
        return ModelError(f"model '{self.name}': which rows of its answer are whose cannot be told; ask one by one")
