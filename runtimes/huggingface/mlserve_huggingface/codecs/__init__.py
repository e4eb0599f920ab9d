"""The runtime's content types, under the names that MLServer gives them."""

from __future__ import annotations

from mlserve_huggingface.codecs.json import (
    HuggingfaceConversationCodec,
    HuggingfaceListJSONCodec,
    HuggingfaceSingleJSONCodec,
)
from mlserve_huggingface.codecs.media import NumpyListCodec, PILImageCodec, RawCodec
from mlserve_huggingface.codecs.request import HuggingfaceRequestCodec, MultiInputRequestCodec

__all__ = [
    "HuggingfaceConversationCodec",
    "HuggingfaceListJSONCodec",
    "HuggingfaceRequestCodec",
    "HuggingfaceSingleJSONCodec",
    "MultiInputRequestCodec",
    "NumpyListCodec",
    "PILImageCodec",
    "RawCodec",
]
