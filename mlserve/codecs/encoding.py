"""From a Python object to an output or a response: by the content type that somebody names, else by the value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlserve.codecs.decoded import get_content_type
from mlserve.codecs.errors import unfit
from mlserve.codecs.registry import find_input_codec, find_input_codec_by_payload, find_request_codec_by_payload
from mlserve.errors import MLServeError
from mlserve.types import InferenceResponse, MetadataTensor, RequestOutput, ResponseOutput

__all__ = ["encode_inference_response", "encode_response_output"]


def encode_response_output(
    payload: Any,
    request_output: RequestOutput,
    metadata_outputs: Mapping[str, MetadataTensor] | None = None,
) -> ResponseOutput | None:
    """An output that holds the value; None if no codec is named or takes such a value.

    The requested output's content type decides, then that of the output's metadata, then the value. CodecError (400) if
    only the request names a content type, and the value does not fit it.
    """
    metadata = metadata_outputs.get(request_output.name) if metadata_outputs else None
    content_type = get_content_type(request_output, metadata)
    codec = find_input_codec(content_type) if content_type is not None else find_input_codec_by_payload(payload)
    if codec is None:
        return None
    if content_type is None or content_type == get_content_type(metadata):
        return codec.encode_output(request_output.name, payload)
    try:
        return codec.encode_output(request_output.name, payload)
    except Exception as error:
        if isinstance(error, MLServeError) and error.http_status != 500:
            raise  # by a codec that says itself what its callers see
        raise unfit(f"output '{request_output.name}'", content_type, payload, error) from error


def encode_inference_response(payload: Any, model_settings: Any) -> InferenceResponse | None:
    """A response that holds the value; None if no codec for whole responses takes it."""
    codec = find_request_codec_by_payload(payload)
    if codec is None:
        return None
    version = model_settings.parameters.version if model_settings.parameters is not None else None
    return codec.encode_response(model_settings.name, payload, version)
