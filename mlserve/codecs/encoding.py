"""From a Python object to an output or a response: by the content type that somebody names, else by the value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlserve.codecs.decoded import get_content_type
from mlserve.codecs.registry import find_input_codec, find_input_codec_by_payload, find_request_codec_by_payload
from mlserve.types import InferenceResponse, MetadataTensor, RequestOutput, ResponseOutput

__all__ = ["encode_inference_response", "encode_response_output"]


def encode_response_output(
    payload: Any,
    request_output: RequestOutput,
    metadata_outputs: Mapping[str, MetadataTensor] | None = None,
) -> ResponseOutput | None:
    """An output that holds the value; None if no codec is named or takes such a value.

    The requested output's content type decides, then that of the output's metadata, then the value.
    """
    metadata = metadata_outputs.get(request_output.name) if metadata_outputs else None
    content_type = get_content_type(request_output, metadata)
    codec = find_input_codec(content_type) if content_type is not None else find_input_codec_by_payload(payload)
    return codec.encode_output(request_output.name, payload) if codec is not None else None


def encode_inference_response(payload: Any, model_settings: Any) -> InferenceResponse | None:
    """A response that holds the value; None if no codec for whole responses takes it."""
    codec = find_request_codec_by_payload(payload)
    if codec is None:
        return None
    version = model_settings.parameters.version if model_settings.parameters is not None else None
    return codec.encode_response(model_settings.name, payload, version)
