"""The fields that subclasses of our types declare, new ones and narrowed ones: read and defaulted as pydantic does it.

One rule for all of them: what a field is given goes through its own hint before the object is made, and what nobody
gave is unset.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, get_type_hints

import msgspec

from mlserve.types.converting import converted, faults_of
from mlserve.types.validation import ValidationError
from mlserve.types.validators import Validator, told_of

__all__ = ["ANNOTATIONS", "REQUIRED", "Field", "after", "before", "declared_in", "fill", "private_of", "taken"]

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
        self._is_of_pydantic = _is_of_pydantic(default)
        self.keys = _keys(name, default) if self._is_of_pydantic else (name,)  # by which it may be given
        self.written = name  # in dumps by alias
        if self._is_of_pydantic:
            self.written = default.serialization_alias or default.alias or name
        self.is_hidden = self._is_of_pydantic and bool(default.exclude)  # from dumps

    @property
    def key(self) -> str:
        """The first of the keys by which it is given."""
        return self.keys[0]

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return bool(self._default.is_required()) if self._is_of_pydantic else self._default is REQUIRED

    @property
    def validates_default(self) -> bool:
        """Whether the default goes the way of what is given."""
        asked = self._is_of_pydantic and self._default.validate_default
        return bool(asked) or any(one.of_defaults for one in self._validators)

    def default(self) -> Any:
        """A default of one's own: lists and dicts are not shared."""
        if self._is_of_pydantic:
            return self._default.get_default(call_default_factory=True)
        if isinstance(self._default, _StructField):
            factory = self._default.default_factory
            return copy.deepcopy(self._default.default) if factory is msgspec.NODEFAULT else factory()
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

    def validated(self, value: Any, values: Mapping[str, Any], convert: Callable[[Any, Any], Any] = converted) -> Any:
        """The value as the hint and the validators have it, which see the `values` before. A ValueError otherwise."""
        if not self._validators:
            return convert(self.known_hint(), value)
        make: Any = partial(convert, self.known_hint())
        told = told_of(self._name, values)
        for one in self._validators:
            make = one.around(make, told)
        return make(value)

    @property
    def has_validators(self) -> bool:
        """Whether more than its hint says what may be given."""
        return bool(self._validators)

    def in_class(self, validators: Iterable[Validator], by_name: bool) -> Field:
        """The same field with just these validators, and perhaps given by its name too."""
        again = copy.copy(self)
        again._validators = tuple(validators)
        again.keys = tuple(dict.fromkeys((*self.keys, self._name))) if by_name else self.keys
        return again

    def known_hint(self) -> Any:
        """The hint, with the bounds that its default brings. NameError if it names what nobody has defined."""
        if not self._is_known:
            hint = _looked_up(self.hint, _names_in(self._module), {})
            for bound in getattr(self._default, "metadata", ()) if self._is_of_pydantic else ():
                hint = Annotated[hint, bound]
            self.hint, self._is_known = hint, True
        return self.hint


def declared_in(namespace: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Field]:
    """The fields of a class by its namespace; hints may name what was seen where the class was written."""
    known = _names_in(namespace["__module__"])
    annotated: Any = type("_", (), {name: namespace[name] for name in ANNOTATIONS if name in namespace})
    fields: dict[str, Field] = {}
    for name, hint in inspect.get_annotations(annotated).items():
        if name.startswith("_") or name == "model_config" or "ClassVar" in str(hint):
            continue
        try:
            hint = _looked_up(hint, known, seen)
        except (NameError, AttributeError):  # of what is defined later
            pass
        fields[name] = Field(namespace["__module__"], hint, name, namespace.get(name, REQUIRED))
    return fields


def taken(cls: Any, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """By name, the values that were given for the checked fields of a class, converted, and the defaults of the rest;
    and every fault, of missing ones too. Validators see the values of the fields before.
    """
    values: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    seen: dict[str, Any] = {}
    faults: list[dict[str, Any]] = []
    for name, field in cls._checked.items():
        into, value = defaults, None
        for key in field.keys:
            if key in given:
                into, value = values, given[key]
                break
        if into is defaults:
            if field.required:
                faults.append({"type": "missing", "loc": (field.key,), "msg": "Field required", "input": dict(given)})
                continue
            value = field.default()
        try:
            if into is values or field.validates_default:
                value = field.validated(value, seen)
        except ValueError as error:  # pydantic's is one too
            faults += faults_of(error, field.key, value=value)
        else:
            into[name] = seen[name] = value
    for key in given if cls._keys is not None else ():
        if key not in cls._keys:
            message = "Extra inputs are not permitted"
            faults.append({"type": "extra_forbidden", "loc": (key,), "msg": message, "input": given[key]})
    return values, defaults, faults


def fill(made: Any) -> None:
    """Checks what a new dict was given, and gives it the defaults of the rest as attributes, not as keys."""
    cls = type(made)
    if cls._validators:
        given = dict(before(cls, dict(made)))
        dict.clear(made)
        dict.update(made, given)
    values, defaults, faults = taken(cls, made)
    if faults:
        raise ValidationError(cls.__name__, faults)
    for name, value in values.items():
        field = cls._checked[name]
        for key in field.keys:
            if key != name or field.is_hidden:
                dict.pop(made, key, None)
        made[name] = value
    made.__dict__.update({name: value for name, value in defaults.items() if name in cls._declared})
    made.__dict__.update(private_of(cls))
    after(cls, made)


def private_of(cls: Any) -> dict[str, Any]:
    """The private attributes of a new object that have a value from the start."""
    return {name: make() for name, make in cls._private.items() if make is not None}


def before(cls: Any, given: Any) -> Any:
    """What the validators of the whole make of what is given: the last one that was written is the first to run."""
    for one in reversed(cls._validators):
        if one.mode == "before":
            given = _whole(cls, one, given)
    return given


def after(cls: Any, made: Any) -> Any:
    """What the validators of the whole make of a new object."""
    for one in cls._validators:
        if one.mode == "after":
            made = _whole(cls, one, made)
    return made


def _whole(cls: Any, validator: Validator, value: Any) -> Any:
    try:
        return validator.call(value, told=told_of("", {}))
    except ValidationError as error:
        raise error.below(cls.__name__) from None


def _names_in(module: str) -> dict[str, Any]:
    return vars(sys.modules.get(module, SimpleNamespace()))


def _looked_up(hint: Any, known: Mapping[str, Any], seen: Mapping[str, Any]) -> Any:
    """The hint without names that stand for types. NameError if one of them is not known."""
    holder: Any = SimpleNamespace(__annotations__={"hint": hint})
    return get_type_hints(holder, dict(known), dict(seen), include_extras=True)["hint"]


def _keys(name: str, field: Any) -> tuple[str, ...]:
    """The keys by which one of pydantic's fields may be given. TypeError for what does not run here."""
    for option in ("frozen", "exclude_if", "init_var"):
        if getattr(field, option, None):
            raise TypeError(f"{name}: Field({option}=…) does not run here; leave it out, and see to it in the methods")
    alias = field.validation_alias or field.alias or name
    keys = (alias,) if isinstance(alias, str) else tuple(getattr(alias, "choices", (alias,)))
    if not all(isinstance(one, str) for one in keys):
        raise TypeError(
            f"{name}: AliasPath does not run here; take it out of its place in a model_validator(mode='before')"
        )
    return keys


def _is_of_pydantic(value: Any) -> bool:
    return type(value).__module__ == "pydantic.fields"
