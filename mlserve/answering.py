"""What a handler returned, as JSON: as much of it as its return annotation has, as FastAPI's response models do it.

`_fitted` goes by the annotation: fields that only a subclass has stay inside, "5" is an int where one is promised. All
is checked, but for the fields of dataclasses and Structs that are there already: those are filtered, and pass if they
do not fit. written.py says in JSON's words what is left. Where pydantic's types are named, pydantic does it.
"""

from __future__ import annotations

import dataclasses
import decimal
import enum
import functools
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, MutableSequence, Sequence, Set
from inspect import Parameter
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from mlserve.annotations import adapter_of, is_pydantics, unnamed
from mlserve.arguments import convert, inside, is_scalar, reason_of
from mlserve.errors import CodecError, ModelError
from mlserve.scalars import unfit
from mlserve.types import Model
from mlserve.written import JSON_KINDS, PROMISED, UNPROMISED

__all__ = ["json_of"]

_Rule = Callable[[Any, Any, bool], Any]  # value, annotation, whether it is checked; gives what written.py can say

_LISTS = {list, tuple, set, frozenset, deque, Sequence, MutableSequence, Set, Collection, Iterable}
_MAPPINGS = {dict, OrderedDict, defaultdict, Mapping, MutableMapping}
_WRAPPERS = ("Required", "NotRequired", "ReadOnly")  # of the keys of TypedDicts


def json_of(value: Any, hint: Any) -> bytes:
    """JSON of what a handler returned. ModelError if its return annotation does not allow it, or JSON cannot say it."""
    told = hint not in (Parameter.empty, type(None))  # FastAPI takes `-> None` as no word about it
    if told:
        try:
            value = _fitted(value, hint, True)
        except Exception as error:
            raise ModelError(f"a handler returned what its annotation does not allow: {reason_of(error)}") from error
    try:
        return (PROMISED if told else UNPROMISED).json(value)
    except CodecError as error:
        raise ModelError(f"a handler returned bytes: {error}") from error


# -- by annotation -----------------------------------------------------------------------------------------------------


def _fitted(value: Any, hint: Any, checked: bool) -> Any:
    """What the annotation has of a value. Any exception if it does not fit and is checked."""
    hint = _bare(hint)
    rule = _rule_of(hint)
    if rule is None:
        return value
    try:
        return rule(value, hint, checked)
    except Exception:
        if checked:
            raise
        return value


def _bare(hint: Any) -> Any:
    """The annotation without names and wrappers around it."""
    while True:
        hint = unnamed(hint)
        if _wrapper_of(hint) not in _WRAPPERS and (get_origin(hint) is not Annotated or is_pydantics(hint)):
            return hint
        hint = get_args(hint)[0]


def _wrapper_of(hint: Any) -> str:
    return str(getattr(get_origin(hint), "_name", ""))


def _rule_of(hint: Any) -> _Rule | None:
    """How an annotation is read; None for those that say nothing about JSON: Any, classes of responses and others."""
    if hint in (Parameter.empty, Any, object):
        return None
    kind = get_origin(hint) or hint
    if kind in (Union, types.UnionType):
        return _by_pydantic if _is_pydantics_union(get_args(hint)) else _one_of
    if isinstance(kind, type) and issubclass(kind, Model):
        return lambda value, hint, checked: hint.model_validate(value)
    if is_pydantics(hint):
        return _by_pydantic
    if is_scalar(hint) or kind is bytes:
        return _scalar
    if not isinstance(kind, type):
        return None
    if kind in _LISTS:
        return _items
    if kind in _MAPPINGS:
        return _mapping
    if hasattr(kind, "__required_keys__"):
        return _typed_dict
    if dataclasses.is_dataclass(kind):
        return _dataclass
    return _struct if issubclass(kind, msgspec.Struct) else None


def _is_pydantics_union(members: tuple[Any, ...]) -> bool:
    """Whether pydantic shall choose the member: it knows which one has most of a dict's fields."""
    theirs = [is_pydantics(one) for one in members]
    return any(theirs) and all(known or is_scalar(one) for known, one in zip(theirs, members))


def _by_pydantic(value: Any, hint: Any, checked: bool) -> Any:
    adapter = adapter_of(hint)
    return adapter.dump_python(adapter.validate_python(value, from_attributes=True), mode="json", by_alias=True)


def _one_of(value: Any, hint: Any, checked: bool) -> Any:
    """By the member that is the value's own class, or its base, or the first one that fits."""
    reasons = []
    for one in sorted(get_args(hint), key=functools.partial(_distance, value)):
        known = one is Any or _rule_of(_bare(one)) is not None
        if known or _distance(value, one) < 2:
            try:
                return _fitted(value, one, True)
            except Exception as error:
                reasons.append(reason_of(error))
    raise ValueError("; or ".join(reasons) or f"got a {type(value).__name__}")


def _distance(value: Any, hint: Any) -> int:
    kind = get_origin(_bare(hint)) or _bare(hint)
    if type(value) is kind:
        return 0
    try:
        return 1 if isinstance(kind, type) and isinstance(value, kind) else 2
    except TypeError:  # a protocol
        return 2


def _scalar(value: Any, hint: Any, checked: bool) -> Any:
    if hint is decimal.Decimal:
        return str(convert(value, hint))  # text, as pydantic has it, which is exact
    if type(value) is hint:
        return value
    if hasattr(value, "tolist"):  # numpy's
        value = value.tolist()
    elif isinstance(value, bytes) and hint is not bytes and get_origin(hint) is not Literal:
        value = value.decode()
    elif isinstance(value, decimal.Decimal):
        value = float(value)
    elif isinstance(value, enum.Enum):
        value = value.value
    return convert(value, hint)


def _items(value: Any, hint: Any, checked: bool) -> list[Any]:
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, (list, tuple, Set, deque, types.GeneratorType)):
        raise unfit("a list", value)
    values, hints, kind = list(value), get_args(hint), get_origin(hint) or hint
    if kind is tuple and hints and hints[-1] is not Ellipsis:
        if len(values) != len(hints):
            raise unfit(f"{len(hints)} values", value)
        return [inside(f"[{at}]", _fitted, one, of, checked) for at, (one, of) in enumerate(zip(values, hints))]
    of = hints[0] if hints else Any
    if of is not Any and not (of in JSON_KINDS and {of}.issuperset(map(type, values))):  # the rest is as it should be
        values = [inside(f"[{at}]", _fitted, one, of, checked) for at, one in enumerate(values)]
    return list(dict.fromkeys(values)) if issubclass(kind, Set) else values


def _mapping(value: Any, hint: Any, checked: bool) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise unfit("an object", value)
    of_key, of_value = get_args(hint) or (Any, Any)
    return {
        inside(f"the key '{key}'", _fitted, key, of_key, checked): inside(f"'{key}'", _fitted, one, of_value, checked)
        for key, one in value.items()
    }


def _typed_dict(value: Any, hint: Any, checked: bool) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise unfit("an object", value)
    found = {}
    for name, of in _hints_of(hint).items():
        if name in value:
            found[name] = inside(f"'{name}'", _fitted, value[name], of, checked)
        elif checked and name in hint.__required_keys__ and _wrapper_of(of) != "NotRequired":
            raise ValueError(f"the member '{name}' is missing")
    return found


def _dataclass(value: Any, hint: Any, checked: bool) -> dict[str, Any]:
    kind = get_origin(hint) or hint
    if not isinstance(value, kind):
        value = convert(PROMISED.plain(value), kind)
    hints = _hints_of(kind)
    return {one.name: _fitted(getattr(value, one.name), hints[one.name], False) for one in dataclasses.fields(kind)}


def _struct(value: Any, hint: Any, checked: bool) -> msgspec.Raw:
    """A Struct as msgspec writes it, by the class that the annotation names."""
    kind: Any = get_origin(hint) or hint
    if not isinstance(value, kind):
        value = msgspec.convert(value, hint, strict=False, from_attributes=True)
    config = kind.__struct_config__
    found = {} if config.tag is None else {config.tag_field: config.tag}
    for field in msgspec.structs.fields(hint):
        one = getattr(value, field.name)
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if one is not msgspec.UNSET and not (config.omit_defaults and type(one) is type(default) and one == default):
            found[field.encode_name] = _fitted(one, field.type, False)
    return msgspec.Raw(PROMISED.encode(list(found.values()) if config.array_like else found))


@functools.lru_cache(256)
def _hints_of(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)
