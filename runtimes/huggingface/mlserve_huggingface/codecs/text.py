"""What pipelines give, as JSON text and BYTES tensors: arrays, torch's numbers, pictures and bytes among it."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from mlserve.tensors import TensorData
from mlserve.types import Datatype, Parameters

__all__ = ["bytes_tensor", "json_text", "numbers_in", "png", "png_text"]

_PIECE = 100_000  # numbers whose text is made at once


def bytes_tensor(name: str, values: list[Any], content_type: str) -> dict[str, Any]:
    """The fields of a BYTES tensor of shape [N, 1] with these elements."""
    return {
        "name": name,
        "shape": [len(values), 1],
        "datatype": Datatype.BYTES,
        "parameters": Parameters(content_type=content_type),
        "data": TensorData(values),
    }


def json_text(value: Any) -> str:
    """The value as JSON: numbers that JSON lacks (NaN) are null, pictures PNG in base64. TypeError if it has none."""
    return _dumped(value) if numbers_in(value) < _PIECE else "".join(_pieces(value))


def numbers_in(value: Any) -> int:
    """How many numbers there are in the arrays of a value; three of true and false, which are shorter, are one."""
    if isinstance(value, dict | list | tuple):
        return sum(map(numbers_in, value.values() if isinstance(value, dict) else value))
    if not _is_array(value):
        return 0
    return int(math.prod(value.shape)) // (3 if "bool" in str(value.dtype) else 1)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "numpy")  # a tensor of torch or TensorFlow


def _pieces(value: Any) -> Iterator[str]:
    """The text in pieces, where there are arrays a row at a time: as lists they would take four times their text."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        inner = ((f"{json.dumps(key)}: ", one) for key, one in value.items())
        yield from _between("{", inner, "}")
    elif isinstance(value, list | tuple) or (_is_array(value) and value.ndim > 1):
        yield from _between("[", (("", one) for one in value), "]")
    else:
        yield _dumped(value)


def _between(first: str, inner: Iterator[tuple[str, Any]], last: str) -> Iterator[str]:
    yield first
    comma = ""
    for name, one in inner:
        yield f"{comma}{name}"
        yield from _pieces(one) if numbers_in(one) else (_dumped(one),)
        comma = ", "
    yield last


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value, default=_plain, allow_nan=False)
    except (TypeError, ValueError):  # keys that are no text, NaN: rare, and worth another look at everything
        return json.dumps(_finite(value), allow_nan=False)


def png(image: Image.Image) -> bytes:
    """A picture as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def png_text(image: Image.Image) -> str:
    """A picture as a PNG file in base64, as answers have it."""
    return base64.b64encode(png(image)).decode()


def _plain(value: Any) -> Any:
    """What `json` does not know, as something that it does."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Image.Image):
        return png_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if hasattr(value, "detach"):  # a torch tensor; bfloat16 is a type that numpy lacks
        tensor = value.detach().cpu()
        return tensor.tolist()
    if hasattr(value, "numpy"):  # one of TensorFlow
        return value.numpy().tolist()
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    if hasattr(value, "messages"):  # a chat
        return value.messages
    raise TypeError(f"the pipeline's result holds a {type(value).__name__}, which has no JSON form")


def _finite(value: Any) -> Any:
    """A copy with plain keys and without numbers that JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None.__class__):
        return value
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(_plain_key(key)): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return _finite(_plain(value))


def _plain_key(key: Any) -> Any:
    return key.item() if isinstance(key, np.generic) else key
