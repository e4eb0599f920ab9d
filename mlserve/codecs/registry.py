"""The codecs that this process knows: found by content type, by the value to encode, or by a type hint.

One registry for a process, as people's code registers codecs at import. Codecs of mlserve come first, so that a
strangers' codec is asked about a value only when none of ours takes it; a content type that is registered again gets
the later codec.
"""

from __future__ import annotations

import collections.abc
import logging
from typing import Any, TypeVar, get_args, get_origin

from mlserve.codecs.base import InputCodec, RequestCodec

__all__ = [
    "InputCodecLike",
    "RequestCodecLike",
    "find_input_codec",
    "find_input_codec_by_payload",
    "find_input_codec_by_type_hint",
    "find_request_codec",
    "find_request_codec_by_payload",
    "find_request_codec_by_type_hint",
    "register_input_codec",
    "register_request_codec",
]

InputCodecLike = type[InputCodec] | InputCodec
RequestCodecLike = type[RequestCodec] | RequestCodec
_I = TypeVar("_I", bound=InputCodecLike)
_R = TypeVar("_R", bound=RequestCodecLike)

_logger = logging.getLogger("mlserve.codecs")
_input_codecs: dict[str, InputCodecLike] = {}
_request_codecs: dict[str, RequestCodecLike] = {}
_SEQUENCES = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)


def register_input_codec(CodecKlass: _I) -> _I:
    """A decorator: makes a codec known under its ContentType."""
    _input_codecs[_content_type(CodecKlass)] = CodecKlass
    return CodecKlass


def register_request_codec(CodecKlass: _R) -> _R:
    """A decorator: makes a codec for whole requests known under its ContentType."""
    _request_codecs[_content_type(CodecKlass)] = CodecKlass
    return CodecKlass


def find_input_codec(
    content_type: str | None = None, payload: Any = None, type_hint: Any = None
) -> InputCodecLike | None:
    """The codec of a content type; without one, that of a type hint or a value. None if there is none."""
    if content_type is not None:
        return _input_codecs.get(content_type)
    if type_hint is not None:
        return find_input_codec_by_type_hint(type_hint)
    return find_input_codec_by_payload(payload)


def find_request_codec(
    content_type: str | None = None, payload: Any = None, type_hint: Any = None
) -> RequestCodecLike | None:
    """The codec for whole requests of a content type; without one, that of a type hint or a value."""
    if content_type is not None:
        return _request_codecs.get(content_type)
    if type_hint is not None:
        return find_request_codec_by_type_hint(type_hint)
    return find_request_codec_by_payload(payload)


def find_input_codec_by_payload(payload: Any) -> InputCodecLike | None:
    """The first codec that says it can encode the value."""
    return next((codec for codec in _input_codecs.values() if _can_encode(codec, payload)), None)


def find_request_codec_by_payload(payload: Any) -> RequestCodecLike | None:
    """The first codec for whole responses that says it can encode the value."""
    return next((codec for codec in _request_codecs.values() if _can_encode(codec, payload)), None)


def find_input_codec_by_type_hint(type_hint: Any) -> InputCodecLike | None:
    """The first codec whose values the hint describes: `List[str]`, `list[str]`, `np.ndarray`, `NDArray[...]`."""
    wanted = _normal(type_hint)
    return next((codec for codec in _input_codecs.values() if _describes(codec, wanted)), None)


def find_request_codec_by_type_hint(type_hint: Any) -> RequestCodecLike | None:
    """The first codec for whole requests whose values the hint describes."""
    wanted = _normal(type_hint)
    return next((codec for codec in _request_codecs.values() if _describes(codec, wanted)), None)


def _content_type(codec: Any) -> str:
    content_type = getattr(codec, "ContentType", "")
    if not isinstance(content_type, str) or not content_type:
        raise ValueError(f"{codec!r} has no ContentType; give the class one, a short text")
    return content_type


def _can_encode(codec: InputCodecLike | RequestCodecLike, payload: Any) -> bool:
    try:
        return bool(codec.can_encode(payload))
    except Exception:  # a stranger's codec, asked about a value of another model: it must not break that model
        _logger.debug("can_encode of codec '%s' failed", codec.ContentType, exc_info=True)
        return False


def _describes(codec: InputCodecLike | RequestCodecLike, wanted: Any) -> bool:
    matches = getattr(codec, "_matches_hint", None)  # where one TypeHint does not say it
    return bool(matches(wanted)) if matches is not None else _normal(codec.TypeHint) == wanted


def _normal(hint: Any) -> Any:
    """One form for the ways to write a hint: lists as ("list", element), generic classes as the class."""
    origin = get_origin(hint)
    if origin in _SEQUENCES:
        return ("list", *get_args(hint))
    return origin if isinstance(origin, type) else hint
