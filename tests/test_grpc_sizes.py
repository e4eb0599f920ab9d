"""gRPC messages that are large or packed, over real sockets on both backends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from mlserve.grpc import compression
from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.unsent import Unsent
from tests.grpc_calls import SERVICE, connected, failure
from tests.grpc_edge import BACKENDS, SECONDS, Running, serving, wait_for


@pytest.fixture(params=BACKENDS)
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(request.param) as running:
        yield running


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    with connected(server.address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)


def raw_message(array: Any, model: str = "echo") -> Any:
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[array.tobytes()])
    request.inputs.add(name="x", shape=array.shape, datatype="FP32")
    return request


@pytest.mark.parametrize("size", [10_000, 1_000_000, 5_000_000])
def test_large_tensors_come_back_whole(stub: GRPCInferenceServiceStub, size: int) -> None:
    """In frames of any size, past the windows of both sides."""
    array = np.random.default_rng(1).random(size, dtype="f4")
    calls = [stub.ModelInfer.future(raw_message(array + at), timeout=SECONDS) for at in range(2)]
    for at, call in enumerate(calls):
        assert call.result().raw_output_contents[0] == (array + at).tobytes()


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("size", [10, 100_000])
def test_packed_messages_are_read_and_answered_in_kind(
    stub: GRPCInferenceServiceStub, algorithm: grpc.Compression, size: int
) -> None:
    """Small ones as well as those that are unpacked beside the event loop."""
    for array in (np.zeros(size, "f4"), np.random.default_rng(1).random(size, dtype="f4")):
        answer = stub.ModelInfer(raw_message(array), compression=algorithm)
        assert answer.raw_output_contents[0] == array.tobytes()


def test_an_answer_is_packed_only_for_clients_that_pack_and_where_it_pays(server: Running) -> None:
    """Seen from the side of the wire: grpcio unpacks unseen."""
    from mlserve.grpc.compression import pack
    from tests.grpc_edge import DATA, END_HEADERS, END_STREAM, HEADERS, frame, framed, talk

    zeros, noise = np.zeros(5_000, "f4"), np.random.default_rng(1).random(5_000, dtype="f4")

    def flag_of(array: Any, encoding: str, accept: str, packed: bool) -> int:
        fields = [
            (":method", "POST"), (":scheme", "http"), (":path", f"/{SERVICE}/ModelInfer"), (":authority", "a"),
            ("te", "trailers"), ("content-type", "application/grpc"), ("grpc-accept-encoding", accept),
            *([("grpc-encoding", encoding)] if encoding else []),
        ]  # fmt: skip
        body = raw_message(array).SerializeToString()
        if packed:
            body = pack([body], len(body), encoding) or body
        data = framed(body, int(packed))
        heard = talk(
            server.port,
            lambda encoder: frame(HEADERS, END_HEADERS, 1, encoder.encode(fields)) + frame(DATA, END_STREAM, 1, data),
            lambda heard: heard.status() is not None,
        )
        assert heard.status() == "0"
        return heard.data()[0]

    assert flag_of(zeros, "gzip", "identity, gzip", packed=True) == 1
    assert flag_of(zeros, "deflate", "deflate", packed=True) == 1
    assert flag_of(zeros, "", "identity,deflate,gzip", packed=False) == 0
    assert flag_of(zeros, "gzip", "identity", packed=True) == 0
    assert flag_of(np.concatenate([noise, zeros[:1]]), "gzip", "gzip", packed=False) == 0


def test_packing_a_large_answer_leaves_the_server_free(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are answered while zlib works, and the answers of a stream keep their order."""
    began, go = threading.Event(), threading.Event()

    def slow_pack(chunks: Any, size: int, encoding: str) -> bytes | None:
        if size > 100_000:
            began.set()
            wait_for(go)
        return compression.pack(chunks, size, encoding)

    monkeypatch.setattr("mlserve.grpc.call.pack", slow_pack)
    arrays = [np.full(size, at, "f4") for at, size in enumerate((50_000, 10, 50_000, 1_000, 10))]
    requests = iter([raw_message(array) for array in arrays])
    with connected(server.address) as one, connected(server.address) as other:
        answers = GRPCInferenceServiceStub(one).ModelStreamInfer(
            requests, timeout=SECONDS, compression=grpc.Compression.Gzip
        )
        wait_for(began)
        try:
            assert GRPCInferenceServiceStub(other).ServerLive(pb.ServerLiveRequest(), timeout=SECONDS / 2).live
        finally:
            go.set()
        assert [answer.raw_output_contents[0] for answer in answers] == [array.tobytes() for array in arrays]


def test_an_answer_counts_as_unsent_at_its_full_size_while_it_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and no longer than it is there."""
    unsent, counted = Unsent(), []

    def counting_pack(chunks: Any, size: int, encoding: str) -> bytes | None:
        counted.append(unsent.held_bytes)
        return compression.pack(chunks, size, encoding)

    monkeypatch.setattr("mlserve.grpc.call.pack", counting_pack)
    with serving(unsent=unsent) as server, connected(server.address) as channel:
        for _ in range(2):
            answer = GRPCInferenceServiceStub(channel).ModelInfer(
                raw_message(np.zeros(100_000, "f4")), timeout=SECONDS, compression=grpc.Compression.Gzip
            )
            assert counted.pop() == answer.ByteSize()
    assert unsent.held_bytes == 0


def test_the_limit_holds_before_and_after_unpacking() -> None:
    """`max_body_bytes`, unless `grpc_max_message_length` is set."""
    small, large = np.zeros(100, "f4"), np.zeros(10_000, "f4")
    for settings in ({"max_body_bytes": 4096}, {"grpc_max_message_length": 4096}):
        with serving(**settings) as server, grpc.insecure_channel(server.address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            for compression in (None, grpc.Compression.Gzip):
                error = failure(stub.ModelInfer, raw_message(large), compression=compression)
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert "4096" in (error.details() or "")
                assert len(stub.ModelInfer(raw_message(small), compression=compression).outputs) == 1
    unlimited = serving(max_body_bytes=4096, grpc_max_message_length=-1)
    with unlimited as server, grpc.insecure_channel(server.address) as channel:
        assert len(GRPCInferenceServiceStub(channel).ModelInfer(raw_message(large)).outputs) == 1
