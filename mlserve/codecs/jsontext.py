"""Content type `pd_json`: a column of any values that JSON has, each as its JSON text."""

from __future__ import annotations

import decimal
from typing import Any

import msgspec
import numpy as np
import orjson

from mlserve.codecs.base import InputOrOutput
from mlserve.codecs.errors import CodecError, located, unencodable
from mlserve.codecs.numbers import array_of
from mlserve.codecs.string import text_of

__all__ = ["JsonContentType", "json_texts", "values_of_json"]

JsonContentType = "pd_json"

_OPTIONS = orjson.OPT_NON_STR_KEYS  # without OPT_SERIALIZE_NUMPY, which orjson 3.12 and 3.13 get wrong (wire/json_data)


def json_texts(name: str, values: list[Any], use_bytes: bool) -> list[Any]:
    """The JSON text of each value; CodecError (500) names the column if one has none."""
    texts = [_text(name, one) for one in values]
    return texts if use_bytes else [one.decode() for one in texts]


def _text(name: str, value: Any) -> bytes:
    try:
        return orjson.dumps(value, default=_plain, option=_OPTIONS)
    except TypeError as error:
        try:
            return msgspec.json.encode(value, enc_hook=_plain)  # integers of more than 64 bits
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise unencodable(f"column '{name}': a value has no JSON form ({error})") from None


def values_of_json(tensor: InputOrOutput) -> Any:
    """The value of each JSON text: an array if all are numbers or all booleans, else a list, where null is None.

    CodecError for what is no JSON.
    """
    found: list[Any] = list(text_of(tensor, JsonContentType))
    for at, one in enumerate(found):
        if one is not None:
            try:
                found[at] = msgspec.json.decode(one)  # keeps integers of any size
            except (msgspec.DecodeError, RecursionError) as error:
                raise located(CodecError(f"data[{at}]: {one[:40]!r} is no JSON ({error})"), tensor) from None
    return _as_numbers(found)


def _as_numbers(values: list[Any]) -> Any:
    """An array of the same values, or the list itself where numpy would change one."""
    kinds = set(map(type, values))
    if kinds not in ({int, float}, {int}, {float}, {bool}):
        return values
    try:
        array = array_of(values)
    except (CodecError, OverflowError):
        return values
    return array if array.dtype.kind in "biuf" else values


def _plain(value: Any) -> Any:
    """What orjson shall write for values that it does not know."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} is none of JSON's types")
