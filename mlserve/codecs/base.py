"""The two kinds of codec that users may write: one for a single tensor, one for a whole request or response."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

from mlserve.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput

__all__ = ["InputCodec", "InputOrOutput", "RequestCodec"]

InputOrOutput = RequestInput | ResponseOutput


class InputCodec:
    """Turns one tensor into a Python object and back.

    A codec has at least `decode_input` and `encode_output`; the other two directions are made from these. Methods are
    called on the class; an object with the same methods does as well.
    """

    ContentType: ClassVar[str] = ""
    TypeHint: ClassVar[Any] = None

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """Whether a value belongs to this codec when nothing names a content type."""
        return False

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        """The Python object in an input. CodecError if the data is not what the content type says."""
        raise NotImplementedError(f"{cls.__name__} has no decode_input")

    @classmethod
    def decode_output(cls, response_output: ResponseOutput) -> Any:
        """The Python object in an output."""
        return cls.decode_input(_as_input(response_output))

    @classmethod
    def encode_input(cls, name: str, payload: Any, **kwargs: Any) -> RequestInput:
        """An input that holds the object."""
        return _as_input(cls.encode_output(name, payload, **kwargs))

    @classmethod
    def encode_output(cls, name: str, payload: Any, **kwargs: Any) -> ResponseOutput:
        """An output that holds the object. CodecError if the object is none of this codec's."""
        raise NotImplementedError(f"{cls.__name__} has no encode_output")

    @classmethod
    def decode(cls, request_input: RequestInput) -> Any:
        """`decode_input` under its old name."""
        _warn_of_old_name(cls, "decode", "decode_input")
        return cls.decode_input(request_input)

    @classmethod
    def encode(cls, name: str, payload: Any, **kwargs: Any) -> ResponseOutput:
        """`encode_output` under its old name."""
        _warn_of_old_name(cls, "encode", "encode_output")
        return cls.encode_output(name, payload, **kwargs)


class RequestCodec:
    """Turns a whole request or response into one Python object and back, such as a frame with a tensor a column."""

    ContentType: ClassVar[str] = ""
    TypeHint: ClassVar[Any] = None

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """Whether a value belongs to this codec when nothing names a content type."""
        return False

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> Any:
        """The Python object in a request. CodecError if the data is not what the content type says."""
        raise NotImplementedError(f"{cls.__name__} has no decode_request")

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> Any:
        """The Python object in a response."""
        inputs = [_as_input(one) for one in response.outputs]
        return cls.decode_request(InferenceRequest(parameters=response.parameters, inputs=inputs))

    @classmethod
    def encode_request(cls, payload: Any, **kwargs: Any) -> InferenceRequest:
        """A request that holds the object."""
        response = cls.encode_response("", payload, **kwargs)
        inputs = [_as_input(one) for one in response.outputs]
        return InferenceRequest(parameters=response.parameters, inputs=inputs)

    @classmethod
    def encode_response(
        cls, model_name: str, payload: Any, model_version: str | None = None, **kwargs: Any
    ) -> InferenceResponse:
        """A response that holds the object. CodecError if the object is none of this codec's."""
        raise NotImplementedError(f"{cls.__name__} has no encode_response")

    @classmethod
    def decode(cls, request: InferenceRequest) -> Any:
        """`decode_request` under its old name."""
        _warn_of_old_name(cls, "decode", "decode_request")
        return cls.decode_request(request)

    @classmethod
    def encode(
        cls, model_name: str, payload: Any, model_version: str | None = None, **kwargs: Any
    ) -> InferenceResponse:
        """`encode_response` under its old name."""
        _warn_of_old_name(cls, "encode", "encode_response")
        return cls.encode_response(model_name, payload, model_version, **kwargs)


def typed(content_type: str | None) -> Parameters | None:
    """Parameters that say nothing but a content type."""
    return Parameters(content_type=content_type) if content_type else None


def _as_input(tensor: InputOrOutput) -> RequestInput:
    return RequestInput(
        name=tensor.name, shape=tensor.shape, datatype=tensor.datatype, parameters=tensor.parameters, data=tensor.data
    )


def _warn_of_old_name(codec: type[Any], old: str, new: str) -> None:
    warnings.warn(f"{codec.__name__}.{old} is the old name of {new}", DeprecationWarning, stacklevel=3)
