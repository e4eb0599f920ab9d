"""Turns text and JSON into what a handler's annotation says, by the rules that users of FastAPI know.

Those are pydantic's, which is not needed for it: `yes` is a bool, `5.0` is an int, `1e3` is none, a date is a datetime
too. tests/test_arguments.py compares both. Where pydantic's own types stand in an annotation, pydantic does it.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import deque
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from mlserve.annotations import UNIONS, adapter_of, has_pydantic, kind_of, unnamed
from mlserve.scalars import SCALARS, unfit

__all__ = ["convert", "inside", "is_scalar", "reason_of"]

_LISTS = (list, tuple, set, frozenset, deque)


def is_scalar(hint: Any) -> bool:
    """Whether it is one that text can say and that is converted here; optional ones too."""
    hint = unnamed(hint)
    if get_origin(hint) in UNIONS:
        return all(is_scalar(one) for one in get_args(hint))
    if get_origin(hint) is Annotated:
        return is_scalar(get_args(hint)[0])
    kind = kind_of(hint)
    return kind is Literal or (isinstance(kind, type) and kind is not bytes and (kind in SCALARS or _is_enum(kind)))


def convert(value: Any, hint: Any) -> Any:
    """The value as its annotation wants it. Any exception if that cannot be; its text says what and where."""
    hint = unnamed(hint)
    if hint is Any:
        return value
    if hasattr(hint, "model_validate"):  # pydantic's models, and our own types
        return hint.model_validate(value)
    if has_pydantic(hint):
        return adapter_of(hint).validate_python(value)
    origin = get_origin(hint)
    if origin in UNIONS:
        return _one_of(value, get_args(hint))
    if origin is Annotated:
        made = convert(value, get_args(hint)[0])
        bounds = any(isinstance(one, msgspec.Meta) for one in hint.__metadata__)
        return msgspec.convert(made, hint) if bounds else made
    if origin is Literal:
        return _literal(value, get_args(hint))
    kind = kind_of(hint)
    if isinstance(kind, type):
        if _is_enum(kind):
            return _member(value, kind)
        if kind in SCALARS:
            return value if type(value) is kind else SCALARS[kind](value)
        if dataclasses.is_dataclass(kind):
            return value if isinstance(value, kind) else _dataclass(value, kind)
        if not hasattr(kind, "__annotations__") and issubclass(kind, Mapping):
            return _mapping(value, get_args(hint) or (Any, Any))
        if issubclass(kind, _LISTS) and not hasattr(kind, "_fields"):
            return _items(value, kind, get_args(hint))
    return msgspec.convert(value, hint, strict=not isinstance(value, str))


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def inside(place: str, done: Callable[..., Any], *given: Any) -> Any:
    """What is done with a part of a value. ValueError with its place if that cannot be."""
    try:
        return done(*given)
    except Exception as error:
        raise ValueError(f"{place}: {reason_of(error)}") from None


def reason_of(error: Exception) -> str:
    """What is wrong; pydantic says it in many lines with a link."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return str(error)
    return "; ".join(": ".join(filter(None, (".".join(map(str, one["loc"])), one["msg"]))) for one in errors())


# -- what has parts ----------------------------------------------------------------------------------------------------


def _one_of(value: Any, hints: tuple[Any, ...]) -> Any:
    if type(value) in hints:
        return value
    reasons = []
    for hint in hints:
        try:
            return convert(value, hint)
        except Exception as error:
            reasons.append(str(error))
    raise ValueError(reasons[0] if hints[1:] == (type(None),) else "; or ".join(reasons))


def _literal(value: Any, wanted: tuple[Any, ...]) -> Any:
    for one in wanted:
        if value == one or (isinstance(one, enum.Enum) and value == one.value):
            return one
    raise unfit(" or ".join(map(repr, wanted)), value)


def _member(value: Any, kind: type[enum.Enum]) -> enum.Enum:
    plain: Any  # of an IntEnum and its like
    for plain in (str, int, float):
        if issubclass(kind, plain) and type(value) is not plain:
            value = convert(value, plain)
    try:
        return kind(value)
    except ValueError:
        raise unfit(" or ".join(repr(one.value) for one in kind), value) from None


def _items(value: Any, kind: type, hints: tuple[Any, ...]) -> Any:
    if not isinstance(value, list):
        raise unfit("a list", value)
    if kind is tuple and hints and hints[-1] is not Ellipsis:
        if len(value) != len(hints):
            raise unfit(f"{len(hints)} values", value)
        return tuple(inside(f"[{at}]", convert, one, hint) for at, (one, hint) in enumerate(zip(value, hints)))
    hint = hints[0] if hints else Any
    return kind(inside(f"[{at}]", convert, one, hint) for at, one in enumerate(value))


def _mapping(value: Any, hints: tuple[Any, ...]) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise unfit("an object", value)
    of_key, of_value = hints
    return {
        inside(f"the key '{key}'", convert, key, of_key): inside(f"'{key}'", convert, one, of_value)
        for key, one in value.items()
    }


def _dataclass(value: Any, kind: Any) -> Any:
    if not isinstance(value, dict):
        raise unfit(f"an object, for {kind.__name__}", value)
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    for field in dataclasses.fields(kind):
        if not field.init:
            continue
        if field.name in value:
            found[field.name] = inside(f"'{field.name}'", convert, value[field.name], hints[field.name])
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"the member '{field.name}' is missing")
    return kind(**found)
