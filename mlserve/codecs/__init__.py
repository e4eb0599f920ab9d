"""Content types and their codecs: what turns tensors into Python objects and back. docs/codecs.md has the rules."""

from __future__ import annotations

from mlserve.codecs.base import InputCodec, RequestCodec
from mlserve.codecs.base64 import Base64Codec
from mlserve.codecs.datetime import DatetimeCodec
from mlserve.codecs.decoded import (
    DecodedParameterName,
    decode_inference_request,
    decode_request_input,
    get_decoded,
    get_decoded_or_raw,
    has_decoded,
    offer_decoded,
)
from mlserve.codecs.decorator import decode_args
from mlserve.codecs.encoding import encode_inference_response, encode_response_output
from mlserve.codecs.numpy import NumpyCodec, NumpyRequestCodec, to_datatype, to_dtype
from mlserve.codecs.pandas import PandasCodec
from mlserve.codecs.registry import (
    InputCodecLike,
    RequestCodecLike,
    find_input_codec,
    find_request_codec,
    register_input_codec,
    register_request_codec,
)
from mlserve.codecs.string import StringCodec, StringRequestCodec
from mlserve.errors import CodecError

__all__ = [
    "Base64Codec",
    "CodecError",
    "DatetimeCodec",
    "DecodedParameterName",
    "InputCodec",
    "InputCodecLike",
    "NumpyCodec",
    "NumpyRequestCodec",
    "PandasCodec",
    "RequestCodec",
    "RequestCodecLike",
    "StringCodec",
    "StringRequestCodec",
    "decode_args",
    "decode_inference_request",
    "decode_request_input",
    "encode_inference_response",
    "encode_response_output",
    "find_input_codec",
    "find_request_codec",
    "get_decoded",
    "get_decoded_or_raw",
    "has_decoded",
    "offer_decoded",
    "register_input_codec",
    "register_request_codec",
    "to_datatype",
    "to_dtype",
]
