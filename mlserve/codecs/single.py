"""Request codecs that look at one tensor alone, through an input codec."""

from __future__ import annotations

from typing import Any, ClassVar

from mlserve.codecs.base import InputCodec, RequestCodec, typed
from mlserve.codecs.decoded import get_decoded, has_decoded, save_decoded
from mlserve.codecs.errors import CodecError
from mlserve.types import InferenceRequest, InferenceResponse

__all__ = ["SingleInputRequestCodec"]


class SingleInputRequestCodec(RequestCodec):
    """The one tensor of a request or response, as `InputCodec` has it."""

    InputCodec: ClassVar[type[InputCodec]]
    DefaultInputPrefix: ClassVar[str] = "input-"
    DefaultOutputPrefix: ClassVar[str] = "output-"

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """Whether the input codec takes the value."""
        return cls.InputCodec.can_encode(payload)

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> Any:
        """The object in the only input, kept beside it: another call gives the same object, as it does on MLServer."""
        inputs = request.inputs
        if len(inputs) != 1:
            raise _not_single(cls.ContentType, "input", len(inputs))
        only = inputs[0]
        return get_decoded(only) if has_decoded(only) else save_decoded(only, cls.InputCodec.decode_input(only))

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> Any:
        """The object in the only output."""
        outputs = response.outputs
        if len(outputs) != 1:
            raise _not_single(cls.ContentType, "output", len(outputs))
        return cls.InputCodec.decode_output(outputs[0])

    @classmethod
    def encode_request(cls, payload: Any, **kwargs: Any) -> InferenceRequest:
        """A request with the object as its only input, `input-1`."""
        only = cls.InputCodec.encode_input(f"{cls.DefaultInputPrefix}1", payload, **kwargs)
        return InferenceRequest(parameters=typed(cls.ContentType), inputs=[only])

    @classmethod
    def encode_response(
        cls, model_name: str, payload: Any, model_version: str | None = None, **kwargs: Any
    ) -> InferenceResponse:
        """A response with the object as its only output, `output-1`."""
        only = cls.InputCodec.encode_output(f"{cls.DefaultOutputPrefix}1", payload, **kwargs)
        return InferenceResponse(
            model_name=model_name, model_version=model_version, parameters=typed(cls.ContentType), outputs=[only]
        )


def _not_single(content_type: str, what: str, count: int) -> CodecError:
    return CodecError(f"content type '{content_type}' is for requests with a single {what}, got {count} {what}s")
