"""MLModel: the base class of every runtime. Authors override load and predict, and use the helpers for codecs."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any

from mlserve.codecs.decoded import NOTHING, decoded_input, decoded_request, get_content_type
from mlserve.codecs.encoding import encode_inference_response, encode_response_output
from mlserve.codecs.errors import unencodable
from mlserve.codecs.registry import InputCodecLike, RequestCodecLike
from mlserve.errors import CodecError, MLServeError
from mlserve.settings import ModelSettings
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)

__all__ = ["MLModel"]


class _OwnSettings:
    """What `_settings` is for a model whose `__init__` leaves MLModel's out, as wrappers of other models do."""

    def __get__(self, model: MLModel, owner: type[MLModel]) -> ModelSettings:
        if model is None or owner.settings is MLModel.settings:
            raise AttributeError(f"{owner.__name__} has no settings: call super().__init__(settings) in its __init__")
        return model.settings


class MLModel:
    """One model, loaded in one process.

    `load` runs once in each worker, before any call; `predict` and `predict_stream` may run side by side where they
    await something. All four may be plain or async methods.
    """

    # True for a model that computes in a thread of its own while `predict` awaits it: its worker can look after streams
    # and cancellations meanwhile, but gets no other call.
    busy_while_awaiting = False

    # All but the settings stands in the class, for models that do not call this __init__.
    ready: bool | None = None  # until load() was called. False, set or given by load(), refuses the model; not later.
    _by_name: Mapping[str, tuple[Any, int, dict[str, MetadataTensor]]] = MappingProxyType({})
    _settings: ModelSettings = _OwnSettings()  # type: ignore[assignment]  # gives them, where the model has none

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings

    def __repr__(self) -> str:
        version = f" {self.version}" if self.version else ""
        return f"<{type(self).__name__} {self.name}{version}>"

    @property
    def name(self) -> str:
        """The model's name, as clients use it."""
        return self._settings.name

    @property
    def version(self) -> str | None:
        """The model's version, where its settings name one."""
        return self._settings.parameters.version if self._settings.parameters is not None else None

    @property
    def settings(self) -> ModelSettings:
        """The model's settings."""
        return self._settings

    @property
    def inputs(self) -> list[MetadataTensor]:
        """The declared inputs: by the settings, or by a runtime that finds them in its artifact."""
        return self._settings.inputs

    @inputs.setter
    def inputs(self, value: list[MetadataTensor] | None) -> None:
        self._settings.inputs = [] if value is None else value

    @property
    def outputs(self) -> list[MetadataTensor]:
        """The declared outputs."""
        return self._settings.outputs

    @outputs.setter
    def outputs(self, value: list[MetadataTensor] | None) -> None:
        self._settings.outputs = [] if value is None else value

    async def load(self) -> bool:
        """Loads the artifact. Override; give False to refuse, True or nothing when the model can serve."""
        return True

    async def unload(self) -> bool:
        """Frees what load took. Override where something must be freed."""
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The answer to one request. Override."""
        raise MLServeError(f"model '{self.name}' has no predict(): {type(self).__name__} does not define it", 500)

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        """The answers to a stream of requests, in any number. Override; here each request has the one of predict."""
        async for payload in payloads:
            answer: Any = self.predict(payload)  # which a subclass may have made a plain method
            yield await answer if inspect.isawaitable(answer) else answer

    async def metadata(self) -> MetadataModelResponse:
        """What the model's metadata endpoint says."""
        settings = self._settings
        own = settings.parameters
        return MetadataModelResponse(
            name=self.name,
            versions=list(settings.versions),
            platform=settings.platform,
            inputs=self.inputs,
            outputs=self.outputs,
            parameters=Parameters(content_type=own.content_type) if own is not None else None,
        )

    def decode(self, request_input: RequestInput, default_codec: InputCodecLike | None = None) -> Any:
        """The object in an input: by its content type, by that of its metadata, by the default codec; else its data.

        CodecError if the data is not what the content type says.
        """
        decoded = decoded_input(request_input, self.declared("inputs"))
        if decoded is not NOTHING:
            return decoded
        return request_input.data if default_codec is None else default_codec.decode_input(request_input)

    def decode_request(self, inference_request: InferenceRequest, default_codec: RequestCodecLike | None = None) -> Any:
        """The object in a request: by its content type, by the model's, by the default codec; else the request."""
        decoded = decoded_request(inference_request, self._settings, self.declared("inputs"))
        if decoded is not NOTHING:
            return decoded
        return inference_request if default_codec is None else default_codec.decode_request(inference_request)

    def encode(
        self, payload: Any, request_output: RequestOutput, default_codec: InputCodecLike | None = None
    ) -> ResponseOutput:
        """An output with the value: by the content type asked for, by that of its metadata, by the value itself.

        CodecError if no codec takes the value: the client's fault (400) where it has named the content type, else 500.
        """
        output = encode_response_output(payload, request_output, self.declared("outputs"))
        if output is not None:
            return output
        if default_codec is not None:
            return default_codec.encode_output(request_output.name, payload)
        place = f"output '{request_output.name}' of model '{self.name}'"
        asked = get_content_type(request_output)
        if asked is not None:
            raise CodecError(f"{place}: there is no codec for the content type '{asked}' that is asked for")
        raise unencodable(f"{place}: no codec for its value, a {type(payload).__name__}")

    def encode_response(self, payload: Any, default_codec: RequestCodecLike | None = None) -> InferenceResponse:
        """A response with the value, by the codec that its type asks for. CodecError (500) if there is none."""
        response = encode_inference_response(payload, self._settings)
        if response is not None:
            return response
        if default_codec is not None:
            return default_codec.encode_response(self.name, payload, self.version)
        kind = type(payload).__name__
        raise unencodable(f"response of model '{self.name}': no codec for its value, a {kind}")

    def declared(self, which: str) -> dict[str, MetadataTensor] | None:
        """The declared inputs or outputs ("inputs", "outputs") by name; None if there are none.

        Runtimes may declare them at any time.
        """
        declared = getattr(self._settings, which)
        if not declared:
            return None
        known = self._by_name.get(which)
        if known is None or known[0] is not declared or known[1] != len(declared):
            known = (declared, len(declared), {one.name: one for one in declared})
            self._by_name = {**self._by_name, which: known}
        return known[2]
