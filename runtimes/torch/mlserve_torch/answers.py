"""What a model's `forward` gave as named arrays: a tensor, or several in a dict, tuple, list or dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from mlserve.errors import ModelError
from mlserve_torch.signature import datatype_of

__all__ = ["named_arrays"]

ONLY = "output"  # the name of the only output, where nothing else names it


def named_arrays(answer: Any, declared: list[str], model_name: str) -> dict[str, Any]:
    """Arrays by name: `declared` if there are as many, else the keys of a dict, fields, or output_0, output_1, ...

    What is None is left out. ModelError for what is no tensor.
    """
    named = dict(_named(answer))
    if len(named) == len(declared):
        named = dict(zip(declared, named.values()))
    return {name: _array(value, name, model_name) for name, value in named.items()}


def _named(answer: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(answer, Mapping):
        pairs = [(str(key), value) for key, value in answer.items()]
    elif dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        pairs = [(field.name, getattr(answer, field.name)) for field in dataclasses.fields(answer)]
    elif hasattr(answer, "_fields"):  # a named tuple
        pairs = list(zip(answer._fields, answer))
    elif isinstance(answer, tuple | list) and not _is_texts(answer):
        pairs = [(f"{ONLY}_{at}", value) for at, value in enumerate(answer)]
    else:
        pairs = [(ONLY, answer)]
    return ((name, value) for name, value in pairs if value is not None)


def _is_texts(answer: Any) -> bool:
    return bool(answer) and all(isinstance(one, str) for one in answer)


def _array(value: Any, name: str, model_name: str) -> Any:
    if isinstance(value, torch.Tensor):
        if datatype_of(value.dtype) is None:
            raise ModelError(f"model '{model_name}': output '{name}' is of {value.dtype}, which the protocol lacks")
        value = value.detach().cpu()
        return (value.float() if value.dtype is torch.bfloat16 else value).numpy()
    if isinstance(value, bool | int | float | str | np.ndarray | np.generic) or (
        isinstance(value, tuple | list) and _is_texts(value)
    ):
        return np.asarray(value, dtype=object if isinstance(value, tuple | list | str) else None)
    raise ModelError(f"model '{model_name}': output '{name}' is a {type(value).__name__}; tensors can be sent")
