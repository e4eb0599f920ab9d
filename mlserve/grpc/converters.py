"""Requests and responses to and from protobuf messages, under the names that MLServer's documentation uses.

`to_types` takes the message of any generated code for the protocol (ours, tritonclient's, your own): it reads what
the message serialises to. `from_types` gives messages of `mlserve.grpc.dataplane_pb2`.
"""

from __future__ import annotations

from typing import Any

from mlserve.grpc.dataplane_pb2 import ModelInferRequest, ModelInferResponse
from mlserve.types import InferenceRequest, InferenceResponse
from mlserve.wire.v2proto import decode_request, decode_response, encode_request, encode_response

__all__ = ["ModelInferRequestConverter", "ModelInferResponseConverter"]


class ModelInferRequestConverter:
    """ModelInferRequest and InferenceRequest."""

    @classmethod
    def to_types(cls, message: Any) -> InferenceRequest:
        """The request of a message. InvalidRequest if its data does not fit its shapes."""
        return decode_request(message.SerializeToString()).request

    @classmethod
    def from_types(
        cls, request: InferenceRequest, model_name: str, model_version: str | None = None, use_raw: bool = False
    ) -> Any:
        """A message for a model. FP16 inputs travel raw in any case: they have no typed form."""
        chunks = encode_request(request, model_name, model_version, raw=use_raw)
        return ModelInferRequest.FromString(b"".join(chunks))


class ModelInferResponseConverter:
    """ModelInferResponse and InferenceResponse."""

    @classmethod
    def to_types(cls, message: Any) -> InferenceResponse:
        """The response of a message."""
        return decode_response(message.SerializeToString())

    @classmethod
    def from_types(cls, response: InferenceResponse, use_raw: bool = False) -> Any:
        """A message. `parameters.headers` are left out: on the wire they are metadata."""
        return ModelInferResponse.FromString(b"".join(encode_response(response, "raw" if use_raw else "contents")))
