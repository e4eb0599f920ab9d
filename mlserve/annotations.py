"""What a handler's annotations are: whose they are, where FastAPI would look for their values, who can convert them."""

from __future__ import annotations

import dataclasses
import enum
import functools
import sys
import types
from collections import deque
from collections.abc import Collection, Iterable, Mapping, MutableSequence, MutableSet, Sequence, Set
from inspect import Parameter
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from mlserve.in_pydantic import InPydantic
from mlserve.scalars import SCALARS

__all__ = [
    "UNIONS",
    "adapter_of",
    "check_convertible",
    "has_pydantic",
    "is_body",
    "is_pydantics",
    "is_strange",
    "kind_of",
    "unnamed",
]

UNIONS = (Union, types.UnionType)
_ABSTRACT: dict[Any, Any] = {
    Sequence: list,
    MutableSequence: list,
    Collection: list,
    Iterable: list,
    Set: frozenset,
    MutableSet: set,
}
_HOLDERS = (list, tuple, set, frozenset, deque, Mapping, msgspec.Struct, InPydantic)
_PYDANTICS = ("pydantic", "annotated_types")
_HOOKS = ("__pydantic_core_schema__", "__get_pydantic_core_schema__")


def unnamed(hint: Any) -> Any:
    """What a NewType or an alias (`type X = …`) stands for; any other annotation as it is."""
    while True:
        try:
            named = getattr(hint, "__supertype__", None) or getattr(hint, "__value__", None)
        except NameError:  # an alias of what only type checkers import
            return Any
        if named is None or isinstance(hint, type):
            return Any if hint in (Parameter.empty, object) or isinstance(hint, str) else hint
        given = get_args(hint)  # of an alias with parameters
        hint = named[given] if given and getattr(named, "__parameters__", ()) else named


def kind_of(hint: Any) -> Any:
    """The class of an annotation, without its arguments; that of an abstract one which values are made of."""
    kind = get_origin(hint) or hint
    return _ABSTRACT.get(kind, kind) if isinstance(kind, type) else kind


def is_body(hint: Any) -> bool:
    """Whether FastAPI looks for it in the body: models, mappings, sequences and the like; bytes here too."""
    hint = unnamed(hint)
    if get_origin(hint) in UNIONS:
        return any(is_body(one) for one in get_args(hint))
    if get_origin(hint) is Annotated:
        return is_body(get_args(hint)[0])
    kind = kind_of(hint)
    if not isinstance(kind, type) or issubclass(kind, (str, enum.Enum)):
        return False
    return kind is bytes or _holds_parts(kind)


def _holds_parts(kind: type) -> bool:
    return issubclass(kind, _HOLDERS) or dataclasses.is_dataclass(kind) or _is_of_attrs(kind) or _is_model(kind)


def _is_of_attrs(kind: Any) -> bool:
    return hasattr(kind, "__attrs_attrs__")


def _is_model(kind: Any) -> bool:
    return hasattr(kind, "model_validate")


# -- pydantic ----------------------------------------------------------------------------------------------------------


def is_pydantics(hint: Any) -> bool:
    """Whether it is one of pydantic's types, one that has the method pydantic asks for, or has bounds that it reads."""
    if "pydantic" not in sys.modules or (isinstance(hint, type) and issubclass(hint, InPydantic)):
        return False
    if any(type(one).__module__.startswith(_PYDANTICS) for one in getattr(hint, "__metadata__", ())):
        return True
    kind = get_origin(hint) or hint  # of Secret[int]
    return any(hasattr(hint, name) for name in _HOOKS) or (
        isinstance(kind, type) and kind.__module__.startswith("pydantic")
    )


def has_pydantic(hint: Any) -> bool:
    """Whether something inside, as in list[Item], is pydantic's, or a class that only pydantic may know."""
    return "pydantic" in sys.modules and any(is_pydantics(one) or is_strange(one) for one in _parts(hint))


def adapter_of(hint: Any) -> Any:
    """pydantic's converter of an annotation. Its errors if pydantic does not know it."""
    try:
        return _adapter_of(hint, repr(hint))
    except TypeError:  # bounds that cannot be hashed
        return sys.modules["pydantic"].TypeAdapter(hint)


@functools.lru_cache(256)
def _adapter_of(hint: Any, written: str) -> Any:  # unions in another order are equal, but mean something else
    return sys.modules["pydantic"].TypeAdapter(hint)


def check_convertible(hint: Any) -> None:
    """ValueError if there is a class inside of which neither we nor pydantic can make a value."""
    strange = next((one for one in _parts(hint) if is_strange(one)), None)
    if strange is None:
        return
    if "pydantic" in sys.modules:
        try:
            adapter_of(hint)
            return
        except Exception:
            pass
    name = getattr(strange, "__qualname__", str(strange))
    raise ValueError(
        f"nothing can make a {name} of what a request has; take text or numbers and make it in the method, or the "
        "whole request (`request: Request`)"
    )


def is_strange(hint: Any) -> bool:
    """Whether it is a class that convert() of `arguments` knows nothing of."""
    kind = kind_of(hint)
    if not isinstance(kind, type) or kind in (Any, Annotated, *UNIONS):  # those that are classes on some Pythons
        return False
    return not (kind in SCALARS or issubclass(kind, (enum.Enum, bytearray, memoryview)) or _holds_parts(kind))


def _parts(hint: Any) -> list[Any]:
    """An annotation and all that stand in it, each once: aliases may name themselves."""
    found = [unnamed(hint)]
    for one in found:
        inner = get_args(one)
        if get_origin(one) is Literal:
            continue
        for part in map(unnamed, inner[:1] if get_origin(one) is Annotated else inner):
            if not any(part is known for known in found):
                found.append(part)
    return found
