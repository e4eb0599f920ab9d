"""Content type `str`: lists of text."""

from __future__ import annotations

from typing import Any, ClassVar

from mlserve.codecs.base import InputOrOutput
from mlserve.codecs.errors import CodecError, located, unencodable
from mlserve.codecs.lists import ListCodec, as_list, elements
from mlserve.codecs.registry import register_input_codec, register_request_codec
from mlserve.codecs.single import SingleInputRequestCodec

__all__ = ["StringCodec", "StringRequestCodec"]


@register_input_codec
class StringCodec(ListCodec):
    """A list of text as a BYTES tensor of UTF-8; null is None.

    `use_bytes=False` leaves the elements as `str`, for who turns the tensor into JSON by own means.
    """

    ContentType: ClassVar[str] = "str"
    TypeHint: ClassVar[Any] = list[str]
    Element: ClassVar[type[Any]] = str

    @classmethod
    def _read_elements(cls, tensor: InputOrOutput) -> list[Any]:
        return text_of(tensor, cls.ContentType)

    @classmethod
    def _write_elements(cls, name: str, payload: Any, use_bytes: bool) -> list[Any]:
        encoded: list[Any] = []
        for at, one in enumerate(as_list(payload)):
            try:
                if isinstance(one, str):
                    encoded.append(one.encode() if use_bytes else one)
                elif isinstance(one, bytes):
                    text = one.decode()
                    encoded.append(one if use_bytes else text)
                elif one is None:
                    encoded.append(None)
                else:
                    what = f"{type(one).__name__} at {at}"
                    raise unencodable(f"'{name}': content type 'str' takes a list of text, got {what}")
            except UnicodeError as error:
                what = "text that has no UTF-8 form" if isinstance(one, str) else "bytes that are not UTF-8"
                raise unencodable(f"'{name}': content type 'str': {what} at {at} ({error})") from None
        return encoded


@register_request_codec
class StringRequestCodec(SingleInputRequestCodec):
    """The only tensor of a request or response, as a list of text."""

    InputCodec = StringCodec
    ContentType: ClassVar[str] = StringCodec.ContentType
    TypeHint: ClassVar[Any] = StringCodec.TypeHint


def text_of(tensor: InputOrOutput, content_type: str) -> list[str | None]:
    """The elements of a BYTES tensor as text; CodecError for bytes that are no UTF-8."""
    found = elements(tensor, content_type)
    if bytes in map(type, found):
        return [_utf8(one, at, tensor) if one.__class__ is bytes else one for at, one in enumerate(found)]
    return found


def _utf8(value: bytes, at: int, tensor: InputOrOutput) -> str:
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        message = f"data[{at}]: {value[:24]!r} is not UTF-8 ({error.reason} at byte {error.start})"
        raise located(CodecError(message), tensor) from None
