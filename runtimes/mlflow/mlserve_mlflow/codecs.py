"""Content type `dict`: a request or response as a dict of tensors by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mlserve.codecs import (
    CodecError,
    NumpyCodec,
    RequestCodec,
    decode_request_input,
    find_input_codec,
    get_decoded,
    has_decoded,
    register_request_codec,
)
from mlserve.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput

__all__ = ["TensorDictCodec"]

TensorDict = dict[str, np.ndarray[Any, Any]]


@register_request_codec
class TensorDictCodec(RequestCodec):
    """A dict with an entry for each tensor, in their order: a numpy array, or what the tensor's content type says."""

    ContentType: ClassVar[str] = "dict"
    TypeHint: ClassVar[Any] = dict[str, np.ndarray]

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """Dicts with names as keys and arrays as values."""
        return isinstance(payload, dict) and all(
            isinstance(name, str) and isinstance(value, np.ndarray) for name, value in payload.items()
        )

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> dict[str, Any]:
        """The inputs by name. CodecError if two share a name."""
        _check_names(request.inputs)
        return {one.name: _decoded(one) for one in request.inputs}

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> dict[str, Any]:
        """The outputs by name."""
        _check_names(response.outputs)
        return {one.name: _codec_of(one).decode_output(one) for one in response.outputs}

    @classmethod
    def encode_request(cls, payload: TensorDict, **kwargs: Any) -> InferenceRequest:
        """A request with an input for each entry."""
        inputs = [NumpyCodec.encode_input(name, value) for name, value in payload.items()]
        return InferenceRequest(parameters=Parameters(content_type=cls.ContentType), inputs=inputs)

    @classmethod
    def encode_response(
        cls, model_name: str, payload: TensorDict, model_version: str | None = None, **kwargs: Any
    ) -> InferenceResponse:
        """A response with an output for each entry."""
        outputs = [NumpyCodec.encode_output(name, value) for name, value in payload.items()]
        parameters = Parameters(content_type=cls.ContentType)
        return InferenceResponse(
            model_name=model_name, model_version=model_version, parameters=parameters, outputs=outputs
        )


def _decoded(tensor: RequestInput) -> Any:
    if has_decoded(tensor):
        return get_decoded(tensor)
    decoded = decode_request_input(tensor)
    return NumpyCodec.decode_input(tensor) if decoded is None else decoded


def _codec_of(tensor: ResponseOutput) -> Any:
    content_type = tensor.parameters.content_type if tensor.parameters is not None else None
    return (find_input_codec(content_type) if content_type else None) or NumpyCodec


def _check_names(tensors: Sequence[RequestInput | ResponseOutput]) -> None:
    names = [one.name for one in tensors]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CodecError(f"content type 'dict' needs a name for each tensor, but two are called '{twice[0]}'")
