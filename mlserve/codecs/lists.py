"""Lists of text, bytes or dates: what their codecs share, the elements of BYTES tensors and how a list is told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np

from mlserve.codecs.base import InputCodec, InputOrOutput, typed
from mlserve.codecs.errors import CodecError, located, unencodable
from mlserve.datatypes import BYTES, Datatype
from mlserve.errors import InvalidRequest
from mlserve.tensors import TensorData
from mlserve.types import RequestInput, ResponseOutput
from mlserve.wire.json_data import flatten, strings_from_values

__all__ = ["ListCodec", "as_list", "elements", "is_list_of"]

_TEXTUAL = {str, bytes, type(None)}


class ListCodec(InputCodec):
    """A codec for lists of `Element` in BYTES tensors. Subclasses say how a list becomes elements and back."""

    Element: ClassVar[type[Any]]

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """Lists of this codec's values, None allowed between them; an empty list is one."""
        return is_list_of(payload, cls.Element)

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> list[Any]:
        """The values of the input, null as None. CodecError (400) names the first that is none of this codec's."""
        return cls._read_elements(request_input)

    @classmethod
    def decode_output(cls, response_output: ResponseOutput) -> list[Any]:
        """The values of the output, null as None."""
        return cls._read_elements(response_output)

    @classmethod
    def encode_input(cls, name: str, payload: Any, use_bytes: bool = True, **kwargs: Any) -> RequestInput:
        """An input of shape [N, 1] with the N values; a bare value is one. CodecError (500) names a wrong one.

        The tensor holds bytes, or `str` without `use_bytes`.
        """
        return RequestInput(**cls._fields(name, payload, use_bytes))

    @classmethod
    def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **kwargs: Any) -> ResponseOutput:
        """An output of shape [N, 1] with the N values; otherwise like `encode_input`."""
        return ResponseOutput(**cls._fields(name, payload, use_bytes))

    @classmethod
    def _read_elements(cls, tensor: InputOrOutput) -> list[Any]:
        raise NotImplementedError

    @classmethod
    def _write_elements(cls, name: str, payload: Any, use_bytes: bool) -> list[Any]:
        raise NotImplementedError

    @classmethod
    def _fields(cls, name: str, payload: Any, use_bytes: bool) -> dict[str, Any]:
        values = cls._write_elements(name, payload, use_bytes)
        return {
            "name": name,
            "shape": [len(values), 1],
            "datatype": Datatype.BYTES,
            "parameters": typed(cls.ContentType),
            "data": TensorData(values),
        }


def is_list_of(payload: Any, instance_type: type[Any] | tuple[type[Any], ...]) -> bool:
    """Whether this is a list of such values, None allowed between them; an empty list is."""
    if not isinstance(payload, list):
        return False
    if not payload:
        return True
    present = [one for one in payload if one is not None]
    return bool(present) and all(isinstance(one, instance_type) for one in present)


def as_list(payload: Any) -> list[Any]:
    """A flat list of the values of a list, tuple, set, array or series; anything else is one value.

    CodecError for None, which is no value at all.
    """
    if isinstance(payload, list):
        return payload
    if payload is None:
        raise unencodable("there are no values to encode, but None")
    if isinstance(payload, np.ndarray):
        flat: list[Any] = payload.ravel().tolist()
        return flat
    is_series = getattr(payload, "ndim", None) == 1 and hasattr(payload, "tolist")
    is_many = isinstance(payload, Collection) and not isinstance(payload, str | bytes | bytearray | Mapping)
    return list(payload) if is_series or (is_many and not hasattr(payload, "ndim")) else [payload]


def elements(tensor: Any, content_type: str) -> list[Any]:
    """The text, bytes and None of a tensor, flat; their number is not held against the shape, nor, as they are text,
    the datatype. CodecError for values that are no text.
    """
    try:
        values = tensor.data.tolist()
        flat = flatten(values)
        if not _TEXTUAL.issuperset(map(type, flat)):
            strings_from_values(flat)  # subclasses of str and bytes pass; it tells what does not
    except InvalidRequest as error:
        if tensor.datatype == BYTES:
            raise located(error, tensor) from None
        message = f"content type '{content_type}' needs datatype BYTES, got {tensor.datatype}"
        raise located(CodecError(message), tensor) from None
    return list(flat) if flat is values else flat  # callers write into it, and `values` is the tensor's own
