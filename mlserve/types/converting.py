"""Turns a value into what a field's type hint says, as pydantic's models do it, or tells every place that does not fit.

It goes by the parts of the hint: lists, dicts and unions here, our own types and pydantic's by themselves, plain values
by the rules of handlers' arguments. The members of enums become their values, as in MLServer's types. Long lists and
dicts of plain values are msgspec's: what it takes of them is what the rules take. The rest, and what is to be told
about a fault, goes item by item.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec

from mlserve.annotations import UNIONS, adapter_of, is_pydantics, is_strange, kind_of, unnamed
from mlserve.arguments import convert
from mlserve.in_pydantic import InPydantic
from mlserve.types.validation import Place, ValidationError, from_msgspec

__all__ = ["converted", "faults_of", "is_plain"]

_LISTS = (list, tuple, set, frozenset)
_EXPECTED = {
    str: ("string_type", "Input should be a valid string"),
    int: ("int_type", "Input should be a valid integer"),
    float: ("float_type", "Input should be a valid number"),
    bool: ("bool_type", "Input should be a valid boolean"),
    NoneType: ("none_required", "Input should be None"),
}


def converted(hint: Any, value: Any) -> Any:
    """The value as its hint has it. ValidationError, pydantic's error, or another ValueError if it does not fit."""
    hint = unnamed(hint)
    kind = kind_of(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return value
    if is_pydantics(hint):
        return adapter_of(hint).validate_python(value)
    if kind in UNIONS:
        return _any_of(get_args(hint), value)
    if kind is Annotated:
        return _bounded(hint, value)
    if kind is Literal:
        return _choice(get_args(hint), value)
    if not isinstance(kind, type):
        return _by_rules(convert, value, hint)
    if issubclass(kind, InPydantic):
        return kind.model_validate(value)  # type: ignore[attr-defined]  # of those who inherit it
    if issubclass(kind, enum.Enum):
        return _member(kind, value)
    is_mapping = kind is dict or (issubclass(kind, Mapping) and not hasattr(kind, "__annotations__"))
    if (kind in _LISTS or is_mapping) and (made := _at_once(hint, value)) is not None:
        return made
    if kind in _LISTS:
        return _items(kind, get_args(hint), value)
    if is_mapping:
        return _mapping(get_args(hint) or (Any, Any), value)
    return _plain(kind, hint, value)


def faults_of(error: Exception, *place: str | int, value: Any) -> list[dict[str, Any]]:
    """What our own errors, pydantic's and others say about a value, seen from what has it at this place."""
    errors: Any = getattr(error, "errors", None)
    if not callable(errors):
        return [{"type": "value_error", "loc": place, "msg": str(error), "input": value}]
    return [
        {"type": one["type"], "loc": (*place, *one["loc"]), "msg": one["msg"], "input": one["input"]}
        for one in errors()
    ]


def _wrong(kind: str, message: str, value: Any, place: Place = ()) -> ValidationError:
    return ValidationError.one("", place, message, value, kind)


def _each(parts: Iterable[tuple[str | int, Any, Any]]) -> list[Any]:
    """The values of parts that come as (place, hint, value), converted. The error lists the faults of all."""
    made, faults = [], []
    for at, hint, value in parts:
        try:
            made.append(converted(hint, value))
        except ValueError as error:  # pydantic's is one too
            faults += faults_of(error, at, value=value)
    if faults:
        raise ValidationError("", faults)
    return made


def _plain(kind: type, hint: Any, value: Any) -> Any:
    try:
        if isinstance(value, kind) and not isinstance(value, bool):
            return value
    except TypeError:  # a protocol that is not for isinstance
        return value
    if hasattr(kind, "model_validate"):
        return kind.model_validate(value)
    if is_strange(kind):
        raise _wrong("is_instance_of", f"Input should be an instance of {kind.__name__}", value)
    try:
        return _by_rules(convert, value, hint)
    except ValueError:
        if kind not in _EXPECTED:
            raise
        raise _wrong(*_EXPECTED[kind], value) from None


def _bounded(hint: Any, value: Any) -> Any:
    made = converted(get_args(hint)[0], value)
    if any(isinstance(one, msgspec.Meta) for one in hint.__metadata__):
        return _by_rules(msgspec.convert, made, hint)
    return made


def _by_rules(convert: Callable[..., Any], value: Any, hint: Any) -> Any:
    """What a converter makes of a value. msgspec's error, which is no ValueError in all its versions, becomes ours."""
    try:
        return convert(value, hint)
    except msgspec.ValidationError as error:
        raise from_msgspec("", error, value) from None


def _choice(choices: tuple[Any, ...], value: Any) -> Any:
    for one in choices:
        if value == one and isinstance(value, type(one)):
            return one.value if isinstance(one, enum.Enum) else one
    raise _wrong("literal_error", f"Input should be {_listed(choices)}", value)


def _member(kind: type[enum.Enum], value: Any) -> Any:
    makers: tuple[Callable[[], Any], ...] = (lambda: kind(value), lambda: msgspec.convert(value, kind, strict=False))
    for make in makers:
        try:
            return make().value
        except (ValueError, TypeError, msgspec.ValidationError):
            continue
    raise _wrong("enum", f"Input should be {_listed(one.value for one in kind)}", value)


def _listed(choices: Iterable[Any]) -> str:
    *most, last = map(repr, choices)
    return f"{', '.join(most)} or {last}" if most else last


def _items(kind: type, hints: tuple[Any, ...], value: Any) -> Any:
    if isinstance(value, str | bytes | bytearray | Mapping) or not hasattr(value, "__iter__"):
        raise _wrong(f"{kind.__name__}_type", f"Input should be a valid {kind.__name__}", value)
    values = list(value)
    if kind is tuple and hints and hints[-1] is not Ellipsis:
        return tuple(_each(_positions(hints, values)))
    hint = hints[0] if hints else Any
    return kind(_each((at, hint, one) for at, one in enumerate(values)))


def _positions(hints: tuple[Any, ...], values: list[Any]) -> Iterable[tuple[int, Any, Any]]:
    if hints == ((),):  # tuple[()] on Python 3.10
        hints = ()
    if len(values) < len(hints):
        raise _wrong("missing", "Field required", values, (len(values),))
    if len(values) > len(hints):
        raise _wrong("too_long", f"Tuple should have at most {len(hints)} items, not {len(values)}", values)
    return zip(range(len(hints)), hints, values, strict=True)


def _mapping(hints: tuple[Any, ...], value: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _wrong("dict_type", "Input should be a valid dictionary", value)
    of_key, of_value = hints
    keys = _each((str(key), of_key, key) for key in value)
    return dict(zip(keys, _each((str(key), of_value, value[key]) for key in value), strict=True))


# -- lists and dicts of plain values -----------------------------------------------------------------------------------


def is_plain(hint: Any) -> bool:
    """Whether nothing but lists, dicts, numbers, text, booleans, None and their literals stand in it."""
    return all(leaf in _EXPECTED or leaf in (Any, Literal) for leaf in _leaves(hint))


def _leaves(hint: Any) -> set[Any]:
    """The types at the ends of a hint; a union and a literal are ends too, beside their parts."""
    kind = kind_of(hint)
    if hint is None or kind is Literal:
        return {NoneType if hint is None else Literal}
    if kind in UNIONS or kind in (*_LISTS, dict):
        parts = [one for one in get_args(hint) if one not in (Ellipsis, ())]
        ends: set[Any] = set().union(*map(_leaves, parts))
        return ends | {Literal} if kind in UNIONS else ends
    return {hint if isinstance(hint, type) or hint is Any else Annotated}


@functools.lru_cache(512)
def _ways(hint: Any) -> tuple[bool, ...]:
    """How msgspec may convert: strictly; or from text too, where it can be meant as one thing only."""
    if not is_plain(hint):
        return ()
    return (True, False) if _leaves(hint) <= {int, float, str} else (True,)


def _at_once(hint: Any, value: Any) -> Any:
    """A list or dict of plain values as msgspec has it; None if it has to go item by item."""
    try:
        ways = _ways(hint)
    except TypeError:  # bounds that cannot be hashed
        return None
    if ways and hasattr(value, "tolist"):  # an array
        value = value.tolist()
    for strict in ways:
        try:
            return msgspec.convert(value, hint, strict=strict)
        except (msgspec.ValidationError, TypeError, OverflowError, RecursionError):
            continue
    return None


# -- unions ------------------------------------------------------------------------------------------------------------

_MOST = 100  # faults that are told of one value: members within members would multiply them
_tried: ContextVar[dict[Any, Any] | None] = ContextVar("_tried", default=None)


def _any_of(hints: tuple[Any, ...], value: Any) -> Any:
    """As the member that the value is already; or else as the one, of those it fits, that takes most of its keys."""
    if value is None and NoneType in hints:
        return None
    hints = tuple(one for one in hints if one is not NoneType)
    if len(hints) == 1:
        return converted(hints[0], value)
    if not isinstance(value, list | Mapping):
        return _best(hints, value)
    tried = _tried.get()
    if tried is None:
        token = _tried.set({})
        try:
            return _best(hints, value)
        finally:
            _tried.reset(token)
    key = (id(value), *map(id, hints))
    if key not in tried:  # each member of a union around this one comes here
        try:
            tried[key] = (value, _best(hints, value), None)
        except ValueError as error:
            tried[key] = (value, None, error)
    _, made, failed = tried[key]
    if failed is not None:
        raise failed
    return made


def _best(hints: tuple[Any, ...], value: Any) -> Any:
    made, faults = [], []
    for hint in sorted(hints, key=lambda one: _distance(one, value)):
        try:
            made.append(converted(hint, value))
        except ValueError as error:
            faults += _about_member(faults_of(error, _name(hint), value=value))
            continue
        if _distance(hint, value) < 2:
            break
    if not made:
        raise ValidationError("", faults[:_MOST])
    return max(made, key=lambda one: len(getattr(one, "model_fields_set", ())))


def _about_member(faults: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that matter: where a literal says that another member is meant, the rest does not."""
    others = [one for one in faults if one["type"] == "literal_error" and len(one["loc"]) == 2]
    return others or faults


def _distance(hint: Any, value: Any) -> int:
    """0 if the value is of just this class, 1 if of one below it, 2 if it has to be made into it."""
    kind = kind_of(unnamed(hint))
    try:
        return 0 if type(value) is kind else 1 if isinstance(value, kind) else 2
    except TypeError:  # no class
        return 2


def _name(hint: Any) -> str:
    name: str = getattr(kind_of(unnamed(hint)), "__name__", str(hint))
    return name
