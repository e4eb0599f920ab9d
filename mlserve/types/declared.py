"""The fields that subclasses of our types declare: read, checked and defaulted as pydantic's models do it."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterable
from functools import partial
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

from mlserve.in_pydantic import InPydantic
from mlserve.types.validation import ValidationError

__all__ = ["Field", "check_added", "declared_by", "fill"]

_REQUIRED: Any = object()
_UNIONS = (Union, UnionType)


class Field:
    """One declared field. Its hint is looked up when a value first comes, as it may name what is defined later."""

    def __init__(self, owner: type[Any], name: str, default: Any) -> None:
        self._owner = owner
        self._name = name
        self._default = default
        self._validate: Callable[[Any], Any] | None = None
        self.key: str = getattr(default, "alias", None) or name if _is_of_pydantic(default) else name

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return bool(self._default.is_required()) if _is_of_pydantic(self._default) else self._default is _REQUIRED

    def default(self) -> Any:
        """A default of one's own: lists and dicts are not shared."""
        if _is_of_pydantic(self._default):
            return self._default.get_default(call_default_factory=True)
        return copy.deepcopy(self._default)

    def validated(self, value: Any) -> Any:
        """The value as the hint has it. ValidationError otherwise."""
        if self._validate is None:
            self._validate = self._validator()
        return self._validate(value)

    def _validator(self) -> Callable[[Any], Any]:
        hint: Any = inspect.get_annotations(self._owner, eval_str=True)[self._name]
        if _is_of_pydantic(self._default) or any(map(_is_of_pydantic, getattr(hint, "__metadata__", ()))):
            for bound in getattr(self._default, "metadata", ()):
                hint = Annotated[hint, bound]
            validate: Callable[[Any], Any] = sys.modules["pydantic"].TypeAdapter(hint).validate_python
            return validate
        return partial(_converted, hint)


def declared_by(cls: type[Any]) -> dict[str, Field]:
    """The fields of a new class. Their defaults leave the class: attributes of that name are those of its objects."""
    fields: dict[str, Field] = {}
    for name, hint in inspect.get_annotations(cls).items():
        if name.startswith("_") or "ClassVar" in str(hint):
            continue
        fields[name] = Field(cls, name, vars(cls).get(name, _REQUIRED))
        if name in vars(cls):
            delattr(cls, name)
    return fields


def fill(made: Any, fields: dict[str, Field]) -> None:
    """Checks what a new object was given, and gives it the defaults of the rest, which are no keys of it.

    ValidationError names every field that is missing or wrong.
    """
    faults: list[dict[str, Any]] = []
    for name, field in fields.items():
        if field.key not in made:
            if field.required:
                faults.append({"type": "missing", "loc": (field.key,), "msg": "Field required", "input": dict(made)})
            else:
                made.__dict__[name] = field.default()
            continue
        value = made[field.key]
        try:
            if field.key != name:
                del made[field.key]
            made[name] = field.validated(value)
        except (msgspec.ValidationError, ValueError) as error:
            faults += _faults_of(error, field.key, value)
    if faults:
        raise ValidationError(type(made).__name__, faults)


def check_added(made: Any, names: Iterable[str]) -> None:
    """Converts what a new Struct was given for these fields; ValidationError names every one that is wrong."""
    try:
        hints = {one.name: one.type for one in msgspec.structs.fields(type(made))}
    except NameError:  # a hint of what a function has; nobody can look it up
        return
    faults: list[dict[str, Any]] = []
    for name in names:
        value = getattr(made, name)
        try:
            msgspec.structs.force_setattr(made, name, _converted(hints[name], value))
        except (msgspec.ValidationError, ValueError) as error:
            faults += _faults_of(error, name, value)
        except TypeError:  # a hint that msgspec has no check for, such as a union of two foreign classes
            continue
    if faults:
        raise ValidationError(type(made).__name__, faults)


def _converted(hint: Any, value: Any) -> Any:
    """A value as its hint has it; our own types and lists of them, whose decoder takes JSON only, by themselves."""
    named = [one for one in get_args(hint) if one is not type(None)] if value is not None else []
    alone = named[0] if len(named) == 1 and get_origin(hint) in _UNIONS else hint
    if value is not None and _is_ours(alone):
        return alone.model_validate(value)
    if isinstance(value, list) and get_origin(alone) is list and _is_ours(get_args(alone)[0]):
        return _each(get_args(alone)[0], value)
    return msgspec.convert(value, hint, strict=False, dec_hook=_instance)


def _is_ours(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, InPydantic)


def _each(kind: Any, values: list[Any]) -> list[Any]:
    made, faults = [], []
    for at, one in enumerate(values):
        try:
            made.append(kind.model_validate(one))
        except ValidationError as error:
            faults += error.below("", at).errors()
    if faults:
        raise ValidationError(kind.__name__, faults)
    return made


def _faults_of(error: Exception, key: str, value: Any) -> list[dict[str, Any]]:
    """What our own errors, pydantic's and msgspec's say, seen from the object that has the field."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return [{"type": "value_error", "loc": (key,), "msg": str(error), "input": value}]
    return [
        {"type": one["type"], "loc": (key, *one["loc"]), "msg": one["msg"], "input": one["input"]} for one in errors()
    ]


def _instance(kind: Any, value: Any) -> Any:
    """For msgspec: a value of a type that it does not know."""
    kind = get_origin(kind) or kind
    if isinstance(value, kind):
        return value
    validate = getattr(kind, "model_validate", None)
    if validate is None:
        raise ValueError(f"Input should be an instance of {kind.__name__}")
    return validate(value)


def _is_of_pydantic(value: Any) -> bool:
    return type(value).__module__ == "pydantic.fields"
