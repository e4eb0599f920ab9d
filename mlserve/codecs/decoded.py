"""The decoded form of requests and inputs, kept beside them: made when somebody first looks there.

`decode_request_input` and `decode_inference_request` decode each time, since callers may write into what they get;
what they gave last is kept. It is a private attribute of the `parameters`, named by `DecodedParameterName`; it never
travels. What is deferred holds no reference back to the parameters: with a cycle, the memory of a request would be
freed late, by the collector.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from mlserve.codecs.base import InputOrOutput
from mlserve.codecs.registry import InputCodecLike, RequestCodecLike, find_input_codec, find_request_codec
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)

__all__ = [
    "DecodedParameterName",
    "Parametrised",
    "decode_inference_request",
    "decode_request_input",
    "get_content_type",
    "get_decoded",
    "get_decoded_or_raw",
    "has_decoded",
    "offer_decoded",
    "save_decoded",
]

DecodedParameterName = "_decoded_payload"
Parametrised = InferenceRequest | InferenceResponse | RequestInput | RequestOutput | ResponseOutput

_PENDING = "_pending"  # where Parameters keeps what was deferred
NOTHING: Any = object()  # "no codec was named", as against a decoded None


def has_decoded(parametrised_obj: Parametrised) -> bool:
    """Whether a decoded form is there, or can be made on demand from the content type that applies."""
    parameters = parametrised_obj.parameters
    if parameters is None:
        return False
    private = parameters.__dict__
    return DecodedParameterName in private or DecodedParameterName in private.get(_PENDING, ())


def get_decoded(parametrised_obj: Parametrised) -> Any:
    """The decoded form, made now if it was not yet; None if there is none. CodecError if the data is wrong."""
    if not has_decoded(parametrised_obj):
        return None
    return getattr(parametrised_obj.parameters, DecodedParameterName)


def get_decoded_or_raw(parametrised_obj: Parametrised) -> Any:
    """The decoded form; without one the tensor's data, or the request or response as it is."""
    if has_decoded(parametrised_obj):
        return getattr(parametrised_obj.parameters, DecodedParameterName)
    if isinstance(parametrised_obj, RequestInput | ResponseOutput):
        return parametrised_obj.data
    return parametrised_obj


def save_decoded(parametrised_obj: Parametrised, decoded_payload: Any) -> Any:
    """Keeps a decoded form beside its source; gives it back."""
    parameters = parametrised_obj.parameters
    if parameters is None:
        parameters = parametrised_obj.parameters = Parameters()
    parameters.__dict__[DecodedParameterName] = decoded_payload
    parameters.__dict__.pop(_PENDING, None)  # it would hold the data longer than anybody needs it
    return decoded_payload


def get_content_type(parametrised_obj: Any, metadata: Any = None) -> str | None:
    """The content type that the object names itself; else that of its metadata."""
    for one in (parametrised_obj, metadata):
        if one is not None and one.parameters is not None:
            content_type: str | None = dict.get(one.parameters, "content_type")
            if content_type is not None:
                return content_type
    return None


def decode_request_input(
    request_input: RequestInput, metadata_inputs: Mapping[str, MetadataTensor] | None = None
) -> Any | None:
    """The object in an input, by its content type or that of its metadata; None if neither names a known codec."""
    decoded = decoded_input(request_input, metadata_inputs)
    return None if decoded is NOTHING else decoded


def decoded_input(request_input: RequestInput, metadata_inputs: Mapping[str, MetadataTensor] | None = None) -> Any:
    """`decode_request_input`, with NOTHING for "no codec"."""
    codec = _input_codec(request_input, metadata_inputs)
    if codec is None:
        return NOTHING
    return save_decoded(request_input, codec.decode_input(request_input))


def decode_inference_request(
    inference_request: InferenceRequest,
    model_settings: Any = None,
    metadata_inputs: Mapping[str, MetadataTensor] | None = None,
) -> Any | None:
    """The object in a request, by its content type or the model's; the request if neither names a known codec."""
    decoded = decoded_request(inference_request, model_settings, metadata_inputs)
    return inference_request if decoded is NOTHING else decoded


def decoded_request(
    request: InferenceRequest, settings: Any, metadata_inputs: Mapping[str, MetadataTensor] | None
) -> Any:
    """`decode_inference_request`, with NOTHING for "no codec". Offers the inputs, decoded anew, in any case."""
    for one in request.inputs:
        _offer_input(one, metadata_inputs, anew=True)
    codec = _request_codec(request, settings)
    if codec is None:
        return NOTHING
    return save_decoded(request, codec.decode_request(request))


def offer_decoded(
    request: InferenceRequest,
    settings: Any = None,
    metadata_inputs: Mapping[str, MetadataTensor] | None = None,
) -> None:
    """Makes the decoded forms of a request and its inputs available; nothing is decoded until somebody reads them."""
    for one in request.inputs:
        if one.parameters is not None or metadata_inputs:
            _offer_input(one, metadata_inputs)
    codec = _request_codec(request, settings)
    if codec is None:
        return
    parameters = request.parameters
    if parameters is None:
        parameters = request.parameters = Parameters()
    if DecodedParameterName not in parameters.__dict__:
        make = partial(_decode_copy_of_request, codec, request.inputs, {**parameters})
        parameters._defer(DecodedParameterName, make)


def _offer_input(
    request_input: RequestInput, metadata_inputs: Mapping[str, MetadataTensor] | None, *, anew: bool = False
) -> None:
    codec = _input_codec(request_input, metadata_inputs)
    if codec is None:
        return
    parameters = request_input.parameters
    if parameters is None:
        parameters = request_input.parameters = Parameters()
    if anew:
        parameters.__dict__.pop(DecodedParameterName, None)
    if not has_decoded(request_input):
        one = request_input
        make = partial(_decode_copy_of_input, codec, one.name, one.shape, one.datatype, one.data, {**parameters})
        parameters._defer(DecodedParameterName, make)


def _input_codec(tensor: InputOrOutput, metadata: Mapping[str, MetadataTensor] | None) -> InputCodecLike | None:
    parameters = tensor.parameters
    content_type = dict.get(parameters, "content_type") if parameters is not None else None
    if content_type is None:
        if not metadata:
            return None
        content_type = get_content_type(metadata.get(tensor.name))
        if content_type is None:
            return None
    return find_input_codec(content_type)


def _request_codec(request: InferenceRequest, settings: Any) -> RequestCodecLike | None:
    parameters = request.parameters
    content_type = dict.get(parameters, "content_type") if parameters is not None else None
    if content_type is None and settings is not None and settings.parameters is not None:
        content_type = settings.parameters.content_type
    return find_request_codec(content_type) if content_type is not None else None


def _decode_copy_of_input(
    codec: InputCodecLike, name: str, shape: list[int], datatype: Any, data: Any, parameters: dict[str, Any]
) -> Any:
    copied = RequestInput(name=name, shape=shape, datatype=datatype, data=data, parameters=Parameters(parameters))
    return codec.decode_input(copied)


def _decode_copy_of_request(codec: RequestCodecLike, inputs: list[RequestInput], parameters: dict[str, Any]) -> Any:
    return codec.decode_request(InferenceRequest(inputs=inputs, parameters=Parameters(parameters)))
