"""From what files and variables hold to the types of settings, leniently, with errors that say what was expected."""

from __future__ import annotations

import json
import math
import re
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

_TRUE = frozenset({"true", "1", "yes", "y", "on", "t"})
_FALSE = frozenset({"false", "0", "no", "n", "off", "f"})
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "array": "a list",
    "object": "an object {...}",
    "null": "null",
}
_EXPECTED = re.compile(
    r"Expected `(?P<kinds>[^`]*)`(?P<bound>(?: [<>]=? \S+)*)(?P<rest>[^`]*?)(?:, got .*?)?(?: - at .*)?$"
)


class BadValue(ValueError):
    """A value that a setting cannot take: `path` is the way to its key, `text` what was expected."""

    def __init__(self, path: tuple[str, ...], text: str) -> None:
        super().__init__(f"'{'.'.join(path)}': {text}" if path else text)
        self.path = path
        self.text = text

    def under(self, key: str) -> BadValue:
        """The same problem, seen from the mapping that holds this one under `key`."""
        return BadValue((key, *self.path), self.text)


def convert(value: Any, kind: Any) -> Any:
    """A value as a plain type, leniently: "true", "1", "yes" are booleans, "8080" and 8080.0 whole numbers."""
    if bool in _parts(kind) and isinstance(value, str):
        word = value.strip().lower()
        value = True if word in _TRUE else False if word in _FALSE else value
    if isinstance(value, (tuple, set, frozenset)):
        value = list(value)
    if isinstance(value, Path):
        value = str(value)
    try:
        converted = msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadValue((), f"{_explain(str(error), kind)}, got {shorten(value)}") from None
    if isinstance(converted, float) and not math.isfinite(converted):
        raise BadValue((), f"expected a finite number, got {shorten(value)}")
    return converted


def _explain(message: str, kind: Any) -> str:
    """What msgspec says about a value, in the words of a settings file."""
    choices = [repr(choice) for part in flat(kind) if get_origin(part) is Literal for choice in get_args(part)]
    if message.startswith("Invalid enum value") and choices:
        return f"expected {'a number or ' if float in _parts(kind) else ''}{' or '.join(choices)}"
    found = _EXPECTED.match(message)
    if found is None:
        return message[:1].lower() + message[1:]
    words = [_WORDS.get(word, word) for word in found["kinds"].split(" | ")]
    each = " for each member" if " - at `$[" in message else ""
    return f"expected {' or '.join(words)}{found['bound'].removesuffix('.0')}{each}"


def flat(kind: Any) -> tuple[Any, ...]:
    """The members of a union; anything else by itself."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def shorten(value: Any, limit: int = 60) -> str:
    """A value as JSON would show it, cut where it gets long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def parse_text(text: str, kind: Any) -> Any:
    """The text of a variable as the value to convert: JSON where the setting is no plain value. Raises ValueError."""
    kinds = _parts(kind)
    stripped = text.strip()
    if type(None) in kinds and (stripped.lower() == "null" or (not stripped and str not in kinds)):
        return None
    structured = any(kind in (list, dict, tuple, set, frozenset) or _has_parts(kind) for kind in kinds)
    if not structured or (str in kinds and not stripped.startswith(("{", "["))):
        return text if str in kinds else stripped
    try:
        return json.loads(stripped)
    except ValueError:
        raise ValueError(f"expected JSON such as {_example(kinds)}, got {shorten(text)}") from None


def _example(kinds: frozenset[Any]) -> str:
    return '["a", "b"]' if list in kinds else '{"key": "value"}'


def _parts(kind: Any) -> frozenset[Any]:
    """The plain types that a type is a union of; parameters and bounds are left out."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return frozenset().union(*(_parts(part) for part in get_args(kind)))
    if hasattr(kind, "__metadata__"):
        return _parts(get_args(kind)[0])
    return frozenset({kind if origin is None else origin})


def _has_parts(kind: Any) -> bool:
    return isinstance(kind, msgspec.StructMeta) or hasattr(kind, "model_validate")
