"""Content type `hf`: a whole request as the named values that a pipeline is called with, and its results."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from PIL import Image

from mlserve.codecs import NumpyCodec, RequestCodec, StringCodec, find_input_codec, register_request_codec
from mlserve.codecs.base import InputOrOutput, typed
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput
from mlserve_huggingface.codecs.json import HuggingfaceListJSONCodec, HuggingfaceSingleJSONCodec
from mlserve_huggingface.codecs.media import NumpyListCodec, PILImageCodec, RawCodec

__all__ = ["HuggingfaceRequestCodec", "MultiInputRequestCodec"]


class MultiInputRequestCodec(RequestCodec):
    """A dict with one value an input, by name."""

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """Never by itself: dicts are anybody's."""
        return False

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> dict[str, Any]:
        """The inputs' values by name: by their content types, else text as a list and numbers as arrays."""
        return {one.name: _decoded(one) for one in request.inputs}

    @classmethod
    def encode_request(cls, payload: Any, **kwargs: Any) -> InferenceRequest:
        """A request with one input a value, each with the content type that it needs."""
        inputs = [_encoded(name, value) for name, value in payload.items()]
        return InferenceRequest(parameters=typed(cls.ContentType), inputs=inputs)


@register_request_codec
class HuggingfaceRequestCodec(MultiInputRequestCodec):
    """What a pipeline is called with, and what it gave: a list of results as the output `output`."""

    ContentType: ClassVar[str] = "hf"

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> Any:
        """The results: those of the only output, or of several by name."""
        values = {one.name: _decoded(one) for one in response.outputs}
        return next(iter(values.values())) if len(values) == 1 else values

    @classmethod
    def encode_response(
        cls, model_name: str, payload: Any, model_version: str | None = None, **kwargs: Any
    ) -> InferenceResponse:
        """A response with the results as `hg_jsonlist`."""
        output = HuggingfaceListJSONCodec.encode_output("output", payload)
        return InferenceResponse(model_name=model_name, model_version=model_version, outputs=[output])


def _decoded(tensor: InputOrOutput) -> Any:
    named = find_input_codec(tensor.parameters.content_type) if tensor.parameters else None
    codec: Any = named or (StringCodec if tensor.datatype == "BYTES" else NumpyCodec)
    return codec.decode_input(tensor) if isinstance(tensor, RequestInput) else codec.decode_output(tensor)


def _encoded(name: str, value: Any) -> RequestInput:
    """An input with the value, by the codec that brings it back as it is."""
    if isinstance(value, Image.Image) or PILImageCodec.can_encode(value):
        return PILImageCodec.encode_input(name, value)
    if isinstance(value, np.ndarray):
        return NumpyCodec.encode_input(name, value)
    if isinstance(value, list) and value and all(isinstance(one, np.ndarray) for one in value):
        return NumpyListCodec.encode_input(name, value)
    if StringCodec.can_encode(value):
        return StringCodec.encode_input(name, value)
    if isinstance(value, str | bool | int | float):
        return RawCodec.encode_input(name, value)
    codec = HuggingfaceListJSONCodec if isinstance(value, list) else HuggingfaceSingleJSONCodec
    return codec.encode_input(name, value)
