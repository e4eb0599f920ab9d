"""What a model's `forward` gave as named arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mlserve.errors import ModelError
from mlserve_torch.nesting import is_texts, named_values
from mlserve_torch.signature import datatype_of

__all__ = ["named_arrays"]


def named_arrays(answer: Any, declared: list[str], model_name: str) -> dict[str, Any]:
    """Arrays by name: `declared` if there are as many, else as the answer has them. ModelError for what is no tensor,
    or for two of one name."""
    pairs = named_values(answer)
    if len(pairs) == len(declared):
        pairs = [(name, value) for name, (_, value) in zip(declared, pairs, strict=True)]
    found = {name: _array(value, name, model_name) for name, value in pairs}
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ModelError(f"model '{model_name}': it gives two outputs '{twice}'; name them in the settings' outputs")
    return found


def _array(value: Any, name: str, model_name: str) -> Any:
    if isinstance(value, torch.Tensor):
        if datatype_of(value.dtype) is None:
            raise ModelError(f"model '{model_name}': output '{name}' is of {value.dtype}, which the protocol lacks")
        if value.is_nested or value.layout is not torch.strided:
            kind = "nested" if value.is_nested else value.layout
            raise ModelError(
                f"model '{model_name}': output '{name}' is {kind}, which the protocol lacks; see to_dense()"
            )
        value = value.detach().cpu().resolve_neg()
        return (value.float() if value.dtype is torch.bfloat16 else value).numpy()
    if isinstance(value, bool | int | float | str | np.ndarray | np.generic) or (
        isinstance(value, tuple | list) and is_texts(value)
    ):
        return np.asarray(value, dtype=object if isinstance(value, tuple | list | str) else None)
    raise ModelError(f"model '{model_name}': output '{name}' is a {type(value).__name__}; tensors can be sent")
