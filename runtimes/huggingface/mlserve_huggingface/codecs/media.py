"""Content types `pillow_image`, `nplist` and `raw`: pictures, lists of arrays, and values just as they are."""

from __future__ import annotations

import base64
import binascii
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from mlserve.codecs import InputCodec, NumpyCodec, register_input_codec
from mlserve.codecs.base import InputOrOutput, typed
from mlserve.codecs.errors import CodecError, located, unencodable
from mlserve.codecs.lists import elements
from mlserve.codecs.string import text_of
from mlserve.datatypes import BYTES, datatype_of
from mlserve.errors import InvalidRequest
from mlserve.tensors import TensorData
from mlserve.types import ResponseOutput
from mlserve_huggingface.codecs.pixels import Pixels
from mlserve_huggingface.codecs.text import bytes_tensor, png

__all__ = ["NumpyListCodec", "PILImageCodec", "RawCodec", "file_bytes", "picture_of_array", "pictures_of"]


@register_input_codec
class PILImageCodec(InputCodec):
    """A list of pictures: BYTES elements with a picture file each, as base64 or plain; or the pixels as UINT8.

    Pixels have the shape [height, width], [height, width, channels], or that with a number of pictures in front.
    """

    ContentType: ClassVar[str] = "pillow_image"
    TypeHint: ClassVar[Any] = list[Image.Image]

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """Lists of pictures."""
        return isinstance(payload, list) and bool(payload) and all(isinstance(one, Image.Image) for one in payload)

    @classmethod
    def decode_input(cls, request_input: Any) -> list[Image.Image]:
        """The pictures; CodecError for what is none."""
        return pictures_of(request_input, Pixels())

    @classmethod
    def decode_output(cls, response_output: ResponseOutput) -> Any:
        """The pictures of an output."""
        return cls.decode_input(response_output)

    @classmethod
    def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **kwargs: Any) -> ResponseOutput:
        """An output of shape [N, 1] with PNG files in base64; a bare picture is one."""
        pictures = payload if isinstance(payload, list | tuple) else [payload]
        if not all(isinstance(one, Image.Image) for one in pictures):
            raise unencodable(f"'{name}': content type 'pillow_image' takes pictures of PIL.Image")
        texts = [base64.b64encode(png(one)) for one in pictures]
        values: list[Any] = list(texts) if use_bytes else [one.decode() for one in texts]
        return ResponseOutput(**bytes_tensor(name, values, cls.ContentType))


@register_input_codec
class NumpyListCodec(InputCodec):
    """A list of arrays of one shape: the rows of a tensor."""

    ContentType: ClassVar[str] = "nplist"
    TypeHint: ClassVar[Any] = list[np.ndarray]

    @classmethod
    def decode_input(cls, request_input: Any) -> list[Any]:
        """The rows; a tensor of one dimension is one row."""
        array = _array(request_input)
        return list(array) if array.ndim > 1 else [array]

    @classmethod
    def decode_output(cls, response_output: ResponseOutput) -> Any:
        """The rows of an output."""
        return cls.decode_input(response_output)

    @classmethod
    def encode_output(cls, name: str, payload: Any, **kwargs: Any) -> ResponseOutput:
        """An output with one row an array. CodecError if their shapes differ."""
        try:
            array = np.stack([np.asarray(one) for one in payload])
            datatype = datatype_of(array.dtype)
        except (TypeError, ValueError, InvalidRequest) as error:
            raise unencodable(f"'{name}': content type 'nplist' takes arrays of one shape ({error})") from None
        return ResponseOutput(
            name=name,
            shape=list(array.shape),
            datatype=datatype,
            parameters=typed(cls.ContentType),
            data=TensorData.from_numpy(array),
        )


@register_input_codec
class RawCodec(InputCodec):
    """Values as Python has them: text, numbers, true and false; one element is the value itself, several are a list."""

    ContentType: ClassVar[str] = "raw"

    @classmethod
    def decode_input(cls, request_input: Any) -> Any:
        """The value, or the list of values in the tensor's shape."""
        if request_input.datatype == BYTES:
            values: Any = text_of(request_input, cls.ContentType)
        else:
            values = _array(request_input).tolist()
        return single(values)

    @classmethod
    def decode_output(cls, response_output: ResponseOutput) -> Any:
        """The value of an output, or its values."""
        return cls.decode_input(response_output)

    @classmethod
    def encode_output(cls, name: str, payload: Any, **kwargs: Any) -> ResponseOutput:
        """An output with the value or values. CodecError for other than text, numbers, booleans and lists of them."""
        values = list(payload) if isinstance(payload, list | tuple) else [payload]
        if all(isinstance(one, str | bytes | None.__class__) for one in values):
            encoded = [one.encode() if isinstance(one, str) else one for one in values]
            fields = bytes_tensor(name, encoded, cls.ContentType)
            return ResponseOutput(**{**fields, "shape": [len(values)]})
        array = np.array(values)
        output = NumpyCodec.encode_output(name, array)
        if array.dtype.kind == "O" and output.datatype == BYTES:
            raise unencodable(f"'{name}': content type 'raw' takes text, numbers and booleans")
        output.shape = [len(values)]
        output.parameters = typed(cls.ContentType)
        return output


def single(values: Any) -> Any:
    """The only value of lists within lists that hold just one; anything else as it is."""
    inner = values
    while isinstance(inner, list) and len(inner) == 1:
        inner = inner[0]
    return values if isinstance(inner, list) else inner


def file_bytes(tensor: InputOrOutput, content_type: str) -> list[bytes]:
    """The files in BYTES elements: base64, with or without "data:…;base64," before it, or the bytes themselves."""
    return [_file(one, at, tensor) for at, one in enumerate(elements(tensor, content_type))]


def _file(value: Any, at: int, tensor: InputOrOutput) -> bytes:
    octets = value.encode() if isinstance(value, str) else bytes(value or b"")
    if octets.startswith(b"data:") and b";base64," in octets[:100]:
        octets = octets.partition(b";base64,")[2]
    try:
        return base64.b64decode(octets, validate=True)
    except binascii.Error:
        if isinstance(value, str):
            raise located(CodecError(f"data[{at}]: {value[:32]!r} is no file in base64"), tensor) from None
        return octets


def pictures_of(tensor: InputOrOutput, pixels: Pixels) -> list[Image.Image]:
    """The pictures in files or pixels. CodecError for what is none, or has too many pixels."""
    if tensor.datatype != BYTES:
        array = _array(tensor)
        return [picture_of_array(one, tensor, pixels) for one in (array if array.ndim == 4 else [array])]
    return [_picture(one, at, tensor, pixels) for at, one in enumerate(file_bytes(tensor, "pillow_image"))]


def _picture(octets: bytes, at: int, tensor: InputOrOutput, pixels: Pixels) -> Image.Image:
    try:
        image = pixels.open(octets)
        image.load()
    except CodecError as error:
        raise located(CodecError(f"data[{at}]: {error}"), tensor) from None
    except (OSError, ValueError, SyntaxError):
        raise located(CodecError(f"data[{at}]: no picture that Pillow can read: {octets[:16]!r}"), tensor) from None
    return image


def picture_of_array(array: np.ndarray[Any, Any], tensor: InputOrOutput, pixels: Pixels) -> Image.Image:
    """A picture of pixels. CodecError unless they are UINT8 in a shape that a picture can have."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        told = f"{array.dtype} of shape {list(array.shape)}"
        error = CodecError(f"a picture's pixels are UINT8 of shape [height, width, 1, 3 or 4 channels], got {told}")
        raise located(error, tensor)
    try:
        pixels.count(array.shape[1], array.shape[0])
    except CodecError as error:
        raise located(error, tensor) from None
    return Image.fromarray(np.ascontiguousarray(array))


def _array(tensor: InputOrOutput) -> np.ndarray[Any, Any]:
    try:
        array: np.ndarray[Any, Any] = tensor.data.to_numpy(tensor.datatype, tensor.shape)
        return array
    except InvalidRequest as error:
        raise located(error, tensor) from None
