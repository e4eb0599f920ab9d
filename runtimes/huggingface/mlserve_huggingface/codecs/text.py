"""What pipelines give, as JSON text and BYTES tensors: arrays, torch's numbers, pictures and bytes among it."""

from __future__ import annotations

import base64
import io
import json
import math
from typing import Any

import numpy as np
from PIL import Image

from mlserve.tensors import TensorData
from mlserve.types import Datatype, Parameters

__all__ = ["bytes_tensor", "json_text", "png"]


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
    try:
        return json.dumps(value, default=_plain, allow_nan=False)
    except (TypeError, ValueError):  # keys that are no text, NaN: rare, and worth another look at everything
        return json.dumps(_finite(value), allow_nan=False)


def png(image: Image.Image) -> bytes:
    """A picture as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _plain(value: Any) -> Any:
    """What `json` does not know, as something that it does."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Image.Image):
        return base64.b64encode(png(value)).decode()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if hasattr(value, "detach"):  # a torch tensor; bfloat16 is a type that numpy lacks
        tensor = value.detach().cpu()
        return tensor.tolist()
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
