"""Content type `np`: numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlserve.codecs.base import InputCodec, InputOrOutput
from mlserve.codecs.errors import CodecError, located, unencodable
from mlserve.codecs.numbers import array_of
from mlserve.codecs.registry import register_input_codec, register_request_codec
from mlserve.codecs.single import SingleInputRequestCodec
from mlserve.datatypes import BYTES, DTYPES, Datatype, check_count, datatype_of, is_masked, without_mask
from mlserve.errors import InvalidRequest
from mlserve.tensors import TensorData
from mlserve.types import Parameters, RequestInput, ResponseOutput
from mlserve.wire.json_data import to_json, values_from_json

__all__ = ["NumpyCodec", "NumpyRequestCodec", "to_datatype", "to_dtype"]

Array = NDArray[Any]

# Text of unlike lengths, as a fixed-width array, may take this many times the memory of the text itself.
_WIDTH_FACTOR = 16
_SMALL_BYTES = 1 << 20

_datatypes: dict[np.dtype[Any], Datatype] = {}  # grows by one entry for each numpy type that was ever encoded


def to_datatype(dtype: Any) -> Datatype:
    """The datatype of the protocol for a numpy type; CodecError for dates, complex numbers and the like."""
    return datatype_of(np.dtype(dtype))


def to_dtype(input_or_output: InputOrOutput) -> np.dtype[Any]:
    """The numpy type of a tensor's datatype; object for BYTES, whose elements may have any length."""
    return DTYPES[input_or_output.datatype]


@register_input_codec
class NumpyCodec(InputCodec):
    """A tensor as a numpy array of its datatype and shape; BYTES as text or bytes.

    An encoded tensor holds a copy of the array, and each decoded array is its caller's own, so that changing one in
    place changes nothing else. null and NaN are the same in floating-point tensors.
    """

    ContentType: ClassVar[str] = "np"
    TypeHint: ClassVar[Any] = np.ndarray

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """Arrays and numpy's scalars."""
        return isinstance(payload, np.ndarray | np.generic)

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Array:
        """The input as an array."""
        return _decode(request_input)

    @classmethod
    def decode_output(cls, response_output: ResponseOutput) -> Array:
        """The output as an array."""
        return _decode(response_output)

    @classmethod
    def encode_input(cls, name: str, payload: Any, **kwargs: Any) -> RequestInput:
        """An input that holds a copy of the array; a shape of [N] becomes [N, 1]."""
        array, datatype, shape = _encode(name, payload)
        return RequestInput(
            name=name,
            shape=shape,
            datatype=datatype,
            parameters=Parameters(content_type=cls.ContentType),
            data=_data(array),
        )

    @classmethod
    def encode_output(cls, name: str, payload: Any, **kwargs: Any) -> ResponseOutput:
        """An output that holds a copy of the array; a shape of [N] becomes [N, 1]."""
        array, datatype, shape = _encode(name, payload)
        return ResponseOutput(
            name=name,
            shape=shape,
            datatype=datatype,
            parameters=Parameters(content_type=cls.ContentType),
            data=_data(array),
        )


@register_request_codec
class NumpyRequestCodec(SingleInputRequestCodec):
    """The only tensor of a request or response, as a numpy array."""

    InputCodec = NumpyCodec
    ContentType: ClassVar[str] = NumpyCodec.ContentType
    TypeHint: ClassVar[Any] = NumpyCodec.TypeHint


# Functions, not methods: a subclass of NumpyCodec may well have a `_decode` of its own, which calls ours by super().


def _decode(tensor: InputOrOutput) -> Array:
    datatype = tensor.datatype
    try:
        array: Array = tensor.data.to_numpy(datatype, tensor.shape)
    except InvalidRequest as error:
        objects = _any_values(tensor) if datatype == BYTES else None
        if objects is not None:
            return objects
        raise located(error, tensor) from None
    return array if datatype != BYTES else _text_array(array)


def _encode(name: str, payload: Any) -> tuple[Any, Datatype, list[int]]:
    array = payload
    if payload.__class__ is not np.ndarray:
        if not hasattr(payload, "__array__") and type(payload) is not TensorData:
            raise unencodable(f"'{name}': content type 'np' takes numpy arrays, got {type(payload).__name__}")
        if is_masked(payload):
            return _encode_masked(name, payload)
        array = np.asarray(payload)
    datatype = _datatypes.get(array.dtype)
    if datatype is None:
        array, datatype = _checked(name, array)
    shape = list(array.shape)
    if len(shape) < 2:
        shape = [shape[0], 1] if shape else [1]
    return array.copy(), datatype, shape  # the caller may go on writing into its own


def _data(array: Any) -> TensorData:
    return TensorData.encoded(array) if array.__class__ is np.ndarray else TensorData(array)


def _encode_masked(name: str, payload: Any) -> tuple[Any, Datatype, list[int]]:
    """A masked array: of its own datatype, as a list where that has no missing value and only JSON can say so."""
    shown = without_mask(payload)
    if isinstance(shown, np.ndarray):
        return _encode(name, shown)
    _, datatype, shape = _encode(name, np.ma.getdata(payload))
    return shown, datatype, shape


def _checked(name: str, array: Array) -> tuple[Array, Datatype]:
    """An array that the protocol can carry, and its datatype; types that need no second look are remembered."""
    if array.dtype.kind == "O":
        return _from_objects(name, array)
    try:
        datatype = datatype_of(array.dtype)
    except CodecError as error:
        raise unencodable(f"'{name}': {error.message}") from None
    _datatypes[array.dtype] = datatype
    return array, datatype


def _from_objects(name: str, array: Array) -> tuple[Any, Datatype]:
    """An array of objects: text, bytes and None as they are, numbers as such an array, all else as JSON has it."""
    values = array.ravel().tolist()
    if all(isinstance(one, str | bytes) or one is None for one in values):
        return array, Datatype.BYTES
    try:
        numbers = array_of(values).reshape(array.shape)
        if numbers.dtype.kind in "biuf":
            return _checked(name, numbers)
    except CodecError as error:
        raise unencodable(f"'{name}': {error.message}") from None
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        plain = values_from_json(to_json(values))
    except CodecError as error:
        kinds = ", ".join(sorted({type(one).__name__ for one in values}))
        raise unencodable(f"'{name}': an array of objects ({kinds}): {error.message}") from None
    return _array_of_objects(plain, array.shape), Datatype.BYTES


def _array_of_objects(values: list[Any], shape: Sequence[int]) -> Array:
    """An array whose elements these are, lists among them too."""
    array = np.empty(len(values), object)
    for at, one in enumerate(values):
        array[at] = one
    return array.reshape(shape)


def _any_values(tensor: InputOrOutput) -> Array | None:
    """The values of a BYTES tensor that has other ones than text, as JSON has them: an array of objects. Lists are
    such values where that makes as many as the shape says, else rows; rows too where it leaves a size open. None if
    all are text, or their number is wrong."""
    values = tensor.data.tolist()
    levels: list[list[Any]] = []
    while isinstance(values, list):
        levels.append(values)
        is_even = values and all(isinstance(one, list) and len(one) == len(values[0]) for one in values)
        values = [one for row in values for one in row] if is_even else None
    for level in reversed(levels) if -1 in tensor.shape else levels:
        if not all(isinstance(one, str | bytes) or one is None for one in level):
            with suppress(CodecError):
                return _array_of_objects(level, check_count(tensor.shape, len(level)))
    return None


def _text_array(array: Array) -> Array:
    """Objects as numpy's own fixed-width text or bytes, unless that would lose something or take far more memory.

    Lost would be NUL at the end of an element, which is numpy's padding.
    """
    flat = array.ravel().tolist()
    kind = {type(one) for one in flat} or {str}
    if kind not in ({str}, {bytes}):
        return array
    widest, total = max(map(len, flat), default=0), sum(map(len, flat))
    if widest * len(flat) > max(_WIDTH_FACTOR * total, _SMALL_BYTES):
        return array
    if kind == {bytes}:
        return array if any(one.endswith(b"\0") for one in flat) else _shaped(flat, "S", array)
    return array if any(one.endswith("\0") for one in flat) else _shaped(flat, "U", array)


def _shaped(flat: list[Any], kind: str, like: Array) -> Array:
    made: Array = np.array(flat, dtype=kind).reshape(like.shape)
    return made
