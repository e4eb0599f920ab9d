"""`mlserver.codecs.base`: the bases of codecs, and what registers them, which some people import from there."""

from __future__ import annotations

from mlserve.codecs import register_input_codec, register_request_codec
from mlserve.codecs.base import InputCodec, RequestCodec

__all__ = [
    "InputCodec",
    "InputCodecLike",
    "RequestCodec",
    "RequestCodecLike",
    "register_input_codec",
    "register_request_codec",
]

InputCodecLike = type[InputCodec] | InputCodec
RequestCodecLike = type[RequestCodec] | RequestCodec
