"""Lets our types be fields of pydantic's models, bodies and answers of FastAPI's handlers, without pydantic.

pydantic asks a class for a schema (`__get_pydantic_core_schema__`). FastAPI asks before whether an argument is a
BaseModel, a mapping, a sequence or a dataclass: what is none of them goes into the query. Newer versions of pydantic
let nobody be registered as a BaseModel, so our Structs have what dataclasses have: their fields can be read as theirs.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import operator
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from mlserve.errors import MLServeError

__all__ = ["InPydantic", "names_ours", "narrowed"]

_SWITCHES = ("include", "exclude", "exclude_none", "exclude_defaults")  # no field has an alias


class _OfDataclass:
    """An attribute of dataclasses, for Structs."""

    def __set_name__(self, owner: Any, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: Any) -> Any:
        if not issubclass(owner, msgspec.Struct):
            raise AttributeError(self._name)
        return getattr(_as_dataclass(owner), self._name)


@functools.cache
def _as_dataclass(struct: Any) -> Any:
    """A dataclass with the same fields."""
    fields = []
    for one in msgspec.structs.fields(struct):
        factory: Any = one.default_factory
        if one.default is not msgspec.NODEFAULT:
            factory = functools.partial(_itself, one.default)
        made = dataclasses.field() if factory is msgspec.NODEFAULT else dataclasses.field(default_factory=factory)
        fields.append((one.name, one.type, made))
    return dataclasses.make_dataclass(struct.__name__, fields, kw_only=True)


def _itself(value: Any) -> Any:
    return value


class _Serializer:
    """What pydantic writes an object with where no class is declared (`Any`, `serialize_as_any`): by its own class."""

    def __get__(self, instance: Any, owner: Any) -> Any:
        core = sys.modules.get("pydantic_core")
        if core is None:
            raise AttributeError("__pydantic_serializer__")
        return _serializer(owner, core)


@functools.cache
def _serializer(cls: Any, core: Any) -> Any:
    schema = core.core_schema
    written = schema.plain_serializer_function_ser_schema(_serializer_of(cls), info_arg=True)
    return core.SchemaSerializer(schema.any_schema(serialization=written))


class InPydantic:
    """The base of types that have pydantic's methods: `model_validate`, `model_dump`, `model_json_schema`."""

    __slots__ = ()

    if not TYPE_CHECKING:
        __dataclass_fields__ = _OfDataclass()
        __dataclass_params__ = _OfDataclass()  # pprint wants it of dataclasses
        __pydantic_serializer__ = _Serializer()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        core: Any = importlib.import_module("pydantic_core")  # who calls this has imported it
        written = core.core_schema.plain_serializer_function_ser_schema(_serializer_of(cls), info_arg=True)
        return core.core_schema.no_info_plain_validator_function(_validator_of(cls, core), serialization=written)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        own: dict[str, Any] = cls.model_json_schema()  # type: ignore[attr-defined]  # of those who inherit this
        parts = own.pop("$defs", {})
        return {"title": cls.__name__, **_inlined(own, parts)}

    def model_post_init(self, context: Any, /) -> None:
        """For subclasses: what is to be done with a new object, once."""

    def _narrowed(self, cls: Any) -> Any:
        """The same as an object of `cls`, a base of its class: without the fields that only subclasses have."""
        return self


def narrowed(value: Any, hint: Any) -> Any:
    """A value with no more than its type hint declares, lists item by item; values of other types as they are."""
    if isinstance(value, InPydantic):
        return value._narrowed(next((kind for kind in _kinds(hint) if isinstance(value, kind)), None))
    if isinstance(value, list):
        made = [narrowed(one, hint) for one in value]
        return value if all(map(operator.is_, made, value)) else made
    return value


def names_ours(hint: Any) -> bool:
    """Whether one of our types, or a subclass of one, stands in a hint."""
    return any(True for _ in _kinds(hint))


def _kinds(hint: Any) -> Iterator[type[InPydantic]]:
    """Those of our types that a hint names."""
    if isinstance(hint, type) and issubclass(hint, InPydantic):
        yield hint
    for part in get_args(hint):
        yield from _kinds(part)


def _validator_of(cls: Any, core: Any) -> Any:
    def validate(value: Any) -> Any:
        try:
            return cls.model_validate(value)
        except MLServeError as error:  # of settings; pydantic knows ValueErrors
            raise ValueError(str(error)) from None
        except ValueError as error:
            if not hasattr(error, "errors"):
                raise
            faults = [
                {"type": core.PydanticCustomError(one["type"], one["msg"]), "loc": one["loc"], "input": one["input"]}
                for one in error.errors()
            ]
            raise core.ValidationError.from_exception_data(cls.__name__, faults) from None

    return validate


def _serializer_of(cls: Any) -> Any:
    """By the class that was declared, as pydantic does it: what a subclass adds is not sent.

    Switches that are off stay at what `model_dump` has without them.
    """

    def serialize(value: Any, info: Any) -> Any:
        picked = {name: said for name in _SWITCHES if (said := getattr(info, name)) not in (None, False)}
        picked["exclude_unset"] = info.exclude_unset
        if not getattr(info, "serialize_as_any", False):  # since pydantic 2.8
            value = narrowed(value, cls)
        if info.mode != "json":
            return value.model_dump(**picked)
        return msgspec.json.decode(value.model_dump_json(**picked))

    return serialize


def _inlined(schema: Any, parts: Mapping[str, Any], within: tuple[str, ...] = ()) -> Any:
    """A JSON schema with its parts where they are named: pydantic has one place for those of all its models.

    A part inside of itself is an object of anything.
    """
    if isinstance(schema, list):
        return [_inlined(one, parts, within) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" not in schema:
        return {key: _inlined(one, parts, within) for key, one in schema.items()}
    name = schema["$ref"].rpartition("/")[2]
    if name in within:
        return {"title": name, "type": "object"}
    rest = {key: one for key, one in schema.items() if key != "$ref"}
    return {**_inlined(parts[name], parts, (*within, name)), **rest}
