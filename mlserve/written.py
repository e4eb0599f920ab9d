"""Says in JSON's words what a handler returned, as FastAPI does it: text for bytes, attributes for objects.

Where no annotation promised anything, FastAPI writes times by an encoder of its own (`+00:00`, durations in seconds),
otherwise pydantic does (`Z`, ISO 8601); so there are two writers.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import re
import types
from collections import deque
from collections.abc import Mapping, Set
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath
from typing import Any

import msgspec

from mlserve.tensors import TensorData
from mlserve.wire.json_data import text_of_bytes

__all__ = ["JSON_KINDS", "PROMISED", "UNPROMISED", "Writer"]

JSON_KINDS = {str, int, float, bool, type(None)}
_TEXTS = (PurePath, IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)
_TIMES = (dt.datetime, dt.time, dt.timedelta)


class Writer:
    """Writes values, those that an annotation promised or others. TypeError for what JSON cannot say."""

    def __init__(self, *, promised: bool) -> None:
        self._promised = promised
        self.encode = msgspec.json.Encoder(enc_hook=self._within).encode  # what is plain, and Structs

    def json(self, value: Any) -> bytes:
        """JSON of a value."""
        return self.encode(self.plain(value))

    def plain(self, value: Any) -> Any:
        """The value with text for bytes, and with what msgspec can write; Structs, and what nobody knows, stay."""
        if type(value) in JSON_KINDS or isinstance(value, (msgspec.Struct, type)):
            return value
        if isinstance(value, (bytes, bytearray, memoryview)):
            return text_of_bytes(value)
        if isinstance(value, TensorData):
            return msgspec.Raw(value.to_json())
        if isinstance(value, Mapping):
            return {self._key(key): self.plain(one) for key, one in value.items()}
        if isinstance(value, (list, tuple, Set, deque, types.GeneratorType)):
            values = list(value)
            return values if JSON_KINDS.issuperset(map(type, values)) else [self.plain(one) for one in values]
        if isinstance(value, decimal.Decimal):
            return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
        if isinstance(value, _TIMES):
            return value if self._promised else _time_of_fastapi(value)
        if hasattr(value, "model_dump"):
            return self.plain(value.model_dump(mode="json", by_alias=True))
        if hasattr(value, "tolist"):
            return self.plain(value.tolist())
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {one.name: self.plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
        return str(value) if isinstance(value, _TEXTS) or _is_pydantics(value) else value

    def _key(self, key: Any) -> Any:
        """A key of an object; where JSON has other words than text for it, those are its text."""
        if type(key) is str:
            return key
        plain = self.plain(key)
        return self.encode(plain).decode() if plain is None or isinstance(plain, bool) else plain

    def _within(self, value: Any) -> Any:
        """What msgspec shall write for a value that it does not know, also inside of Structs."""
        plain = self.plain(value)
        return self._of_its_own(value) if plain is value else plain

    def _of_its_own(self, value: Any) -> Any:
        """An object of any other class: its items or its attributes, whichever FastAPI would take."""
        if isinstance(value, re.Pattern):
            return self.plain(value.pattern)
        if not (isinstance(value, type) or callable(value)):
            with suppress(TypeError, ValueError):
                return self.plain(dict(value))
            with suppress(TypeError):
                return self.plain(vars(value))
        raise TypeError(f"a handler returned a {type(value).__name__}, which is none of JSON's types")


def _is_pydantics(value: Any) -> bool:
    """Whether its text is what pydantic wants to be seen: that of a SecretStr is stars, its attributes are not."""
    return any(one.__module__.startswith("pydantic") for one in type(value).__mro__)


def _time_of_fastapi(value: Any) -> Any:
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    return value.isoformat() if value == value else None  # pandas' NaT is a datetime


PROMISED = Writer(promised=True)
UNPROMISED = Writer(promised=False)
