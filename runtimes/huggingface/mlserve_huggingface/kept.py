"""Whether a model keeps on itself what it generates a text from: others would go on from it, or spoil it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["Kept"]

_logger = logging.getLogger("mlserve.model")
_OF_ALL_MODULES = frozenset(vars(torch.nn.Module())) - {"_buffers"}


class Kept:
    """What the modules of a pipeline's model hold beside their weights: all of it as it was when they were loaded."""

    def __init__(self, name: str, pipeline: Any) -> None:
        model = getattr(pipeline, "model", None)
        self._name = name
        self._modules = dict(model.named_modules()) if isinstance(model, torch.nn.Module) else {}
        self._before = dict(self._held())
        self._has_changed = False

    def has_changed(self) -> bool:
        """Whether a text has ever been seen to change it, also before this call."""
        if not self._has_changed:
            where = self._first_change()
            if where is not None:
                self._has_changed = True
                words = "model '%s' keeps what it generates from on itself (%s): it generates one text after the other"
                _logger.warning(words, self._name, where.lstrip("."))
        return self._has_changed

    def _first_change(self) -> str | None:
        for place, module in self._modules.items():
            if "dynamic" in str(vars(module).get("rope_type", "")):
                return f"{place}.rope_type"  # in the middle of a text, positions begin to go by the longest there was
        now = dict(self._held())
        for where, (value, version) in now.items():
            before, version_before = self._before.get(where, (self, 0))
            if version != version_before or not _is_same(value, before):
                return where
        return next((where for where in self._before if where not in now), None)

    def _held(self) -> Iterator[tuple[str, tuple[Any, int]]]:
        """By its place, each value of a module, and of a list or dictionary of it, and how often it was changed.

        Not of positions, which other kinds than "dynamic" make anew for each token, nor functions.
        """
        for place, module in self._modules.items():
            attributes = vars(module)
            for name, value in attributes.items() if "rope_type" not in attributes else ():
                if name not in _OF_ALL_MODULES and not callable(value):
                    yield from _with_members(f"{place}.{name}", value)


def _with_members(where: str, value: Any) -> Iterator[tuple[str, tuple[Any, int]]]:
    yield where, (value, _version(value))
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield f"{where}.{key}", (member, _version(member))


def _version(value: Any) -> int:
    """How often a tensor was changed in place. Those that a forward pass makes do not count it: they are new ones."""
    return value._version if isinstance(value, torch.Tensor) and not value.is_inference() else 0


def _is_same(value: Any, before: Any) -> bool:
    return value is before or (isinstance(value, int | float | str) and bool(value == before))
