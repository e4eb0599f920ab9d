"""The fields that subclasses of our types declare, new ones and narrowed ones: read and defaulted as pydantic does it.

One rule for all of them: what a field is given goes through its own hint before the object is made, and what nobody
gave is unset.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, get_type_hints

import msgspec

from mlserve.types.converting import converted, faults_of
from mlserve.types.validation import ValidationError
from mlserve.types.validators import Validator, of_field

__all__ = ["ANNOTATIONS", "REQUIRED", "Field", "declared_in", "fill", "taken", "validated_by", "whole"]

_StructField = type(msgspec.field())
REQUIRED: Any = object()
ANNOTATIONS = ("__annotations__", "__annotate__", "__annotate_func__")  # the last two since Python 3.14


class Field:
    """One declared field. A hint that names what is defined later is looked up when a value first comes."""

    def __init__(self, module: str, hint: Any, name: str, default: Any) -> None:
        self._module = module
        self._name = name
        self._default = default
        self.hint = hint
        self._is_known = False
        self._validators: tuple[Validator, ...] = ()
        self.key: str = getattr(default, "alias", None) or name if _is_of_pydantic(default) else name

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return bool(self._default.is_required()) if _is_of_pydantic(self._default) else self._default is REQUIRED

    def default(self) -> Any:
        """A default of one's own: lists and dicts are not shared."""
        if _is_of_pydantic(self._default):
            return self._default.get_default(call_default_factory=True)
        return copy.deepcopy(self._default)

    def of_struct(self) -> Any:
        """The default as msgspec takes it."""
        if isinstance(self._default, _StructField):
            return self._default
        made = self.default()
        is_safe = made is self._default or (
            type(made) in (list, dict, set) and not made
        )  # msgspec makes empty ones anew
        return made if is_safe else msgspec.field(default_factory=self.default)

    def validated(self, value: Any, cls: Any = None, values: Mapping[str, Any] | None = None) -> Any:
        """The value as the hint and the validators have it, which see the `values` before. A ValueError otherwise."""
        make: Any = partial(converted, self.known_hint())
        for one in self._validators:
            make = one.around(make, cls, self._name, values or {})
        return make(value)

    @property
    def has_validators(self) -> bool:
        """Whether more than its hint says what may be given."""
        return bool(self._validators)

    def with_validators(self, more: Iterable[Validator]) -> Field:
        """The same field with more validators."""
        again = copy.copy(self)
        again._validators = (*self._validators, *more)
        return again

    def known_hint(self) -> Any:
        """The hint, with the bounds that its default brings. NameError if it names what nobody has defined."""
        if not self._is_known:
            hint = _looked_up(self.hint, _names_in(self._module), {})
            for bound in getattr(self._default, "metadata", ()) if _is_of_pydantic(self._default) else ():
                hint = Annotated[hint, bound]
            self.hint, self._is_known = hint, True
        return self.hint


def declared_in(namespace: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Field]:
    """The fields of a class by its namespace; hints may name what was seen where the class was written."""
    known = _names_in(namespace["__module__"])
    annotated: Any = type("_", (), {name: namespace[name] for name in ANNOTATIONS if name in namespace})
    fields: dict[str, Field] = {}
    for name, hint in inspect.get_annotations(annotated).items():
        if name.startswith("_") or "ClassVar" in str(hint):
            continue
        try:
            hint = _looked_up(hint, known, seen)
        except (NameError, AttributeError):  # of what is defined later
            pass
        fields[name] = Field(namespace["__module__"], hint, name, namespace.get(name, REQUIRED))
    return fields


def validated_by(
    own: dict[str, Field], inherited: Mapping[str, Field], validators: Sequence[Validator]
) -> dict[str, Field]:
    """The fields of a class with its validators: also those that it inherits and only validates."""
    for field in dict.fromkeys(name for one in validators for name in one.fields):
        if field != "*" and field not in own and field not in inherited:
            raise TypeError(f"a validator is for the field '{field}', which is not there")
    found = {name: of_field(validators, name) for name in {**inherited, **own}}
    more = {name: inherited[name] for name, those in found.items() if those and name not in own}
    return {name: field.with_validators(found[name]) for name, field in {**own, **more}.items()}


def taken(
    cls: Any, fields: Mapping[str, Field], given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The values that were given for these fields, converted, by name; and every fault, of missing ones too."""
    values: dict[str, Any] = {}
    faults: list[dict[str, Any]] = []
    for name, field in fields.items():
        if field.key not in given:
            if field.required:
                faults.append({"type": "missing", "loc": (field.key,), "msg": "Field required", "input": dict(given)})
            continue
        value = given[field.key]
        try:
            values[name] = field.validated(value, cls, values)
        except ValueError as error:  # pydantic's is one too
            faults += faults_of(error, field.key, value=value)
    return values, faults


def fill(made: Any) -> None:
    """Checks what a new dict was given, and gives it the defaults of the rest as attributes, not as keys."""
    cls = type(made)
    for one in cls._validators:
        if one.mode == "before":
            given = dict(whole(cls, one, dict(made)))
            dict.clear(made)
            dict.update(made, given)
    values, faults = taken(cls, cls._declared, made)
    if faults:
        raise ValidationError(cls.__name__, faults)
    for name, field in cls._declared.items():
        if name not in values:
            made.__dict__[name] = field.default()
            continue
        if field.key != name:
            del made[field.key]
        made[name] = values[name]
    for one in cls._validators:
        if one.mode == "after":
            whole(cls, one, made)


def whole(cls: Any, validator: Validator, value: Any) -> Any:
    """What a validator of the whole object gives. ValidationError, of this class."""
    try:
        return validator.call(cls, value)
    except ValidationError as error:
        raise error.below(cls.__name__) from None


def _names_in(module: str) -> dict[str, Any]:
    return vars(sys.modules.get(module, SimpleNamespace()))


def _looked_up(hint: Any, known: Mapping[str, Any], seen: Mapping[str, Any]) -> Any:
    """The hint without names that stand for types. NameError if one of them is not known."""
    holder: Any = SimpleNamespace(__annotations__={"hint": hint})
    return get_type_hints(holder, dict(known), dict(seen), include_extras=True)["hint"]


def _is_of_pydantic(value: Any) -> bool:
    return type(value).__module__ == "pydantic.fields"
