"""The types of the Open Inference Protocol, as runtimes and clients use them.

msgspec Structs with the conveniences of pydantic models (`model_dump`, `parse_raw`, keywords or nested dicts), so
that code written for MLServer runs on them. A tensor's `data` is a TensorData: a list to who reads it, converted
when read.
"""

from __future__ import annotations

from mlserve.datatypes import Datatype
from mlserve.tensors import TensorData
from mlserve.types.model import Model
from mlserve.types.parameters import Parameters
from mlserve.types.protocol import (
    InferenceErrorResponse,
    InferenceRequest,
    InferenceResponse,
    MetadataModelErrorResponse,
    MetadataModelResponse,
    MetadataServerErrorResponse,
    MetadataServerResponse,
    MetadataTensor,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryIndexResponseItem,
    RepositoryLoadErrorResponse,
    RepositoryUnloadErrorResponse,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    State,
)
from mlserve.types.validation import ValidationError

__all__ = [
    "Datatype",
    "InferenceErrorResponse",
    "InferenceRequest",
    "InferenceResponse",
    "MetadataModelErrorResponse",
    "MetadataModelResponse",
    "MetadataServerErrorResponse",
    "MetadataServerResponse",
    "MetadataTensor",
    "Model",
    "Parameters",
    "RepositoryIndexRequest",
    "RepositoryIndexResponse",
    "RepositoryIndexResponseItem",
    "RepositoryLoadErrorResponse",
    "RepositoryUnloadErrorResponse",
    "RequestInput",
    "RequestOutput",
    "ResponseOutput",
    "State",
    "TensorData",
    "ValidationError",
]
