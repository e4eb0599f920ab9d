"""MLflow's signature as model metadata: inputs or outputs with the content types that carry them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mlflow.types import DataType, Schema, TensorSpec

from mlserve.codecs import to_datatype
from mlserve.errors import CodecError
from mlserve.types import Datatype, MetadataTensor, Parameters

__all__ = ["content_type_of", "inputs_of", "outputs_of"]

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


def inputs_of(schema: Schema | None) -> list[MetadataTensor]:
    """A tensor for each part of the schema; those without a name are `input-0` and so on."""
    return (
        [] if schema is None else [_tensor(spec, spec.name or f"input-{at}") for at, spec in enumerate(schema.inputs)]
    )


def outputs_of(schema: Schema | None, names: Sequence[str]) -> list[MetadataTensor]:
    """A tensor for each part of the schema, as answers have it: `[rows]` is sent as `[rows, 1]`.

    Several columns without a name, numbers of one type, are one array: nothing else is answered without names.

    `names` are those that the model itself has for its outputs; without them, they are `output-1` and so on.
    """
    specs = [] if schema is None else schema.inputs
    if _is_one_array(specs):
        datatype, content_type = _of_column(specs[0].type)
        parameters = Parameters(content_type=content_type)
        return [MetadataTensor(name="output-1", datatype=datatype, shape=[-1, len(specs)], parameters=parameters)]
    own = names if len(names) == len(specs) else [f"output-{at}" for at in range(1, len(specs) + 1)]
    tensors = [_tensor(spec, name if spec.name is None else spec.name) for spec, name in zip(specs, own, strict=True)]
    for one in tensors:
        one.shape = one.shape if len(one.shape) > 1 else [*one.shape, 1]
    return tensors


def _is_one_array(specs: Sequence[Any]) -> bool:
    if len(specs) < 2 or any(isinstance(spec, TensorSpec) or spec.name is not None for spec in specs):
        return False
    return _of_column(specs[0].type)[1] == "np" and all(spec.type == specs[0].type for spec in specs)


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
