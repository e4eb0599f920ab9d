"""For tests with grpcio: a channel, a request, and a call that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from mlserve.grpc import dataplane_pb2 as pb
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
