"""What the tests of runtimes share: loading a model from a folder, asking it, and asking a server over every transport."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from mlserve import MLModel, ModelSettings
from mlserve.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec
from mlserve.errors import MLServeError
from mlserve.testing import running_server
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput, RequestOutput

TRITON = {"REST binary": tritonclient.http, "gRPC": tritonclient.grpc}


class Trial:
    """One runtime under test."""

    def __init__(self, implementation: type[MLModel]) -> None:
        self.implementation = implementation

    def settings(self, folder: Path, **parameters: Any) -> ModelSettings:
        """Settings of a model in a folder."""
        settings = ModelSettings(name="m", implementation=self.implementation, parameters=parameters or None)
        settings.source_dir = folder
        return settings

    def load(self, folder: Path, **parameters: Any) -> Any:
        """The model, loaded."""
        model = self.implementation(self.settings(folder, **parameters))
        assert anyio.run(model.load)
        return model


def request_of(data: Any, *outputs: str) -> InferenceRequest:
    """A request with an array or a frame."""
    codec = NumpyRequestCodec if isinstance(data, np.ndarray) else PandasCodec
    request: InferenceRequest = codec.encode_request(data)
    request.outputs = [RequestOutput(name=name) for name in outputs] or None
    return request


def named_request(outputs: Sequence[str] = (), **tensors: Any) -> InferenceRequest:
    """A request with a tensor of exactly its shape for each name."""
    inputs = [_tensor(name, np.asarray(values)) for name, values in tensors.items()]
    return InferenceRequest(inputs=inputs, outputs=[RequestOutput(name=name) for name in outputs] or None)


def _tensor(name: str, array: Any) -> RequestInput:
    if array.dtype.kind in "OUS":
        return RequestInput(name=name, datatype="BYTES", shape=list(array.shape), data=array.ravel().tolist())
    encoded: RequestInput = NumpyCodec.encode_input(name, array)
    encoded.shape = list(array.shape)
    return encoded


def response_of(model: Any, request: InferenceRequest) -> InferenceResponse:
    """What predict gives, whether it is a coroutine or not."""

    async def predict() -> InferenceResponse:
        response: InferenceResponse = await model.predict(request)
        return response

    return anyio.run(predict)


def ask(model: Any, data: Any, *outputs: str) -> dict[str, Any]:
    """The answer to an array or a frame, as arrays by name."""
    return arrays(response_of(model, request_of(data, *outputs)))


def arrays(response: InferenceResponse) -> dict[str, Any]:
    """The outputs as arrays by name."""
    return {one.name: NumpyCodec.decode_output(one) for one in response.outputs}


def refusal(model: Any, data: Any, *outputs: str) -> str:
    """Why a model refuses an array or a frame, which must be the client's fault."""
    return refusal_of(model, request_of(data, *outputs))


def refusal_of(model: Any, request: InferenceRequest) -> str:
    """Why a model refuses a request, which must be the client's fault."""
    with pytest.raises(MLServeError) as caught:
        response_of(model, request)
    assert caught.value.http_status == 400
    return str(caught.value)


def served(
    folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Any], outputs: Sequence[str], workers: int
) -> dict[str, dict[str, Any]]:
    """The answers of a server for the model in a folder, with adaptive batching, by transport: arrays by name."""
    batching = {"max_batch_size": 8, "max_batch_time": 0.01}
    (folder / "model-settings.json").write_text(json.dumps({"name": "m", **batching, **settings}))
    with running_server(folder, parallel_workers=workers) as server:
        found = {"REST": arrays(server.infer("m", named_request(outputs, **tensors)))}
        places = {"REST binary": server.rest.removeprefix("http://"), "gRPC": server.grpc}
        for transport, kind in TRITON.items():
            inputs = [_triton_input(kind, name, values) for name, values in tensors.items()]
            asked = [kind.InferRequestedOutput(name) for name in outputs]
            with kind.InferenceServerClient(places[transport]) as client:
                answer = client.infer("m", inputs, outputs=asked)
                found[transport] = {name: answer.as_numpy(name) for name in outputs}
    return found


def _triton_input(kind: Any, name: str, values: Any) -> Any:
    datatype = str(NumpyCodec.encode_input(name, values).datatype)
    tensor = kind.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    return tensor
