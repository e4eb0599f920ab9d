"""Content type `base64`: lists of bytes, written as base64 text."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from typing import Any, ClassVar

import numpy as np

import mlserve.codecs.string  # noqa: F401  # Registered before this one, so that an empty list without a type is text.
from mlserve.codecs.base import InputOrOutput
from mlserve.codecs.errors import CodecError, located, unencodable
from mlserve.codecs.lists import ListCodec, as_list, elements
from mlserve.codecs.registry import register_input_codec
from mlserve.datatypes import is_masked, without_mask

__all__ = ["Base64Codec"]


@register_input_codec
class Base64Codec(ListCodec):
    """A list of bytes as a BYTES tensor of base64 text; null is None.

    What is no base64 is taken as the bytes themselves, so that clients with a binary transport can leave the encoding
    out; JSON text must at least be ASCII.
    """

    ContentType: ClassVar[str] = "base64"
    TypeHint: ClassVar[Any] = list[bytes]
    Element: ClassVar[type[Any]] = bytes

    @classmethod
    def _read_elements(cls, tensor: InputOrOutput) -> list[Any]:
        found = elements(tensor, cls.ContentType)
        for at, one in enumerate(found):
            if one is None:
                continue
            if isinstance(one, str):
                if not one.isascii():
                    message = f"data[{at}]: {one[:24]!r} is not base64, which is ASCII"
                    raise located(CodecError(message), tensor)
                one = one.encode()
            try:
                found[at] = b64decode(one, validate=True)
            except binascii.Error:
                found[at] = one
        return found

    @classmethod
    def _write_elements(cls, name: str, payload: Any, use_bytes: bool) -> list[Any]:
        if is_masked(payload):
            payload = without_mask(payload)
        is_numbers = isinstance(payload, np.ndarray) and payload.ndim > 0 and payload.dtype.kind not in "USO"
        encoded: list[Any] = []
        for at, one in enumerate(payload if is_numbers else as_list(payload)):
            if one is None:
                encoded.append(None)
                continue
            text = b64encode(_octets(name, one, at))
            encoded.append(text if use_bytes else text.decode())
        return encoded


def _octets(name: str, value: Any, at: int) -> bytes:
    """The bytes of one element: of bytes, ASCII text, or anything that lends its memory, such as a row of an array."""
    if isinstance(value, str):
        if value.isascii():
            return value.encode()
        what = "text that is not ASCII"
    else:
        try:
            return memoryview(value).tobytes()
        except (TypeError, BufferError, ValueError):
            what = type(value).__name__
    raise unencodable(f"'{name}': content type 'base64' takes a list of bytes, got {what} at {at}")
