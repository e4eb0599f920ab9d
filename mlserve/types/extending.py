"""The classes that others make of our Structs: which fields they have, and what their objects know beside."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from mlserve.types.declared import ANNOTATIONS, REQUIRED, Field, declared_in, validated_by
from mlserve.types.validators import validators_in

__all__ = ["DeclaringMeta", "Extended", "restored"]

_StructMeta: Any = type(msgspec.Struct)


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
            own, validators = declared_in(namespace, written.f_locals), validators_in(namespace)
            if validators:
                own = validated_by(
                    own, _fields_of(next(one for one in bases if issubclass(one, msgspec.Struct))), validators
                )
            bases = (*(one for one in mcls._beside if not any(issubclass(base, one) for base in bases)), *bases)
            more = {"kw_only": True, **more, "dict": True}  # required fields may follow others
            made: Any = super().__new__(mcls, name, bases, _with_fields(namespace, own), **more)
            made._declared = {**made._declared, **own}
            made._private = {**made._private, **_private_in(namespace)}
            made._is_extended = bool(made._declared or validators or made._validators or made._private)
            made._validators = (*made._validators, *(one for one in validators if not one.fields))
            return made


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
        default = REQUIRED if one.default is msgspec.NODEFAULT else one.default  # our factories are for the decoder
        hint = struct._written.get(one.name, one.type)
        fields[one.name] = Field(struct.__module__, hint, one.name, default)
    return {**fields, **struct._declared}


def _private_in(namespace: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """What makes the private attributes of an object, by name: those with an annotation, and pydantic's own."""
    annotated = namespace.get("__annotations__", {})
    made: dict[str, Callable[[], Any]] = {}
    for name, value in namespace.items():
        if type(value).__name__ == "ModelPrivateAttr":
            made[name] = value.default_factory or partial(copy.deepcopy, value.default)
        elif name in annotated and name.startswith("_"):
            made[name] = partial(copy.deepcopy, value)
    return made


def _with_fields(namespace: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """The namespace of a Struct that has these fields, and no others of its own."""
    kept = {name: value for name, value in namespace.items() if name not in fields and name not in ANNOTATIONS}
    defaults = {name: field.of_struct() for name, field in fields.items() if not field.required}
    return {**kept, **defaults, "__annotations__": {name: field.hint for name, field in fields.items()}}
