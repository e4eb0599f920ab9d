"""The validators of pydantic in subclasses of our types: around the conversion of a field, or of the whole object.

What pydantic decorates stays in the class with its mode and its fields; a class of its own would read it there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from mlserve.types.validation import ValidationError

__all__ = ["Validator", "of_field", "validators_in"]

_KINDS = ("FieldValidatorDecoratorInfo", "ValidatorDecoratorInfo", "ModelValidatorDecoratorInfo")
Make = Callable[[Any], Any]


@dataclass(frozen=True)
class Validator:
    """One validator as it was written: for these fields, or for the whole object if there are none."""

    fields: tuple[str, ...]
    mode: str
    function: Any

    def around(self, make: Make, cls: type[Any], name: str, values: Mapping[str, Any]) -> Make:
        """The conversion of a field with this validator before it, after it, around it or in its stead."""
        told = SimpleNamespace(field_name=name, data=values, context=None, config=None, mode="python")
        modes: dict[str, Make] = {
            "before": lambda value: make(self.call(cls, value, told=told)),
            "after": lambda value: self.call(cls, make(value), told=told),
            "wrap": lambda value: self.call(cls, value, make, told=told),
            "plain": lambda value: self.call(cls, value, told=told),
        }
        return modes[self.mode]

    def call(self, cls: type[Any], value: Any, *more: Any, told: Any = None) -> Any:
        """What the function gives for a value. ValidationError if it raises ValueError or AssertionError."""
        bound = self.function.__get__(None, cls)
        given = (value, *more)
        takes = inspect.signature(bound).parameters.values()
        if len([one for one in takes if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]) > len(given):
            given = (*given, told)
        try:
            return bound(*given)
        except AssertionError as error:
            raise ValidationError.one("", (), f"Assertion failed, {error}", value, "assertion_error") from None
        except ValueError as error:
            if hasattr(error, "errors"):
                raise
            raise ValidationError.one("", (), f"Value error, {error}", value) from None


def validators_in(namespace: Mapping[str, Any]) -> list[Validator]:
    """The validators of a class by its namespace. TypeError for a kind that does not run here."""
    found = []
    for name, value in namespace.items():
        info = getattr(value, "decorator_info", None)
        kind = type(info).__name__
        if info is None or "Validator" not in kind:
            continue
        fields = tuple(getattr(info, "fields", ()))
        if kind not in _KINDS or (not fields and info.mode not in ("before", "after")):
            raise TypeError(
                f"{name}: of pydantic's validators field_validator and model_validator run here, the second "
                "before or after"
            )
        found.append(Validator(fields, info.mode, value.wrapped))
    return found


def of_field(validators: Iterable[Validator], name: str) -> tuple[Validator, ...]:
    """Those of one field, in the order in which they were written."""
    return tuple(one for one in validators if name in one.fields or "*" in one.fields)
