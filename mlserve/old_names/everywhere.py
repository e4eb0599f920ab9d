"""Names that several modules of MLServer have: the alias looks here for what a module of ours lacks."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from mlserve.codecs import *  # noqa: F403
from mlserve.codecs.errors import CodecNotFound, InputsNotFound, OutputNotFound
from mlserve.codecs.lists import as_list
from mlserve.codecs.registry import (
    InputCodecLike,
    RequestCodecLike,
    find_input_codec_by_payload,
    find_input_codec_by_type_hint,
    find_request_codec_by_payload,
    find_request_codec_by_type_hint,
)
from mlserve.codecs.utils import SingleInputRequestCodec, inject_batch_dimension, is_list_of
from mlserve.errors import *  # noqa: F403
from mlserve.handlers import CustomHandler, custom_handler
from mlserve.model import MLModel
from mlserve.settings import ModelParameters, ModelSettings, Settings
from mlserve.settings.base import SettingsBase as BaseSettings
from mlserve.types import *  # noqa: F403
from mlserve.types import Model as BaseModel

ListElement = bytes | str

__all__ = [
    "BaseModel",
    "BaseSettings",
    "CodecNotFound",
    "InputCodecLike",
    "InputsNotFound",
    "JSONEncoderWithArray",
    "ListElement",
    "MLModel",
    "ModelParameters",
    "ModelSettings",
    "OutputNotFound",
    "RequestCodecLike",
    "Settings",
    "SingleInputRequestCodec",
    "as_list",
    "convert_nan",
    "decode_from_bytelike_json_to_dict",
    "decode_json_input_or_output",
    "decode_str",
    "encode_str",
    "encode_to_json",
    "encode_to_json_bytes",
    "find_input_codec_by_payload",
    "find_input_codec_by_type_hint",
    "find_request_codec_by_payload",
    "find_request_codec_by_type_hint",
    "inject_batch_dimension",
    "is_list_of",
    "register_custom_handler",
]


class JSONEncoderWithArray(json.JSONEncoder):
    """An encoder for `json.dumps` that takes arrays, numpy's scalars and bytes of UTF-8."""

    def default(self, obj: Any) -> Any:
        """What stands for an object in JSON. TypeError if nothing does."""
        if isinstance(obj, np.ndarray | np.generic):
            return obj.tolist()
        return decode_str(obj) if isinstance(obj, bytes) else super().default(obj)


def encode_to_json(v: Any, use_bytes: bool = True) -> bytes | str:
    """JSON of a value, arrays in it included."""
    return _json(v).encode() if use_bytes else _json(v)


def encode_to_json_bytes(v: Any) -> bytes:
    """JSON of a value as bytes."""
    return _json(v).encode()


def _json(value: Any) -> str:
    return json.dumps(value, cls=JSONEncoderWithArray, separators=(",", ":"), ensure_ascii=False)


def decode_from_bytelike_json_to_dict(v: bytes | str) -> Any:
    """The value that JSON text says."""
    return json.loads(v)


def decode_json_input_or_output(input_or_output: Any) -> list[Any]:
    """The values of a tensor whose elements are JSON texts."""
    return [json.loads(one) for one in input_or_output.data]


def encode_str(elem: str) -> bytes:
    """Text as UTF-8."""
    return elem.encode()


def decode_str(encoded: bytes | str) -> str:
    """Text of UTF-8; text stays as it is."""
    return encoded.decode() if isinstance(encoded, bytes) else encoded


def convert_nan(val: Any) -> Any:
    """None for NaN, else the value."""
    return None if isinstance(val, float | np.floating) and math.isnan(val) else val


def register_custom_handler(handler: CustomHandler, method: Any) -> Any:
    """`custom_handler` for a method that is there already."""
    custom_handler(handler.rest_path, handler.rest_method)(getattr(method, "__func__", method))
    return method
