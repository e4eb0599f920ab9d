"""Turns text and JSON into what a handler's annotation says, by the rules that users of FastAPI know.

Those are pydantic's, which is not needed for it: `yes` is a bool, `5.0` is an int, `1e3` is none, a date is a datetime
too. tests/test_arguments.py compares both. Where pydantic's own types stand in an annotation, pydantic does it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import re
import sys
import types
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import Parameter
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

__all__ = ["convert", "inside", "is_scalar", "reason_of", "unfit"]

_BOOLS = {
    **dict.fromkeys(("1", "on", "t", "true", "y", "yes"), True),
    **dict.fromkeys(("0", "off", "f", "false", "n", "no"), False),
}
_INTEGER = re.compile(r"\s*([+-]?\d+(?:_\d+)*)(?:\.0+)?\s*", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)
_TIME = r"\d\d:\d\d(?P<seconds>:\d\d(?:[.,]\d+)?)?(?P<zone>(?:[Zz]|[+-]\d\d:?\d\d))?"
_MOMENT = re.compile(rf"(?P<day>\d{{4}}-\d\d-\d\d)(?:[Tt _](?P<time>{_TIME}))?", re.ASCII)
_CLOCK = re.compile(_TIME, re.ASCII)
_SPAN = re.compile(
    r"(?P<sign>[+-])?(?:(?P<days>\d+)\s*d(?:ays?)?,?\s*)?"
    r"(?:(?P<hours>\d\d?):(?P<minutes>[0-5]\d)(?::(?P<seconds>[0-5]\d(?:\.\d+)?))?)?",
    re.ASCII | re.IGNORECASE,
)
_LISTS: dict[Any, Any] = {Sequence: list, Collection: list}
_SHOWN = (str, bytes, int, float, type(None))
_SECONDS_UP_TO = 2e10  # a larger number is one of milliseconds
_MOMENT_ZERO = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)


def is_scalar(hint: Any) -> bool:
    """Whether text can say it, so that it stands in a query; optional ones too."""
    if get_origin(hint) in (Union, types.UnionType):
        return all(is_scalar(one) for one in get_args(hint))
    if get_origin(hint) is Annotated:
        return is_scalar(get_args(hint)[0])
    scalars = (*(one for one in _SCALARS if one is not bytes), enum.Enum)
    return get_origin(hint) is Literal or (isinstance(hint, type) and issubclass(hint, scalars))


def convert(value: Any, hint: Any) -> Any:
    """The value as its annotation wants it. Any exception if that cannot be; its text says what and where."""
    if hint in (Parameter.empty, Any):
        return value
    if hasattr(hint, "model_validate"):  # pydantic's models, and our own types
        return hint.model_validate(value)
    if _has_pydantic(hint):
        return sys.modules["pydantic"].TypeAdapter(hint).validate_python(value)
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _one_of(value, get_args(hint))
    if origin is Annotated:
        return msgspec.convert(convert(value, get_args(hint)[0]), hint)  # for bounds by msgspec.Meta
    if origin is Literal:
        return _literal(value, get_args(hint))
    kind = _LISTS.get(origin or hint, origin or hint)
    if isinstance(kind, type):
        if issubclass(kind, enum.Enum):
            return _member(value, kind)
        if kind in _SCALARS:
            return value if type(value) is kind else _SCALARS[kind](value)
        if dataclasses.is_dataclass(kind):
            return value if isinstance(value, kind) else _dataclass(value, kind)
        if not hasattr(kind, "__annotations__") and issubclass(kind, Mapping):
            return _mapping(value, get_args(hint) or (Any, Any))
        if issubclass(kind, (list, tuple, set, frozenset)) and not hasattr(kind, "_fields"):
            return _items(value, kind, get_args(hint))
    return msgspec.convert(value, hint, strict=not isinstance(value, str))


def _has_pydantic(hint: Any) -> bool:
    """Whether pydantic's types, or bounds that it reads, stand somewhere inside, as in list[Item]."""
    if "pydantic" not in sys.modules:
        return False
    notes = getattr(hint, "__metadata__", ())
    return any(type(one).__module__.startswith(("pydantic", "annotated_types")) for one in notes) or any(
        hasattr(one, "model_validate") or _has_pydantic(one) for one in get_args(hint)
    )


def unfit(wanted: str, value: Any) -> ValueError:
    """Says what a value should be, and what it is; of what may hold secrets, only its kind."""
    shown = repr(value) if isinstance(value, _SHOWN) else f"a {type(value).__name__}"
    return ValueError(f"expected {wanted}, got {shown if len(shown) <= 60 else shown[:60] + '…'}")


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


# -- scalars -----------------------------------------------------------------------------------------------------------


def _bool(value: Any) -> bool:
    found = _BOOLS.get(value.lower()) if isinstance(value, str) else None
    if found is None and isinstance(value, (bool, int, float)) and value in (0, 1):
        found = bool(value)
    if found is None:
        raise unfit("true or false", value)
    return found


def _int(value: Any) -> int:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2.0**63:
        return int(value)
    match = _INTEGER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise unfit("an integer", value)
    return int(match[1])


def _float(value: Any) -> float:
    try:
        if isinstance(value, (int, float)) or (isinstance(value, str) and value.isascii()):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise unfit("a number", value)


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise unfit("text", value)
    return value


def _bytes(value: Any) -> bytes:
    return _str(value).encode()


def _none(value: Any) -> None:
    if value is not None:
        raise unfit("null", value)


def _decimal(value: Any) -> decimal.Decimal:
    try:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            found = decimal.Decimal(str(value))
            if found.is_finite():
                return found
    except decimal.InvalidOperation:
        pass
    raise unfit("a decimal number", value)


def _uuid(value: Any) -> uuid.UUID:
    try:
        return uuid.UUID(_str(value))
    except ValueError:
        raise unfit("a UUID", value) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _datetime(value: Any) -> dt.datetime:
    """Of ISO 8601, a date too; or of the seconds (or milliseconds) since 1970."""
    try:
        if _is_number(value) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
            number = float(value)
            return _MOMENT_ZERO + dt.timedelta(seconds=number if abs(number) <= _SECONDS_UP_TO else number / 1000)
        match = _MOMENT.fullmatch(value) if isinstance(value, str) else None
        if match is not None:
            time = _clock_text(match) if match["time"] else "00:00:00"
            return msgspec.convert(f"{match['day']}T{time}", dt.datetime)
    except (msgspec.ValidationError, ValueError, OverflowError):
        pass
    raise unfit("a date and time, such as 2026-01-31T12:00:00", value)


def _clock_text(match: re.Match[str]) -> str:
    """A time as RFC 3339 has it: with its seconds."""
    text = match[0][-len(match["time"]) :] if "time" in match.re.groupindex else match[0]
    seconds, zone = (match["seconds"] or ":00").replace(",", "."), match["zone"] or ""
    if len(zone) == len("+0100"):
        zone = f"{zone[:3]}:{zone[3:]}"
    return f"{text[:5]}{seconds[: len(':00.123456')]}{zone}"


def _date(value: Any) -> dt.date:
    """Also of a moment that is the beginning of a day."""
    try:
        moment = _datetime(value)
        if moment.time() == dt.time():
            return moment.date()
    except ValueError:
        pass
    raise unfit("a date, such as 2026-01-31", value)


def _time(value: Any) -> dt.time:
    """Also of the seconds since midnight."""
    try:
        if _is_number(value) and 0 <= value < 86400:
            return (_MOMENT_ZERO + dt.timedelta(seconds=value)).timetz()
        match = _CLOCK.fullmatch(value) if isinstance(value, str) else None
        if match is not None:
            return msgspec.convert(_clock_text(match), dt.time)
    except msgspec.ValidationError:
        pass
    raise unfit("a time, such as 12:00:00", value)


def _timedelta(value: Any) -> dt.timedelta:
    """Of seconds, `2 days, 1:30:00`, or ISO 8601 (`P2DT1H30M`)."""
    try:
        if isinstance(value, (int, float)):
            return dt.timedelta(seconds=value)
        match = _SPAN.fullmatch(value) if isinstance(value, str) else None
        if match is not None and (match["days"] or match["hours"]):
            units = ("days", "hours", "minutes", "seconds")
            found = dt.timedelta(**{unit: float(match[unit] or 0) for unit in units})
            return -found if match["sign"] == "-" else found
        return msgspec.convert(value, dt.timedelta)
    except (msgspec.ValidationError, ValueError, OverflowError):
        raise unfit("a span of time, such as 90 (seconds), 1:30:00 or PT90S", value) from None


_SCALARS: dict[type, Callable[[Any], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    bytes: _bytes,
    type(None): _none,
    decimal.Decimal: _decimal,
    uuid.UUID: _uuid,
    dt.datetime: _datetime,
    dt.date: _date,
    dt.time: _time,
    dt.timedelta: _timedelta,
}
