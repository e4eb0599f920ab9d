"""Turns text and numbers into scalars as pydantic does it: into numbers, dates, addresses, paths and others.

Each function gives its kind, or raises ValueError with what it expected. Users of FastAPI know these rules.
"""

from __future__ import annotations

import datetime as dt
import decimal
import os
import re
import uuid
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import msgspec

__all__ = ["SCALARS", "unfit"]

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
_SHOWN = (str, bytes, int, float, type(None))
_SECONDS_UP_TO = 2e10  # a larger number is one of milliseconds
_MOMENT_ZERO = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)


def unfit(wanted: str, value: Any) -> ValueError:
    """Says what a value should be, and what it is; of what may hold secrets, only its kind."""
    shown = repr(value) if isinstance(value, _SHOWN) else f"a {type(value).__name__}"
    return ValueError(f"expected {wanted}, got {shown if len(shown) <= 60 else shown[:60] + '…'}")


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


def _pattern(value: Any) -> re.Pattern[Any]:
    try:
        return re.compile(value)
    except (TypeError, re.error):
        raise unfit("a regular expression", value) from None


def _path(kind: Any, value: Any) -> Any:
    return value if isinstance(value, kind) else kind(_str(value))


def _address(kind: Any, value: Any) -> Any:
    """Also of the number that it is."""
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise unfit(f"an {kind.__name__}", value) from None


SCALARS: dict[type, Callable[[Any], Any]] = {
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
    re.Pattern: _pattern,
    os.PathLike: partial(_path, PurePath),
    **{kind: partial(_path, kind) for kind in (PurePath, PurePosixPath, PureWindowsPath, Path, type(Path()))},
    **{kind: partial(_address, kind) for kind in (IPv4Address, IPv4Interface, IPv4Network)},
    **{kind: partial(_address, kind) for kind in (IPv6Address, IPv6Interface, IPv6Network)},
}
