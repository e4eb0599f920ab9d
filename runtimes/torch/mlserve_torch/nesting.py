"""Names for what a model's `forward` gives: a tensor, or dicts, tuples, lists and dataclasses of them, also nested."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["is_texts", "named_values"]

ONLY = "output"  # the name of the only output, where nothing else names it


def named_values(answer: Any) -> list[tuple[str, Any]]:
    """Names and values: keys of a dict, fields, or `output_0`, `output_1`, ...; below those, joined by `_`.

    What is None is left out.
    """
    return list(_named(answer, ""))


def _named(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    parts = _parts(value, name)
    if parts is not None:
        for inner, part in parts:
            yield from _named(part, inner)
    elif value is not None:
        yield name or ONLY, value


def _parts(value: Any, name: str) -> list[tuple[str, Any]] | None:
    """What a value is made of; None for a leaf."""
    start = f"{name}_" if name else ""
    if isinstance(value, Mapping):
        return [(f"{start}{key}", part) for key, part in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f"{start}{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)]
    if hasattr(value, "_fields"):  # a named tuple
        return [(f"{start}{field}", part) for field, part in zip(value._fields, value, strict=True)]
    if isinstance(value, tuple | list) and not is_texts(value):
        return [(f"{name or ONLY}_{at}", part) for at, part in enumerate(value)]
    return None


def is_texts(value: Any) -> bool:
    """Whether it is a list of texts, which is one output."""
    return bool(value) and all(isinstance(one, str) for one in value)
