"""Parameters as they travel: what Python has beyond JSON's values becomes the text and lists that JSON has for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlserve.errors import CodecError
from mlserve.types import Parameters
from mlserve.types.dumping import dump

__all__ = ["sendable"]

_AS_THEY_ARE = frozenset((str, float, bool))  # None, as absent, is not among parameters
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1  # no range: `in` walks through one for what is no plain int, as of an enum


def sendable(parameters: Parameters | None) -> dict[str, Any] | None:
    """The same with bytes and dates as text, as MLServer writes them, and with lists and dicts of such values.

    CodecError (500) names one that has no such form. Headers are the transports' own, and stay as they are.
    """
    if parameters is None:
        return None
    values = {**parameters}  # dict(…) would look up its keys()
    for name, value in dict.items(parameters):
        if value.__class__ not in _AS_THEY_ARE and name != "headers":
            values[name] = _in_json(name, value)
    return values


def _in_json(name: str, value: Any) -> Any:
    if isinstance(value, np.number | np.bool_):
        value = value.item()
    if isinstance(value, float):
        return value  # NaN, which JSON has not, has a form over gRPC
    if isinstance(value, int) and not _LEAST <= value <= _MOST:
        raise _unsendable(name, "an integer of more than 64 bits")
    try:
        return dump(value, json=True)
    except CodecError:
        raise _unsendable(name, "bytes that are not UTF-8; encode them, as base64") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise _unsendable(name, f"{error}; use text, numbers, lists or dicts") from None


def _unsendable(name: str, why: str) -> CodecError:
    return CodecError(f"parameter '{name}' cannot be sent: {why}", 500)
