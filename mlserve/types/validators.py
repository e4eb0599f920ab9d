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

__all__ = ["Validator", "of_field", "validators_of"]

_KINDS = ("FieldValidatorDecoratorInfo", "ValidatorDecoratorInfo", "ModelValidatorDecoratorInfo")
_DECORATED = "PydanticDescriptorProxy"
_INSTEAD = {
    "ComputedFieldInfo": "a computed_field does not run here; use a property, or a field that model_post_init sets",
    "FieldSerializerDecoratorInfo": "serializers do not run here; use a type that is written so, or model_dump",
    "ModelSerializerDecoratorInfo": "serializers do not run here; override model_dump",
}
Make = Callable[[Any], Any]


@dataclass(frozen=True)
class Validator:
    """One validator of a class: for these fields, or for the whole object if there are none."""

    fields: tuple[str, ...]
    mode: str
    function: Any
    is_told: bool = False  # of the field and the values before it
    of_defaults: bool = False  # a default is validated too
    of_later: bool = False  # the field may be one of subclasses only

    def around(self, make: Make, told: Any) -> Make:
        """The conversion of a field with this validator before it, after it, around it or in its stead."""
        if self.mode == "before":
            return lambda value: make(self.call(value, told=told))
        if self.mode == "after":
            return lambda value: self.call(make(value), told=told)
        if self.mode == "wrap":
            return lambda value: self.call(value, make, told=told)
        return lambda value: self.call(value, told=told)

    def call(self, value: Any, *more: Any, told: Any = None) -> Any:
        """What the function gives for a value. ValidationError if it raises ValueError or AssertionError."""
        try:
            return self.function(value, *more, told) if self.is_told else self.function(value, *more)
        except AssertionError as error:
            raise ValidationError.one("", (), f"Assertion failed, {error}", value, "assertion_error") from None
        except ValueError as error:
            if hasattr(error, "errors"):
                raise
            raise ValidationError.one("", (), f"Value error, {error}", value) from None


def told_of(name: str, values: Mapping[str, Any]) -> Any:
    """What a validator of a field may know beside the value: pydantic's ValidationInfo."""
    return SimpleNamespace(field_name=name, data=values, context=None, config=None, mode="python")


def validators_of(cls: type[Any]) -> tuple[Validator, ...]:
    """The validators of a class and its bases, in the order in which their names first came.

    What a subclass has under the name of one runs in its stead. TypeError for a kind that does not run here.
    """
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if type(value).__name__ == _DECORATED:
                found[name] = value
    made = (_validator(cls, name, value) for name, value in found.items())
    return (*_after_making(cls), *(one for one in made if one is not None))


def of_field(validators: Iterable[Validator], name: str) -> tuple[Validator, ...]:
    """Those of one field, in the same order."""
    return tuple(one for one in validators if name in one.fields or "*" in one.fields)


def _validator(cls: type[Any], name: str, decorated: Any) -> Validator | None:
    info = decorated.decorator_info
    if type(info).__name__ in _INSTEAD:
        raise TypeError(f"{name}: {_INSTEAD[type(info).__name__]}")
    fields = tuple(getattr(info, "fields", ()))
    if type(info).__name__ not in _KINDS or (not fields and info.mode not in ("before", "after")):
        raise TypeError(
            f"{name}: of pydantic's validators field_validator and model_validator run here, the second before or after"
        )
    if getattr(info, "each_item", False):
        raise TypeError(f"{name}: each_item does not run here; go through the items in the validator")
    raw = next(vars(base)[name] for base in cls.__mro__ if name in vars(base))
    raw = raw.wrapped if type(raw).__name__ == _DECORATED else raw
    function = raw.__get__(None, cls) if hasattr(raw, "__get__") else raw
    if not callable(function):
        return None
    function = decorated.shim(function) if decorated.shim is not None else function
    return Validator(
        fields,
        info.mode,
        function,
        is_told=_positional(function) > (2 if info.mode == "wrap" else 1),
        of_defaults=getattr(info, "always", False),
        of_later=getattr(info, "check_fields", None) is False,
    )


def _positional(function: Any) -> int:
    takes = inspect.signature(function).parameters.values()
    return len([one for one in takes if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)])


def _after_making(cls: Any) -> tuple[Validator, ...]:
    """What a class does with a new object: its `model_post_init`, as the first of what validates the whole."""
    if cls.model_post_init.__module__.partition(".")[0] == "mlserve":
        return ()

    def made(value: Any) -> Any:
        value.model_post_init(None)
        return value

    return (Validator((), "after", made),)
