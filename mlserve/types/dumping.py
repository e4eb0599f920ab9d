"""Plain Python and JSON of the protocol's types: what model_dump and model_dump_json give."""

from __future__ import annotations

import datetime
import math
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import msgspec
import numpy as np

from mlserve.annotations import adapter_of
from mlserve.tensors import TensorData
from mlserve.wire.json_data import text_of_bytes

__all__ = ["dump", "dump_json", "encode", "json_hook"]

_ALL = "__all__"
_NONE: frozenset[str] = frozenset()


def json_hook(value: Any) -> Any:
    """What msgspec shall write for a value that it does not know; the `enc_hook` of encoders for these types."""
    if isinstance(value, TensorData):
        return msgspec.Raw(value.to_json())
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, datetime.date):  # of a class of its own, such as pandas'
        return value.isoformat() if value == value else None
    if hasattr(value, "model_dump"):
        return value.model_dump()
    module = type(value).__module__
    if isinstance(value, PurePath) or module == "ipaddress":
        return str(value)
    if hasattr(value, "get_secret_value"):
        return "**********" if value.get_secret_value() else ""  # as pydantic writes secrets
    if module.startswith("pydantic_core"):  # addresses, before pydantic 2.10
        return sys.modules["pydantic_core"].to_jsonable_python(value)
    if module.startswith("pydantic"):
        return adapter_of(type(value)).dump_python(value, mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")


encode = msgspec.json.Encoder(enc_hook=json_hook).encode


def dump(
    value: Any,
    include: Any = None,
    exclude: Any = None,
    *,
    none: bool = False,
    json: bool = False,
    text: bool = False,
    defaults: bool = True,
    unset: bool = False,
    by_alias: bool = False,
) -> Any:
    """Plain dicts, lists and values. Fields that are None are left out unless `none`, those with their default unless
    `defaults`; and unless `unset`, those that a subclass declares and nobody gave.

    `include` and `exclude` are sets of names, or dicts of name to such a set, to True or to another dict; the items
    of lists go by index, or by "__all__". With `json` the values are those of JSON; with `text` beside it, tensors'
    data stays for the encoder where nothing is picked from it.
    """
    hidden: frozenset[str]  # by Field(exclude=True) of a subclass
    form = {"none": none, "json": json, "text": text, "defaults": defaults, "unset": unset, "by_alias": by_alias}
    if isinstance(value, msgspec.Struct):
        items = [(name, getattr(value, name)) for name in value.__struct_fields__]
        hidden = getattr(value, "_hidden", _NONE)
        left_out = hidden if unset else hidden | getattr(value, "_unset", _NONE)
        if not defaults:
            fields = msgspec.structs.fields(type(value))
            items = [item for item, field in zip(items, fields, strict=True) if not _is_default(item[1], field)]
        items = [item for item in items if item[0] not in left_out]
        return _dump_items(items, _names_of(value, by_alias), include, exclude, **form)
    if isinstance(value, Mapping):  # None in a dict that somebody put into parameters is a value like others
        form["none"] = none or not hasattr(value, "model_dump")
        items = list(dict.items(value) if isinstance(value, dict) else value.items())
        if unset and hasattr(value, "_unset"):
            items += value._unset().items()
        hidden = getattr(value, "_hidden", _NONE)
        items = [item for item in items if item[0] not in hidden] if hidden else items
        return _dump_items(items, _names_of(value, by_alias), include, exclude, **form)
    if isinstance(value, TensorData):
        if text and include is None and exclude is None:
            return value
        value = value.tolist()
        if include is None and exclude is None and not json:
            return list(value) if isinstance(value, list) else value
    if isinstance(value, list | tuple):
        return _dump_list(value, include, exclude, **form)
    if hasattr(value, "model_dump") and not isinstance(value, type):  # a model of pydantic's
        said = {
            "by_alias": by_alias,
            "exclude_none": not none,
            "exclude_unset": not unset,
            "exclude_defaults": not defaults,
        }
        return value.model_dump(mode="json" if json else "python", include=include, exclude=exclude, **said)
    return _in_json(value) if json else value


def _is_default(value: Any, field: msgspec.structs.FieldInfo) -> bool:
    factory = field.default_factory
    default = field.default if factory is msgspec.NODEFAULT else factory()
    return type(value) is type(default) and bool(value == default)


def _in_json(value: Any) -> Any:
    """A value as JSON has it: bytes are the text that they hold, dates ISO 8601, NaN and the infinities null."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return text_of_bytes(value)
    return dump(msgspec.to_builtins(value, enc_hook=json_hook), json=True)


def dump_json(
    value: Any,
    include: Any = None,
    exclude: Any = None,
    *,
    none: bool = False,
    indent: int | None = None,
    defaults: bool = True,
    unset: bool = False,
    by_alias: bool = False,
) -> str:
    """JSON text of the same; without picking, tensors' data is written as it stands."""
    form = {"none": none, "defaults": defaults, "unset": unset, "by_alias": by_alias}
    text = encode(dump(value, include, exclude, json=True, text=True, **form))
    if indent is not None:
        text = msgspec.json.format(text, indent=indent)
    return text.decode()


def _names_of(value: Any, by_alias: bool) -> dict[str, str]:
    """What fields are called in a dump, where that is not their name."""
    return {name: field.written for name, field in getattr(value, "_declared", {}).items()} if by_alias else {}


def _dump_items(
    items: list[tuple[str, Any]], names: Mapping[str, str], include: Any, exclude: Any, **form: bool
) -> dict[str, Any]:
    plain = {}
    for name, value in items:
        if value is None and not form["none"]:
            continue
        kept, within, without = _pick(name, include, exclude)
        if kept:
            plain[names.get(name, name)] = dump(value, within, without, **form)
    return plain


def _dump_list(values: Any, include: Any, exclude: Any, **form: bool) -> list[Any]:
    if include is None and exclude is None:
        return [dump(one, **form) for one in values]
    include, exclude = _positive(include, len(values)), _positive(exclude, len(values))
    plain = []
    for at, one in enumerate(values):
        kept, within, without = _pick(at, include, exclude)
        if kept:
            plain.append(dump(one, within, without, **form))
    return plain


def _pick(name: str | int, include: Any, exclude: Any) -> tuple[bool, Any, Any]:
    """Whether an item stays, and what include and exclude say about its inside."""
    within = without = None
    if include is not None:
        within = _said(name, include)
        if within is None:
            return False, None, None
        within = None if _is_whole(within) else within
    if exclude is not None:
        without = _said(name, exclude)
        if without is not None and _is_whole(without):
            return False, None, None
    return True, within, without


def _said(name: str | int, choice: Any) -> Any:
    """What a choice says about one item: True for all of it, a choice for its inside, None for nothing."""
    if isinstance(choice, Mapping):
        said = choice.get(name, choice.get(_ALL) if isinstance(name, int) else None)
        return None if said is False else said
    return True if name in choice or (isinstance(name, int) and _ALL in choice) else None


def _is_whole(said: Any) -> bool:
    return said is True or said is ...


def _positive(choice: Any, length: int) -> Any:
    """The same choice with indices from the end made into indices from the start."""
    if isinstance(choice, Mapping):
        return {_from_start(key, length): said for key, said in choice.items()}
    return None if choice is None else {_from_start(key, length) for key in choice}


def _from_start(key: Any, length: int) -> Any:
    return key + length if isinstance(key, int) and key < 0 else key
