"""The JSON schemas of the protocol's types, and of what others make of them, as pydantic writes them."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, get_args

import msgspec

from mlserve.annotations import UNIONS, adapter_of, is_pydantics, kind_of, unnamed
from mlserve.in_pydantic import InPydantic
from mlserve.types.dumping import dump

__all__ = ["schema_of", "schema_of_hint"]

Schema = dict[str, Any]
_PLACE = "#/$defs/"
_LISTS = (list, tuple, set, frozenset)


def schema_of(cls: Any) -> Schema:
    """That of a class of ours at the top, those of its parts under `$defs`."""
    parts: dict[str, Schema] = {}
    own = _own(cls, parts)
    if cls.__name__ in parts:  # it has itself as a part
        own = {"$ref": f"{_PLACE}{cls.__name__}"}
    return {"$defs": parts, **own} if parts else own


def schema_of_hint(hint: Any) -> Schema:
    """That of a type hint, with its parts."""
    parts: dict[str, Schema] = {}
    own = _of_hint(hint, parts)
    return {"$defs": parts, **own} if parts else own


def _own(cls: Any, parts: dict[str, Schema]) -> Schema:
    """The schema of a class; what it refers to goes into `parts`."""
    declared: Mapping[str, Any] = getattr(cls, "_declared", {})
    if not declared:
        return _of_ours(cls, parts)
    base = next(
        one for one in cls.__mro__ if one.__module__.partition(".")[0] == "mlserve" and hasattr(one, "_declared")
    )
    schema = {**_of_ours(base, parts), "title": cls.__name__}
    if cls.__doc__:
        schema["description"] = cls.__doc__
    schema["properties"] = dict(schema.get("properties", {}))
    required = [name for name in schema.get("required", ()) if name not in declared]
    for field in declared.values():
        described = _of_hint(field.known_hint(), parts)
        if field.required:
            required.append(field.key)
        elif (default := _in_json(field.default())) is not ...:
            described = {**described, "default": default}
        schema["properties"][field.key] = described
    return {**schema, "required": required} if required else schema


def _of_ours(cls: Any, parts: dict[str, Schema]) -> Schema:
    """That of a class in which others have declared nothing."""
    if not issubclass(cls, msgspec.Struct):
        own: Schema = cls.model_json_schema()
        _lift(own, parts)
        return own
    schema = msgspec.json.schema(cls)["$defs"]
    for one in schema.values():
        if "data" in one.get("properties", ()):  # no default for people, though one for the decoder
            one["required"].append("data")
    own = schema.pop(cls.__name__)
    parts.update(schema)
    return own


def _of_hint(hint: Any, parts: dict[str, Schema]) -> Schema:
    hint = unnamed(hint)
    kind, inner = kind_of(hint), get_args(hint)
    if is_pydantics(hint):
        return _lift(adapter_of(hint).json_schema(), parts)
    if isinstance(kind, type) and issubclass(kind, InPydantic):
        return _referred(kind, parts)
    if kind in UNIONS:
        return {"anyOf": [_of_hint(one, parts) for one in inner]}
    if kind in _LISTS:
        return _of_list(kind, inner, parts)
    if kind is dict and inner:
        return {"type": "object", "additionalProperties": _of_hint(inner[1], parts)}
    if hint is NoneType or hint is None:
        return {"type": "null"}
    try:
        return _lift(msgspec.json.schema(hint, schema_hook=lambda kind: {}), parts)
    except TypeError:  # of what msgspec has no schema for
        return _of_hint(inner[0], parts) if kind is Annotated else {}


def _of_list(kind: Any, inner: tuple[Any, ...], parts: dict[str, Schema]) -> Schema:
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        bounds = {"minItems": len(inner), "maxItems": len(inner)}
        return {"type": "array", "prefixItems": [_of_hint(one, parts) for one in inner], **bounds}
    schema: Schema = {"type": "array", "items": _of_hint(inner[0], parts) if inner else {}}
    return {**schema, "uniqueItems": True} if kind in (set, frozenset) else schema


def _referred(cls: Any, parts: dict[str, Schema]) -> Schema:
    name = cls.__name__
    if name not in parts:
        parts[name] = {}  # for a class that has itself as a part
        parts[name] = _own(cls, parts)
    return {"$ref": f"{_PLACE}{name}"}


def _lift(schema: Schema, parts: dict[str, Schema]) -> Schema:
    parts.update(schema.pop("$defs", {}))
    return schema


def _in_json(value: Any) -> Any:
    """A default as JSON has it; ... if it has no such form."""
    try:
        return dump(value, json=True)
    except (TypeError, ValueError):
        return ...
