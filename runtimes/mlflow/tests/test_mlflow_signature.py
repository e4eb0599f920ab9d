"""Outputs are declared in metadata as they are answered: by name, datatype, shape and content type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, Schema

from mlserve.codecs import PandasCodec
from mlserve.types import InferenceRequest

TABLE = pd.DataFrame({"a": [1.0, 2.0, 3.0]})
UNNAMED = Schema([ColSpec("double"), ColSpec("double")])


class Giving(mlflow.pyfunc.PythonModel):
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def predict(self, context, model_input, params=None):
        return self.answer


def outline(tensors: Any, rows: int) -> list[tuple[Any, ...]]:
    found = []
    for one in tensors:
        kind = one.parameters.content_type if one.parameters is not None else None
        found.append((one.name, one.datatype, [rows if size == -1 else size for size in one.shape], kind or "np"))
    return found


@pytest.mark.parametrize(
    ("answer", "schema", "rows"),
    [
        (1.5, None, 1),
        (np.float32(1.5), None, 1),
        (True, None, 1),
        ("whole", None, 1),
        ({"a": 1, "b": "x", "c": 0.5}, None, 1),
        (np.zeros((3, 2)), UNNAMED, 3),
        (np.zeros((3, 2)), None, 3),
        (pd.DataFrame(np.zeros((3, 2))), None, 3),  # whose columns are numbers
        ([{"a": 1, "b": "x"}] * 3, None, 3),
        ([1.0, 2.0, 3.0], None, 3),
    ],
    ids=repr,
)
def test_outputs_are_declared_as_they_are_answered(
    save: Any, load: Callable[..., Any], answer: Any, schema: Any, rows: int
) -> None:
    signature = infer_signature(TABLE, answer)
    if schema is not None:
        signature = ModelSignature(signature.inputs, schema)
    model = load(save(Giving(answer), signature))
    response = model.predict(InferenceRequest(inputs=PandasCodec.encode_outputs(TABLE)))
    assert outline(response.outputs, rows) == outline(anyio.run(model.metadata).outputs, rows)


def test_columns_of_several_types_without_names_stay_apart(save: Any, load: Callable[..., Any]) -> None:
    schema = Schema([ColSpec("double"), ColSpec("string")])
    model = load(save(Giving(None), ModelSignature(infer_signature(TABLE).inputs, schema)))
    outputs = anyio.run(model.metadata).outputs
    assert [(one.name, one.datatype) for one in outputs] == [("output-1", "FP64"), ("output-2", "BYTES")]
