"""The names that code written for MLServer imports from `mlserver.codecs.utils`."""

from __future__ import annotations

from collections.abc import Sequence

from mlserve.codecs.base import InputOrOutput
from mlserve.codecs.decoded import (
    DecodedParameterName,
    Parametrised,
    decode_inference_request,
    decode_request_input,
    get_content_type,
    get_decoded,
    get_decoded_or_raw,
    has_decoded,
    save_decoded,
)
from mlserve.codecs.encoding import encode_inference_response, encode_response_output
from mlserve.codecs.lists import is_list_of
from mlserve.codecs.single import SingleInputRequestCodec
from mlserve.types import InferenceRequest, InferenceResponse

__all__ = [
    "DecodedParameterName",
    "InputOrOutput",
    "Parametrised",
    "RequestOrResponse",
    "SingleInputRequestCodec",
    "decode_inference_request",
    "decode_request_input",
    "encode_inference_response",
    "encode_response_output",
    "get_content_type",
    "get_decoded",
    "get_decoded_or_raw",
    "has_decoded",
    "inject_batch_dimension",
    "is_list_of",
    "save_decoded",
]

RequestOrResponse = InferenceRequest | InferenceResponse


def inject_batch_dimension(shape: Sequence[int]) -> list[int]:
    """The shape as encoded tensors have it: [N] becomes [N, 1]."""
    return [*shape, 1] if len(shape) == 1 else list(shape)
