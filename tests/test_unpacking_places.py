"""Few bodies are unpacked at once: the others wait without a thread, within their time, and while their client waits."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import anyio
import grpc
import pytest

from mlserve.errors import CallerLeft
from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.intake import Intake, Places, Share
from mlserve.metrics import Metrics
from mlserve.rest.app import RestApp
from mlserve.settings import Settings
from mlserve.types import InferenceResponse
from mlserve.unpacking import Unpacker
from tests import http_edge
from tests.fake_dataplane import FakeDataPlane
from tests.grpc_edge import BACKENDS, FakePlane, serving
from tests.unread import until

SIZE = 300_000
EDGES = [
    pytest.param(kind, marks=pytest.mark.own_process) if kind.startswith("trio") else kind for kind in http_edge.KINDS
]


@pytest.mark.anyio
async def test_places_go_in_order_and_are_not_lost_by_whoever_is_cancelled() -> None:
    places = Places(1)
    order: list[int] = []
    scopes = {number: anyio.CancelScope() for number in range(4)}

    async def one(number: int) -> None:
        with scopes[number]:
            async with places.one():
                order.append(number)

    async with anyio.create_task_group() as tasks:
        async with places.one():
            for number in range(4):
                tasks.start_soon(one, number)
                await anyio.wait_all_tasks_blocked()
            scopes[1].cancel()  # while it waits
            await anyio.wait_all_tasks_blocked()
        scopes[0].cancel()  # when its place has come, before it runs
    assert [number for number in order if number > 1] == [2, 3]
    assert repr(places) == "<Places 1 free, 0 wait>"


@pytest.mark.anyio
async def test_the_thread_of_a_call_that_is_cancelled_sees_that() -> None:
    intake = Intake()
    work = Unpacker(gzip.compress(bytes(SIZE)), "gzip", SIZE, Share(intake), "the body")

    async def never(finish: Callable[[], bytearray]) -> bytearray:
        await anyio.sleep_forever()
        raise AssertionError

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work.finish_in, never)
        await anyio.wait_all_tasks_blocked()
        assert repr(intake.unpacking) == "<Places 3 free, 0 wait>"
        tasks.cancel_scope.cancel()
    assert repr(intake.unpacking) == "<Places 4 free, 0 wait>"
    with pytest.raises(CallerLeft):
        work.finish()


# -- over the wire, where no place comes free -------------------------------------------------------------------------


def _full(begun: list[Any]) -> tuple[Intake, Callable[[Any], Any]]:
    intake = Intake()
    intake.unpacking = Places(0)

    def model(request: Any) -> Any:
        begun.append(request)
        raise AssertionError("the model is not to run")

    return intake, model


def _waiting(intake: Intake) -> int:
    return len(intake.unpacking._waiting)


def _packed(*more: bytes, size: int = SIZE) -> bytes:
    tensor = {"name": "x", "shape": [1], "datatype": "BYTES", "data": ["a" * size]}
    body = gzip.compress(json.dumps({"inputs": [tensor]}).encode())
    fields = [b"Content-Encoding: gzip", b"Content-Type: application/json", b"Content-Length: %d" % len(body), *more]
    return http_edge.post(b"/v2/models/never/infer", b"".join(field + b"\r\n" for field in fields), body)


@pytest.mark.parametrize("kind", EDGES)
def test_rest(kind: str) -> None:
    begun: list[Any] = []
    intake, model = _full(begun)
    app = RestApp(FakeDataPlane(never=model), Metrics(), Settings(), intake=intake)
    with http_edge.running(kind, app) as edge:
        with ExitStack() as clients:
            for count in range(1, 51):  # more than there are threads
                clients.enter_context(edge.connect()).send(_packed())
                if count % 10 == 0:
                    until(lambda count=count: _waiting(intake) == count)
            with edge.connect() as client:  # in a thread
                tensor = {"name": "x", "shape": [1], "datatype": "BYTES", "data": ["a" * SIZE]}
                body = json.dumps({"inputs": [tensor]}).encode()
                fields = b"Accept-Encoding: gzip\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(
                    body
                )
                answer = client.send(http_edge.post(b"/v2/models/echo/infer", fields, body)).response()
                assert (answer.status, answer.headers["content-encoding"]) == (200, "gzip")
            with edge.connect() as client:
                answer = client.send(_packed(b"X-Request-Timeout: 0.1")).response()
                assert answer.status == 504
                assert b"0.1 s was over before its body was unpacked" in answer.body
        until(lambda: _waiting(intake) == 0)  # since they have left
        assert intake.held_bytes == 0
    assert not begun


@pytest.mark.parametrize("backend", BACKENDS)
def test_grpc_calls(backend: str) -> None:
    begun: list[Any] = []
    intake, model = _full(begun)
    message = pb.ModelInferRequest(model_name="never")
    message.inputs.add(name="x", shape=[SIZE], datatype="UINT8")
    message.raw_input_contents.append(bytes(SIZE))
    with (
        serving(backend, FakePlane(never=model), intake=intake) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        calls = [stub.ModelInfer.future(message, timeout=300, compression=grpc.Compression.Gzip) for _ in range(50)]
        until(lambda: _waiting(intake) == 50)
        with pytest.raises(grpc.RpcError) as late:
            stub.ModelInfer(message, timeout=0.2, compression=grpc.Compression.Gzip)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: _waiting(intake) == 50)
        for call in calls:
            call.cancel()
        until(lambda: _waiting(intake) == 0)
    assert not begun


@pytest.mark.parametrize("kind", http_edge.FAST)
def test_what_unpacking_takes_is_part_of_the_time_of_a_call(kind: str) -> None:
    plane = FakeDataPlane(never=lambda _: InferenceResponse(model_name="never", outputs=[]))
    with http_edge.running(kind, RestApp(plane, Metrics(), Settings())) as edge, edge.connect() as client:
        for size in (SIZE, 10 * SIZE, 100 * SIZE):  # the clock of uvloop counts milliseconds
            assert client.send(_packed(b"X-Request-Timeout: 60", size=size)).response().status == 200
            *_, (_, _, _, seconds) = plane.calls
            assert 0 < seconds <= 60
            if seconds < 60:
                return
    pytest.fail("unpacking took no time")
