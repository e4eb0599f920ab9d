"""The classes that others make of our Structs: which fields they have, and what their objects know beside."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from mlserve.types.declared import ANNOTATIONS, REQUIRED, Field, declared_in
from mlserve.types.validators import of_field, validators_of

__all__ = ["DeclaringMeta", "Extended", "extend", "private_in", "restored"]

_StructMeta: Any = type(msgspec.Struct)
_NOT_HERE = {
    "alias_generator": "give each field its alias: Field(alias=…)",
    "extra": "declare the keys as fields; parameters and the settings of models keep all that come",
    "frozen": "leave it out: what is not assigned does not change",
    "validate_assignment": "make a new object, which is checked: type(this)(**{**dict(this), …})",
    "validate_default": "give each field its own: Field(validate_default=True)",
    "serialize_by_alias": "call model_dump(by_alias=True)",
    "json_encoders": "give the field a type that is written so",
    "coerce_numbers_to_str": "use a field_validator(mode='before')",
    "strict": "give each field its own: Field(strict=True)",
    **dict.fromkeys(
        ("str_strip_whitespace", "str_to_lower", "str_to_upper", "str_min_length", "str_max_length"),
        "use pydantic's StringConstraints, or a field_validator",
    ),
}
Private = Callable[[], Any] | None


if TYPE_CHECKING:
    from msgspec import StructMeta as DeclaringMeta
else:

    class DeclaringMeta(_StructMeta):
        """Makes Structs, which keep values. What a class of others declares, new fields and those of ours with a hint
        of their own, it notes in `_declared`.
        """

        _beside: tuple[type, ...] = ()  # further bases of others' classes

        def __new__(mcls, name: str, bases: tuple[type, ...], namespace: Mapping[str, Any], **more: Any) -> Any:
            written = sys._getframe(1)
            namespace = {"__module__": written.f_globals["__name__"], **namespace}
            if namespace["__module__"].partition(".")[0] == "mlserve":
                return super().__new__(mcls, name, bases, namespace, **more)
            own = declared_in(namespace, written.f_locals)
            private = private_in(namespace, bases)
            bases = (*(one for one in mcls._beside if not any(issubclass(base, one) for base in bases)), *bases)
            more = {"kw_only": True, **more, "dict": True}  # required fields may follow others
            kept = {name: value for name, value in namespace.items() if name not in private}
            made: Any = super().__new__(mcls, name, bases, _with_fields(kept, own), **more)
            base = next(one for one in bases if issubclass(one, msgspec.Struct))
            extend(made, getattr(base, "_fields", None) or _fields_of(base), own, private)
            return made


def extend(cls: Any, inherited: Mapping[str, Field], own: Mapping[str, Field], private: Mapping[str, Private]) -> None:
    """Tells a class of others which fields it has, in order of definition, and what is to be done with its objects."""
    validators, config = validators_of(cls), _config_of(cls)
    by_name = bool(config.get("populate_by_name") or config.get("validate_by_name"))
    fields = {**inherited, **own}
    for one in validators:
        missing = [] if one.of_later else [name for name in one.fields if name != "*" and name not in fields]
        if missing:
            raise TypeError(f"a validator is for the field '{missing[0]}', which is not there")
    cls._fields = {name: field.in_class(of_field(validators, name), by_name) for name, field in fields.items()}
    cls._declared = {
        name: field
        for name, field in cls._fields.items()
        if name in cls._declared or name in own or field.has_validators
    }
    are_told = any(one.is_told and one.fields for one in validators)
    cls._checked = cls._fields if are_told else cls._declared
    cls._private = {**cls._private, **private}
    cls._validators = tuple(one for one in validators if not one.fields)
    cls._env_prefix = config.get("env_prefix")  # of settings
    cls._keys = None
    if config.get("extra") == "forbid":
        cls._keys = frozenset(key for field in cls._fields.values() for key in field.keys)
    cls._hidden = frozenset(name for name, field in cls._fields.items() if field.is_hidden)
    cls._is_extended = bool(cls._declared or validators or cls._private or cls._keys is not None)


def _config_of(cls: Any) -> dict[str, Any]:
    """What a class says in its model_config or, as in pydantic's first version, its class Config.

    TypeError for what would change its values, and does not run here.
    """
    config: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        config.update(vars(vars(base).get("Config", object)))
        config.update(vars(base).get("model_config") or {})
    for option, instead in _NOT_HERE.items():
        if config.get(option) and (option != "extra" or config[option] not in ("ignore", "forbid", _keeps(cls))):
            raise TypeError(f"{cls.__name__}: {option} of model_config does not run here; {instead}")
    return config


def _keeps(cls: Any) -> str:
    return "allow" if issubclass(cls, dict) or getattr(cls, "_keeps_unknown", False) else "ignore"


class Extended:
    """What Structs with fields of their users have beside: they know which of these nobody gave."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if name[:1] != "_" and not hasattr(type(self), name):
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        super().__setattr__(name, value)
        vars(self)["_unset"] = self._unset - {name}

    def __copy__(self) -> Any:
        function, arguments = self.__reduce__()
        return function(*arguments)

    def __reduce__(self) -> Any:
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return restored, (type(self), fields, vars(self).copy())

    __struct_fields__: tuple[str, ...]
    _unset: frozenset[str]


def restored(cls: Any, fields: Mapping[str, Any], private: Mapping[str, Any]) -> Any:
    """A Struct of values that were checked when they were first given."""
    made = _StructMeta.__call__(cls, **fields)
    vars(made).update(private)
    return made


def _fields_of(struct: Any) -> dict[str, Field]:
    """All fields of a Struct, as one would declare them."""
    fields = {}
    for one in msgspec.structs.fields(struct):
        default = REQUIRED if one.default is msgspec.NODEFAULT else one.default
        if one.default_factory in (list, dict, set):  # other factories of ours are for the decoder
            default = one.default_factory()
        hint = struct._written.get(one.name, one.type)
        fields[one.name] = Field(struct.__module__, hint, one.name, default)
    return fields


def private_in(namespace: Mapping[str, Any], bases: tuple[Any, ...]) -> dict[str, Private]:
    """What makes the private attributes of an object, by name: those of one underscore, but for methods, classes and
    names that our own classes use. None for one that has no value until it is set.
    """
    annotated: Any = type("_", (), {name: namespace[name] for name in ANNOTATIONS if name in namespace})
    hints = inspect.get_annotations(annotated)
    return {
        name: _maker(namespace.get(name, REQUIRED))
        for name in {**hints, **namespace}
        if name.startswith("_")
        and not name.startswith("__")
        and "ClassVar" not in str(hints.get(name))
        and not _is_part_of_class(namespace.get(name))
        and not any(name in vars(base) for one in bases for base in one.__mro__ if _is_ours(base))
    }


def _is_part_of_class(value: Any) -> bool:
    return isinstance(value, type) or hasattr(value, "__get__") or hasattr(value, "decorator_info")


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "mlserve"


def _maker(value: Any) -> Private:
    if type(value).__name__ == "ModelPrivateAttr":
        if value.default_factory is not None:
            made: Private = value.default_factory
            return made
        value = value.default
    return (
        None if value is REQUIRED or type(value).__name__ == "PydanticUndefinedType" else partial(copy.deepcopy, value)
    )


def _with_fields(namespace: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """The namespace of a Struct that has these fields, and no others of its own."""
    kept = {name: value for name, value in namespace.items() if name not in fields and name not in ANNOTATIONS}
    defaults = {name: field.of_struct() for name, field in fields.items() if not field.required}
    return {**kept, **defaults, "__annotations__": {name: field.hint for name, field in fields.items()}}
