"""For tests with grpcio: a stream in Triton's form whose client takes answers all the time."""

from __future__ import annotations

import queue
import threading
from typing import Any

import grpc

from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.grpc.streaming import STREAM_FORM_KEY
from mlserve.wire.schema import schema_class

WAIT_SECONDS = 60


class Talk:
    """Such a stream."""

    def __init__(self, address: str) -> None:
        self._questions: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.address = address
        self._channel = grpc.insecure_channel(address)
        call = self._channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            schema_class("inference.ModelStreamInferResponse").FromString,
        )
        metadata = [(STREAM_FORM_KEY, "triton")]
        self._answers = call(iter(self._questions.get, None), metadata=metadata, timeout=2 * WAIT_SECONDS)
        self.heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            for answer in self._answers:
                self.heard.put(answer.error_message or answer.infer_response.id)
        except grpc.RpcError:
            pass  # left

    def ask(self, request: pb.ModelInferRequest, id: str) -> None:
        request.id = id
        self._questions.put(request)

    def hear(self) -> str:
        return self.heard.get(timeout=WAIT_SECONDS)

    def leave(self) -> None:
        self._answers.cancel()
        self._questions.put(None)
        self._reader.join(WAIT_SECONDS)
        self._channel.close()


def round_trips(address: str) -> None:
    """Time for whatever the server might do beside."""
    with grpc.insecure_channel(address) as channel:
        for _ in range(20):
            GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=WAIT_SECONDS)
