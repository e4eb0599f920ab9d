"""Parameters: the open-ended `parameters` object of requests, responses and tensors."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from mlserve.in_pydantic import InPydantic
from mlserve.types.declared import Field, declared_in, fill
from mlserve.types.dumping import dump, dump_json
from mlserve.types.extending import extend, private_in
from mlserve.types.schemas import schema_of
from mlserve.types.validation import ValidationError, from_msgspec
from mlserve.types.validators import Validator

__all__ = ["Parameters"]

_KNOWN: dict[str, Any] = {"content_type": str | None, "headers": dict[str, Any] | None}
_METHODS = ("clear", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values")

PARAMETERS_SCHEMA: dict[str, Any] = {
    "properties": {
        "content_type": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "headers": {"anyOf": [{"type": "object"}, {"type": "null"}], "default": None},
    },
    "additionalProperties": True,
}


class _KeyOrMethod:
    """A method of dicts, or the value of the key that has its name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._method = dict.__dict__[name]

    def __get__(self, parameters: Any, owner: Any = None) -> Any:
        if parameters is not None and self._name in parameters:
            return parameters[self._name]
        return self._method.__get__(parameters, owner)


class Parameters(dict[str, Any], InPydantic):
    """A dict whose keys are attributes too; None and absent are the same thing.

    A key that is called like a method of dicts (`items`, `values`) hides that method: code that takes any parameters
    calls `dict.get(parameters, …)`. `content_type` and `headers` are None where absent; any other missing attribute is
    an AttributeError. Attributes that start with `_` are private to this process: they are no keys and never reach the
    wire; a key of such a name, which the constructor and JSON may give, is no attribute. An object of this type is true
    even when empty, as an object of a model class is.

    A subclass may declare fields, with or without defaults, as in a model of pydantic's: what is given for them is
    checked and converted, and one that is missing and has no default is a ValidationError.
    """

    if TYPE_CHECKING:
        content_type: str | None
        headers: dict[str, Any] | None

    _is_extended: ClassVar[bool] = False  # a class of others, with what is declared below
    _fields: ClassVar[Mapping[str, Field]] = {name: Field(__name__, hint, name, None) for name, hint in _KNOWN.items()}
    _declared: ClassVar[Mapping[str, Field]] = {}
    _checked: ClassVar[Mapping[str, Field]] = {}
    _hidden: ClassVar[frozenset[str]] = frozenset()
    _keys: ClassVar[frozenset[str] | None] = None
    _private: ClassVar[Mapping[str, Callable[[], Any] | None]] = {}
    _validators: ClassVar[tuple[Validator, ...]] = ()

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        namespace = dict(vars(cls))
        own, private = declared_in(namespace, sys._getframe(1).f_locals), private_in(namespace, cls.__bases__)
        for name in (own.keys() | private.keys()) & namespace.keys():  # attributes of that name are those of objects
            delattr(cls, name)
        extend(cls, cls._fields, own, private)

    def __init__(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        if values is not None:
            dict.__init__(self, values)
        if more:
            dict.update(self, more)
            _check(more)
            if "headers" in more and more["headers"] is not None:
                dict.__setitem__(self, "headers", more["headers"].copy())
        if self._is_extended:
            fill(self)
        for value in dict.values(self):
            if value is None:  # `None in values` would compare, which arrays do not like.
                for key in [key for key, value in dict.items(self) if value is None]:
                    del self[key]
                break

    def __bool__(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        if name[:1] == "_":
            pending = self.__dict__.get("_pending")
            if pending and name in pending:
                value = pending.pop(name)()
                self.__dict__[name] = value
                return value
        elif name in self:
            return self[name]
        elif name in _KNOWN:
            return None
        raise AttributeError(f"{type(self).__name__} has no {name!r}; it has {', '.join(self) or 'nothing'}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name[:1] == "_":
            object.__setattr__(self, name, value)
        else:
            self[name] = value

    def __delattr__(self, name: str) -> None:
        if name[:1] == "_":
            object.__delattr__(self, name)
        elif name in self:
            del self[name]
        else:
            raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self._declared:
            self.__dict__.pop(key, None)  # the default, or None
            if value is None or key in self._hidden:  # what is not to be written is no key
                self.__dict__[key] = value
                value = None
        if value is None:
            dict.pop(self, key, None)
        else:
            dict.__setitem__(self, key, value)

    def _defer(self, name: str, make: Callable[[], Any]) -> None:
        """Have the private attribute `name` made by `make()` when it is first read."""
        self.__dict__.setdefault("_pending", {})[name] = make

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={_short(value)}' for key, value in dict.items(self))})"

    def __copy__(self) -> Parameters:
        return _restored(type(self), dict(self), self.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameters:
        return _restored(type(self), *copy.deepcopy((dict(self), self._beside()), memo))

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._is_extended:
            return Parameters, (dict(self),)  # Private attributes (decoded payloads) stay in their process.
        return _restored, (type(self), dict(self), self._beside())

    def _unset(self) -> dict[str, Any]:
        """The declared fields that are no keys: those with their defaults, and None."""
        return {name: value for name, value in self.__dict__.items() if name in self._declared}

    def _beside(self) -> dict[str, Any]:
        """What a copy needs beside the keys: the same, and private attributes that the class declares."""
        return {name: self.__dict__[name] for name in self.__dict__ if name in self._declared or name in self._private}

    def _narrowed(self, cls: Any) -> Parameters:
        more = self._declared.keys() - (cls or Parameters)._declared.keys()
        return Parameters({key: value for key, value in dict.items(self) if key not in more}) if more else self

    def copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False, **_: Any) -> Parameters:
        """A copy, deep or not, with `update` applied."""
        again = copy.deepcopy(self) if deep else copy.copy(self)
        for key, value in {**(update or {})}.items():
            again[key] = value
        return again

    model_copy = copy

    def model_dump(
        self,
        *,
        mode: str = "python",
        include: Any = None,
        exclude: Any = None,
        exclude_unset: bool = True,
        by_alias: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        """A plain dict of the keys that are set; with mode "json" of values that JSON has."""
        plain: dict[str, Any] = dump(
            self, include, exclude, json=mode == "json", unset=not exclude_unset, by_alias=by_alias
        )
        return plain

    def model_dump_json(
        self,
        *,
        include: Any = None,
        exclude: Any = None,
        exclude_unset: bool = True,
        by_alias: bool = False,
        indent: int | None = None,
        **_: Any,
    ) -> str:
        """`model_dump` as JSON text."""
        return dump_json(self, include, exclude, indent=indent, unset=not exclude_unset, by_alias=by_alias)

    @classmethod
    def model_validate(cls, value: Any, **_: Any) -> Parameters:
        """Parameters as they are, or made of a mapping; ValidationError otherwise."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ValidationError.one(cls.__name__, (), "Input should be a valid dictionary", value, "model_type")
        return cls(**value)

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray | memoryview, **_: Any) -> Parameters:
        """From JSON text."""
        try:
            return cls.model_validate(msgspec.json.decode(json_data))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise from_msgspec(cls.__name__, error, json_data) from None

    @classmethod
    def model_json_schema(cls, **_: Any) -> dict[str, Any]:
        """The JSON schema: an object of anything, where `content_type` is text and `headers` an object."""
        if cls._declared:
            return schema_of(cls)
        return {"title": cls.__name__, "type": "object", **PARAMETERS_SCHEMA}

    @property
    def model_extra(self) -> Any:
        """The keys beside `content_type` and `headers`."""
        return {key: value for key, value in dict.items(self) if key not in _KNOWN}

    @property
    def model_fields_set(self) -> set[str]:
        """The keys that are set."""
        return set(self)

    parse_obj = model_validate
    parse_raw = model_validate_json

    if not TYPE_CHECKING:  # A method called dict would hide the type in the annotations above.
        model_construct = construct = classmethod(lambda cls, _fields_set=None, **values: cls(**values))
        schema = model_json_schema
        dict = model_dump
        json = model_dump_json


for _name in _METHODS:
    setattr(Parameters, _name, _KeyOrMethod(_name))


def _check(given: Mapping[str, Any]) -> None:
    """ValidationError if one of the two keys that have a type has another."""
    content_type, headers = given.get("content_type"), given.get("headers")
    if content_type is not None and not isinstance(content_type, str):
        message = "Input should be a valid string"
        raise ValidationError.one("Parameters", ("content_type",), message, content_type, "string_type")
    if headers is not None and not isinstance(headers, Mapping):
        message = "Input should be a valid dictionary"
        raise ValidationError.one("Parameters", ("headers",), message, headers, "dict_type")


def _restored(cls: type[Parameters], values: dict[str, Any], private: dict[str, Any]) -> Parameters:
    """An object with these keys and attributes, which were checked when they were first given."""
    made: Parameters = cls.__new__(cls)
    dict.update(made, values)
    made.__dict__.update(private)
    return made


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
