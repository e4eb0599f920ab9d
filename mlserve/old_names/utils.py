"""`mlserver.utils`: helpers of runtimes, of which MLServer's documentation has the first."""

from __future__ import annotations

import inspect
import os
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from mlserve import artifacts
from mlserve.errors import InvalidModelURI
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest, InferenceResponse, Parameters

__all__ = [
    "InvalidModelURI",
    "extract_headers",
    "generate_uuid",
    "get_model_uri",
    "get_wrapped_method",
    "insert_headers",
    "install_uvloop_event_loop",
    "to_absolute_path",
]


def generate_uuid() -> str:
    """A new id for a request."""
    return str(uuid.uuid4())


async def get_model_uri(settings: ModelSettings, wellknown_filenames: Iterable[str] = ()) -> str:
    """Where `parameters.uri` says that the artifact is. InvalidModelURI if it says nothing: runtimes catch that to take
    a default. `mlserve.artifacts.get_model_uri` takes the model's folder then.
    """
    if settings.parameters is None or not settings.parameters.uri:
        raise InvalidModelURI(settings.name, "parameters.uri is not set")
    return await artifacts.get_model_uri(settings, wellknown_filenames)


def to_absolute_path(model_settings: ModelSettings, uri: str) -> str:
    """The path seen from the folder of the model's settings file; as it is where there is none."""
    folder = model_settings.source_dir
    return uri if folder is None else os.path.normpath(os.path.join(folder, uri))


def insert_headers(inference_request: InferenceRequest, headers: dict[str, str]) -> InferenceRequest:
    """The same request, with these headers in its parameters."""
    if inference_request.parameters is None:
        inference_request.parameters = Parameters()
    inference_request.parameters["headers"] = headers
    return inference_request


def extract_headers(inference_response: InferenceResponse) -> dict[str, str] | None:
    """The headers in the parameters of a response, taken out of them."""
    if inference_response.parameters is None:
        return None
    headers: dict[str, str] | None = dict.pop(inference_response.parameters, "headers", None)
    return headers


def get_wrapped_method(f: Callable[..., Any]) -> Callable[..., Any]:
    """The method below its decorators."""
    wrapped: Callable[..., Any] = inspect.unwrap(f)
    return wrapped


def install_uvloop_event_loop() -> None:
    """Nothing: `mlserve start` chooses the event loops of its processes."""
