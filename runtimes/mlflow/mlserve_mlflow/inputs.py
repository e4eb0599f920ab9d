"""What a request's data must be like for a model: brings it into the form that the signature asks for, without loss.

MLflow checks the outcome; here is what it would refuse although nothing is wrong: a tensor for columns that have
names, whole numbers for a column of doubles, bytes for text, a lone tensor under another name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from mlflow.types import DataType, Schema

from mlserve.codecs import NumpyRequestCodec, PandasCodec, RequestCodec
from mlserve.codecs.decoded import get_content_type
from mlserve.datatypes import changed
from mlserve.errors import InferenceError
from mlserve.types import InferenceRequest, MetadataTensor, Parameters
from mlserve_mlflow.codecs import TensorDictCodec
from mlserve_mlflow.signature import content_type_of

__all__ = ["Inputs"]

_TRANSFORMERS = "mlflow.transformers"
_BATCH_HINT = "the requests of one batch"


class Inputs:
    """The data of requests, as one model wants it."""

    def __init__(self, metadata: Any) -> None:
        self._schema: Schema | None = metadata.get_input_schema()
        self._params: Any = metadata.get_params_schema()
        self._of_texts = _takes_texts(metadata, self._schema)
        self._typed = bool(getattr(metadata, "_is_signature_from_type_hint", bool)())  # `list[str]` and the like
        self.content_type = content_type_of(self._schema)
        self._names: list[str] = []  # of columns or tensors, where they have any
        if self._schema is not None and self._schema.has_input_names():
            self._names = [str(one) for one in self._schema.input_names()]

    def codec_for(self, request: InferenceRequest) -> type[RequestCodec]:
        """How to decode a request that names no content type."""
        if self.content_type == "pd":
            return NumpyRequestCodec if self._is_lone_tensor(request) else PandasCodec
        if self.content_type == "dict":
            return TensorDictCodec
        if self.content_type == "np" or len(request.inputs) == 1:
            return NumpyRequestCodec
        return PandasCodec

    def with_content_type(self, request: InferenceRequest, declared: Sequence[MetadataTensor]) -> InferenceRequest:
        """A request whose lone tensor, whatever its name, has the content type of the only one that is declared."""
        if len(declared) != 1 or len(request.inputs) != 1 or request.inputs[0].name == declared[0].name:
            return request
        only, content_type = request.inputs[0], get_content_type(declared[0])
        if only.datatype != declared[0].datatype or content_type is None or get_content_type(only) is not None:
            return request
        parameters = Parameters(**{**(only.parameters or {}), "content_type": content_type})
        return request.model_copy(update={"inputs": [only.model_copy(update={"parameters": parameters})]})

    def _is_lone_tensor(self, request: InferenceRequest) -> bool:
        """Whether a request for columns has them all in one tensor, under some name of its own."""
        if len(request.inputs) != 1:
            return False
        only = request.inputs[0]
        assert self._schema is not None
        return only.name not in self._names and only.shape[1:] == [len(self._schema.inputs)] and only.shape[1:] != [1]

    def fit(self, data: Any) -> Any:
        """Data as the signature has it. InferenceError if it cannot be, or not without loss."""
        if self.content_type == "pd":
            frame = self._frame(data)
            if self._of_texts and frame.shape[1] == 1:
                return _column(str(frame.columns[0]), frame.iloc[:, 0], DataType.string).tolist()
            return self._rows_for_hint(frame) if self._typed else self._columns(frame)
        if self.content_type == "np":
            return self._tensor(_only(data), 0)
        if self.content_type == "dict":
            return self._tensors(data)
        return data

    # -- columns ------------------------------------------------------------------------------------------------------

    def _frame(self, data: Any) -> pd.DataFrame:
        assert self._schema is not None
        count = len(self._schema.inputs)
        if isinstance(data, pd.DataFrame):
            return self._renamed(data)
        if isinstance(data, dict):
            return self._renamed(pd.DataFrame({name: _rows(value) for name, value in data.items()}))
        if isinstance(data, list | np.ndarray) and count == 1:
            return pd.DataFrame({self._names[0] if self._names else 0: _rows(data)})
        if isinstance(data, np.ndarray) and data.ndim == 2 and data.shape[1] == count:
            return pd.DataFrame(data, columns=self._names or None)
        got = f"a tensor of shape {list(data.shape)}" if isinstance(data, np.ndarray) else f"a {type(data).__name__}"
        told = f" {', '.join(self._names)}" if self._names else ""
        raise InferenceError(
            f"the model takes {count} columns{told}: as a tensor each (content type pd), or as one tensor of shape "
            f"[rows, {count}]; got {got}"
        )

    def _renamed(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A frame of the only column there is may have it under any name, as a lone tensor may."""
        if len(self._names) == 1 and frame.shape[1] == 1:
            return frame.set_axis(self._names, axis=1)
        return frame

    def _columns(self, frame: pd.DataFrame) -> pd.DataFrame:
        assert self._schema is not None
        made = {}
        for at, spec in enumerate(self._schema.inputs):
            label = spec.name if spec.name is not None else (frame.columns[at] if at < frame.shape[1] else None)
            if label is not None and label in frame.columns:
                made[label] = _column(str(label), frame[label], spec.type)
        return _assigned(frame, made)

    def _rows_for_hint(self, frame: pd.DataFrame) -> Any:
        """For a model whose signature comes from type hints: a list with one object a row."""
        assert self._schema is not None
        kind = self._schema.inputs[0].type
        if frame.shape[1] != 1:
            return frame  # MLflow makes a dict of each row
        values = _column(str(frame.columns[0]), frame.iloc[:, 0], kind).tolist()
        of_objects = not isinstance(kind, DataType) and hasattr(kind, "properties")
        return values if not of_objects or all(isinstance(one, dict) for one in values) else frame

    # -- tensors ------------------------------------------------------------------------------------------------------

    def _tensors(self, data: Any) -> dict[str, Any]:
        assert self._schema is not None
        if isinstance(data, pd.DataFrame):
            data = {str(name): data[name].to_numpy() for name in data.columns}
        if not isinstance(data, dict):
            data = {"": data}
        if len(self._names) == 1 and len(data) == 1:
            data = dict.fromkeys(self._names, next(iter(data.values())))
        missing = [name for name in self._names if name not in data]
        if missing:
            raise InferenceError(
                f"the model takes tensors {', '.join(self._names)}; missing: {', '.join(missing)}, "
                f"got: {', '.join(map(str, data)) or 'none'}"
            )
        return {name: self._tensor(data[name], at) for at, name in enumerate(self._names)}

    def _tensor(self, value: Any, at: int) -> np.ndarray[Any, Any]:
        assert self._schema is not None
        array = value if isinstance(value, np.ndarray) else np.asarray(value)
        wanted = np.dtype(self._schema.inputs[at].type)
        if wanted.kind == "U" and array.dtype.kind in "OS":
            texts = [_text(self._label(at), one) for one in array.ravel().tolist()]
            return np.array(texts, dtype=str).reshape(array.shape)
        return _exactly(self._label(at), array, wanted)

    def _label(self, at: int) -> str:
        return self._names[at] if self._names else f"input-{at}"

    # -- params -------------------------------------------------------------------------------------------------------

    def params(self, request: InferenceRequest) -> dict[str, Any] | None:
        """Values for the params of the signature, from the request's parameters; None if it has none of them.

        InferenceError for a batch whose requests differ in them: they are run one by one then.
        """
        if self._params is None or request.parameters is None:
            return None
        found = {}
        for spec in self._params.params:
            if spec.name in request.parameters:
                found[spec.name] = _one_value(spec, request.parameters[spec.name])
        return found or None


def _takes_texts(metadata: Any, schema: Schema | None) -> bool:
    """Whether it is a pipeline of transformers for texts, which would take the label of a column for an argument."""
    if metadata.flavors.get("python_function", {}).get("loader_module") != _TRANSFORMERS or schema is None:
        return False
    specs = schema.inputs
    return len(specs) == 1 and specs[0].name is None and specs[0].type == DataType.string


def _one_value(spec: Any, value: Any) -> Any:
    """The value of a param; of the list of values that a batch has, the one that is the same for all."""
    if not isinstance(value, list) or (spec.shape is not None and not any(_is_whole(one) for one in value)):
        return value
    if any(one != value[0] for one in value):
        raise InferenceError(f"{_BATCH_HINT} differ in '{spec.name}'")
    return value[0] if value else value


def _is_whole(value: Any) -> bool:
    """Whether a member of a list is itself the value of a param of one dimension, or the lack of it."""
    return value is None or isinstance(value, list)


def _only(data: Any) -> Any:
    """The lone tensor in whatever form it came."""
    if isinstance(data, pd.DataFrame):
        return data.to_numpy()
    if isinstance(data, dict):
        if len(data) != 1:
            raise InferenceError(f"the model takes one tensor, got {len(data)}: {', '.join(map(str, data))}")
        return next(iter(data.values()))
    return data


def _rows(value: Any) -> Any:
    """A tensor as a column: one entry a row, which is a list where the tensor has more than that."""
    array = value if isinstance(value, np.ndarray) else None
    if array is None:
        return value
    if array.ndim > 1 and array.size != array.shape[0]:
        return array.tolist()
    return array.reshape(-1)


def _assigned(frame: pd.DataFrame, columns: dict[Any, Any]) -> pd.DataFrame:
    frame = frame.copy(deep=False)
    for label, column in columns.items():
        frame[label] = column
    return frame


def _column(name: str, column: pd.Series[Any], kind: Any) -> Any:
    if not isinstance(kind, DataType):  # an array, an object, a map
        return column.map(lambda one: _from_json(name, one)) if column.dtype.kind in "OT" else column
    if kind == DataType.string:
        return column.map(lambda one: _text(name, one)) if column.dtype == object else column
    if kind == DataType.datetime:
        return _dates(name, column)
    if kind == DataType.binary or column.dtype.kind not in "biuf":
        return column
    return _exactly(name, column.to_numpy(), np.dtype(kind.to_numpy()))


def _dates(name: str, column: pd.Series[Any]) -> Any:
    try:
        dates = pd.to_datetime(column)
        return dates.dt.tz_convert("UTC").dt.tz_localize(None) if dates.dt.tz is not None else dates
    except (ValueError, TypeError, AttributeError) as error:
        raise InferenceError(f"input '{name}': the signature says datetime, but these are no dates: {error}") from error


def _text(name: str, value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InferenceError(f"input '{name}': the signature says text, but these bytes are no UTF-8") from error


def _from_json(name: str, value: Any) -> Any:
    """What a row's JSON text says; anything else as it is."""
    if not isinstance(value, str | bytes):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InferenceError(
            f"input '{name}': the signature wants JSON in each row, and {value!r:.40} is none"
        ) from error


def _exactly(name: str, array: np.ndarray[Any, Any], wanted: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Numbers of the wanted type. InferenceError if that changes one of them; what is no number stays as it is."""
    if array.dtype == wanted or array.dtype.kind not in "biuf" or wanted.kind not in "biuf":
        return array
    with np.errstate(all="ignore"):
        made = array.astype(wanted)
    wrong = changed(array, made)
    if wrong.any():
        first = array[wrong].ravel()[0]
        raise InferenceError(
            f"input '{name}': the signature says {wanted}, and {first} of {array.dtype} cannot be kept exactly in it"
        )
    return made
