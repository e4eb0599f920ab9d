"""The columns of a model as model metadata."""

from __future__ import annotations

from pyspark.ml.linalg import VectorUDT
from pyspark.sql.types import ArrayType, BooleanType, DataType, NumericType, StringType

from mlserve.types import Datatype, MetadataTensor, Parameters
from mlserve_mllib.columns import Columns

__all__ = ["signature"]

_NUMBERS = {
    "byte": Datatype.INT8,
    "short": Datatype.INT16,
    "integer": Datatype.INT32,
    "long": Datatype.INT64,
    "float": Datatype.FP32,
    "boolean": Datatype.BOOL,
}


def signature(columns: Columns) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
    """Inputs and outputs, the usual output first; what is not known is left out."""
    inputs = [_tensor(name, kind, columns.width) for name, kind in (columns.taken or {}).items()]
    usual = [name for name in columns.usual if name in columns.given]
    names = [*usual, *(name for name in columns.given if name not in usual)]
    return inputs, [_tensor(name, columns.given[name], None) for name in names]


def _tensor(name: str, kind: DataType, width: int | None) -> MetadataTensor:
    if isinstance(kind, VectorUDT):
        return MetadataTensor(name=name, datatype=Datatype.FP64, shape=[-1, width or -1])
    if isinstance(kind, NumericType | BooleanType):
        return MetadataTensor(name=name, datatype=_NUMBERS.get(kind.typeName(), Datatype.FP64), shape=[-1, 1])
    content_type = "str" if isinstance(kind, StringType) else "pd_json" if isinstance(kind, ArrayType) else None
    parameters = Parameters(content_type=content_type) if content_type else None
    return MetadataTensor(name=name, datatype=Datatype.BYTES, shape=[-1, 1], parameters=parameters)
