"""MLflow's signature as model metadata: inputs or outputs with the content types that carry them."""

from __future__ import annotations

from typing import Any

import numpy as np
from mlflow.types import DataType, Schema, TensorSpec

from mlserve.codecs import to_datatype
from mlserve.errors import CodecError
from mlserve.types import Datatype, MetadataTensor, Parameters

__all__ = ["content_type_of", "metadata_of"]

_OF_COLUMNS = {
    DataType.string: (Datatype.BYTES, "str"),
    DataType.binary: (Datatype.BYTES, "base64"),
    DataType.datetime: (Datatype.BYTES, "datetime"),
}
_OBJECTS = (Datatype.BYTES, "pd_json")  # arrays, objects and maps: each row as its JSON text


def content_type_of(schema: Schema | None) -> str | None:
    """The content type of a whole request: `pd` for columns, `np` for one tensor, `dict` for tensors with names."""
    if schema is None or not schema.inputs:
        return None
    if not schema.is_tensor_spec():
        return "pd"
    return "dict" if schema.has_input_names() else "np"


def metadata_of(schema: Schema | None, unnamed: str, first: int) -> list[MetadataTensor]:
    """A tensor for each part of the schema; those without a name are called `unnamed` and a number from `first` on."""
    if schema is None:
        return []
    return [_tensor(spec, spec.name or f"{unnamed}-{at}") for at, spec in enumerate(schema.inputs, first)]


def _tensor(spec: Any, name: str) -> MetadataTensor:
    if isinstance(spec, TensorSpec):
        shape = [int(size) for size in spec.shape]
        datatype, content_type = _of_numpy(spec.type), "np"
    else:
        shape = [-1, 1]
        datatype, content_type = _of_column(spec.type)
    return MetadataTensor(
        name=str(name), datatype=datatype, shape=shape, parameters=Parameters(content_type=content_type)
    )


def _of_column(kind: Any) -> tuple[str, str]:
    if not isinstance(kind, DataType):
        return _OBJECTS
    return _OF_COLUMNS.get(kind) or (to_datatype(kind.to_numpy()), "np")


def _of_numpy(dtype: Any) -> str:
    try:
        return to_datatype(np.dtype(dtype))
    except CodecError:
        return Datatype.BYTES
