"""For tests with grpcio: a channel, a request, and a call that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from mlserve.errors import ModelError
from mlserve.grpc import dataplane_pb2 as pb
from mlserve.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput
from tests.grpc_edge import SECONDS

SERVICE = "inference.GRPCInferenceService"


@contextmanager
def connected(address: str) -> Iterator[grpc.Channel]:
    """A channel whose answers may have any size."""
    with grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)]) as channel:
        yield channel


def message(model: str = "echo", values: Any = (1.5, 2.5), **more: Any) -> Any:
    request = pb.ModelInferRequest(model_name=model, **more)
    request.inputs.add(name="x", shape=[len(values)], datatype="FP32").contents.fp32_contents.extend(values)
    return request


def failure(call: Any, *args: Any, **more: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, timeout=more.pop("timeout", SECONDS), **more)
    return caught.value


async def words(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
    """One answer for each word; fails at the word boom."""
    for word in request.inputs[0].data.tolist()[0].split():
        if word == b"boom":
            raise ModelError("the stream met the word boom")
        output = ResponseOutput(name="word", shape=[1], datatype="BYTES", data=[word])
        yield InferenceResponse(
            model_name="", id=request.id, outputs=[output], parameters=Parameters(last=word == b"z")
        )


def say(text: str, model: str = "words", **more: Any) -> Any:
    request = pb.ModelInferRequest(model_name=model, **more)
    request.inputs.add(name="x", shape=[1], datatype="BYTES").contents.bytes_contents.append(text.encode())
    return request
