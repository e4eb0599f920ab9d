"""What is wrong with a value that should become one of the protocol's types."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

__all__ = ["Place", "ValidationError", "from_msgspec"]

Place = tuple[str | int, ...]

_AT = re.compile(r" - at `\$?(.*)`$")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")
_MISSING = re.compile(r"missing required field `(.+?)`")


class ValidationError(ValueError):
    """A value does not have the shape of its type; `errors()` lists place, message and input of each fault."""

    def __init__(self, title: str, errors: list[dict[str, Any]]) -> None:
        super().__init__(title, errors)
        self.title = title
        self._errors = errors

    @classmethod
    def one(cls, title: str, loc: Place, msg: str, value: Any, kind: str = "value_error") -> ValidationError:
        """An error with a single fault."""
        return cls(title, [{"type": kind, "loc": loc, "msg": msg, "input": value}])

    def below(self, title: str, *loc: str | int) -> ValidationError:
        """The same faults, seen from the object that holds the faulty one at this place."""
        return ValidationError(title, [{**one, "loc": (*loc, *one["loc"])} for one in self._errors])

    def errors(self, **_: Any) -> list[dict[str, Any]]:
        """One dict a fault: `type`, `loc` (a tuple of names and indices), `msg`, `input`."""
        return [dict(one) for one in self._errors]

    def error_count(self) -> int:
        """How many faults there are."""
        return len(self._errors)

    def json(self, *, indent: int | None = None, **_: Any) -> str:
        """`errors()` as JSON text."""
        return json.dumps(self._errors, indent=indent, default=repr)

    def __str__(self) -> str:
        count = len(self._errors)
        lines = [f"{count} validation error{'s' if count != 1 else ''} for {self.title}"]
        for one in self._errors:
            value = repr(one["input"])
            shown = value if len(value) <= 60 else f"{value[:57]}..."
            lines.append(".".join(map(str, one["loc"])) or "(the whole)")
            lines.append(f"  {one['msg']} [type={one['type']}, input={shown}]")
        return "\n".join(lines)


def from_msgspec(title: str, error: Exception, value: Any) -> ValidationError:
    """msgspec's error, with its place as a tuple and the part of `value` that it speaks of where that is known."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return ValidationError.one(title, (), f"Invalid JSON: {text}", value, "json_invalid")
    at = _AT.search(text)
    loc: Place = ()
    if at:
        loc = tuple(int(index) if index else name for name, index in _STEP.findall(at[1]))
        text = text[: at.start()]
    missing = _MISSING.search(text)
    if missing:
        return ValidationError.one(title, (*loc, missing[1]), "Field required", value, "missing")
    return ValidationError.one(title, loc, text, value)
