"""The inputs and outputs of a model as model metadata: its file has the inputs, and asking it tells the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mlserve.tabular import column_tensors
from mlserve.types import Datatype, MetadataTensor, ResponseOutput
from mlserve_xgboost.inputs import InputCheck

__all__ = ["signature"]


def signature(
    check: InputCheck, names: Iterable[str], ask: Callable[[str, Any], list[ResponseOutput]]
) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
    """Inputs, and an output for each of these methods: its datatype and width hang on the objective and the targets."""
    row = np.zeros((1, check.count), np.float32)  # zeros are numbers of categories too
    answers = [one for name in names for one in ask(name, row)]
    outputs = [MetadataTensor(name=one.name, datatype=one.datatype, shape=[-1, *one.shape[1:]]) for one in answers]
    return column_tensors(check, Datatype.FP32, check.categorical - check.numbered), outputs
