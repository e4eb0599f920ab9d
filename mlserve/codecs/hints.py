"""From the type hints of a predict method to the codecs of its arguments and results."""

from __future__ import annotations

import collections.abc
import inspect
import types
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from mlserve.codecs.base import InputCodec, RequestCodec
from mlserve.codecs.registry import (
    InputCodecLike,
    RequestCodecLike,
    find_input_codec_by_type_hint,
    find_request_codec_by_type_hint,
)
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput

__all__ = ["Hint", "read_hint", "read_result_hints"]

_UNSAID = (
    inspect.Parameter.empty,
    Any,
    object,
    None,
    type(None),
    list,
    tuple,
)  # a bare list may hold text, bytes or dates
_POSSIBLE = (
    "possible are numpy.ndarray, pandas.DataFrame, lists of str, bytes or datetime, RequestInput, InferenceRequest, "
    "Any, the types of registered codecs, and Annotated[..., SomeCodec]"
)
_STREAMS = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
    collections.abc.Iterator,
    collections.abc.Iterable,
    collections.abc.Generator,
)


@dataclass(frozen=True)
class Hint:
    """What a hint says: by which codec, or as which of the protocol's own types, a value goes."""

    text: str  # for messages
    input_codec: InputCodecLike | None = None
    request_codec: RequestCodecLike | None = None
    as_it_is: bool = False  # RequestInput, InferenceRequest and their counterparts: no codec at all
    whole: bool = False  # the value comes from (or goes into) the request as a whole
    optional: bool = False

    @property
    def unsaid(self) -> bool:
        """Whether the hint leaves it to content types and values."""
        return not self.as_it_is and self.input_codec is None and self.request_codec is None


def read_hint(hint: Any) -> Hint:
    """What one hint says. TypeError if no codec handles it."""
    text = _text(hint)
    if hint in _UNSAID:
        return Hint("anything")
    origin = get_origin(hint)
    named = getattr(origin or hint, "__value__", None)  # of `type X = …`, as numpy's NDArray is since 3.12
    if named is not None:
        return read_hint(named)
    if origin is Annotated:
        return _annotated(hint, text)
    if origin is Union or origin is types.UnionType:
        return _union(hint, text)
    if hint is InferenceRequest or hint is InferenceResponse:
        return Hint(text, as_it_is=True, whole=True)
    if hint is RequestInput or hint is ResponseOutput:
        return Hint(text, as_it_is=True)
    return _of_codec(hint, text) or _of_type(hint, text)


def read_result_hints(hint: Any, streams: bool) -> tuple[list[Hint], bool]:
    """The hints of what a predict method gives (of each chunk, if it streams), and whether they are a tuple's."""
    if streams and get_origin(hint) in _STREAMS:
        hint = get_args(hint)[0]
    if get_origin(hint) is tuple or isinstance(hint, tuple):  # `-> (A, B)` says what `-> Tuple[A, B]` does
        parts = hint if isinstance(hint, tuple) else get_args(hint)
        if len(parts) == 2 and parts[1] is Ellipsis:
            return [Hint("anything")], False  # as many outputs as the tuple has at run time, each by its value
        return [read_hint(part) for part in parts], True
    return [read_hint(hint)], False


def _annotated(hint: Any, text: str) -> Hint:
    plain, *extras = get_args(hint)
    for extra in extras:
        found = _of_codec(extra, text)
        if found is not None:
            return found
    return read_hint(plain)


def _union(hint: Any, text: str) -> Hint:
    """The first alternative that a codec handles; None among them makes the value optional."""
    alternatives = [one for one in get_args(hint) if one is not type(None)]
    optional = len(alternatives) < len(get_args(hint))
    fault: TypeError | None = None
    for one in alternatives:
        try:
            said = read_hint(one)
        except TypeError as error:
            fault = fault or error
            continue
        fields = {**vars(said), "text": text, "optional": optional or said.optional}
        return Hint(**fields)
    raise fault or TypeError(f"no codec handles the type hint {text}; {_POSSIBLE}")


def _of_codec(hint: Any, text: str) -> Hint | None:
    """A codec named in the hint itself: a class, or an object with a codec's methods."""
    if isinstance(hint, type):
        if issubclass(hint, InputCodec):
            return Hint(text, input_codec=hint)
        if issubclass(hint, RequestCodec):
            return Hint(text, request_codec=hint, whole=True)
        return None
    if isinstance(hint, InputCodec):
        return Hint(text, input_codec=hint)
    if isinstance(hint, RequestCodec):
        return Hint(text, request_codec=hint, whole=True)
    return None


def _of_type(hint: Any, text: str) -> Hint:
    codec = find_input_codec_by_type_hint(hint)
    if codec is not None:
        return Hint(text, input_codec=codec)
    request_codec = find_request_codec_by_type_hint(hint)
    if request_codec is not None:
        return Hint(text, request_codec=request_codec, whole=True)
    raise TypeError(f"no codec handles the type hint {text}; {_POSSIBLE}")


def _text(hint: Any) -> str:
    if isinstance(hint, type) and get_origin(hint) is None:
        return hint.__name__ if hint.__module__ == "builtins" else f"{hint.__module__}.{hint.__qualname__}"
    return str(hint).removeprefix("typing.")
