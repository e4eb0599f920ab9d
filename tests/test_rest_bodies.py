"""Bodies over REST: their size, their packing, and clients that leave before the answer."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from mlserve.tensors import TensorData
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    ResponseOutput,
)
from tests.asgi_caller import Caller
from tests.fake_dataplane import FakeDataPlane
from tests.http_edge import KINDS, PATIENCE, running

pytestmark = pytest.mark.anyio

INFER = "/v2/models/echo/infer"
REQUEST = {"id": "r", "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, 2]}]}
BODY = json.dumps(REQUEST).encode()


@pytest.fixture
def call() -> Caller:
    return Caller()


# -- bodies: size and packing -----------------------------------------------------------------------------------------


async def test_a_body_over_the_limit_is_413() -> None:
    call = Caller(max_body_bytes=len(BODY))
    assert (await call("POST", INFER, BODY)).status == 200
    assert (await call("POST", INFER, BODY + b" ")).status == 413
    assert (await call("POST", INFER, b"", content_length=str(10**30))).status == 413


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "deflate", "identity", "raw deflate", "two members"])
async def test_packed_bodies_are_read(call: Caller, coding: str) -> None:
    raw = zlib.compressobj(wbits=-15)
    packed = {
        "deflate": lambda: zlib.compress(BODY),
        "raw deflate": lambda: raw.compress(BODY) + raw.flush(),
        "identity": lambda: BODY,
        "two members": lambda: gzip.compress(BODY[:20]) + gzip.compress(BODY[20:]),
    }.get(coding, lambda: gzip.compress(BODY))()
    name = {"raw deflate": "deflate", "two members": "gzip"}.get(coding, coding)
    answer = await call("POST", INFER, packed, content_encoding=name)
    assert answer.status == 200
    assert answer.json()["outputs"][0]["data"] == [1.5, 2]


@pytest.mark.parametrize(
    ("body", "coding", "status"),
    [
        (gzip.compress(BODY)[:-9], "gzip", 400),
        (gzip.compress(BODY)[:5], "gzip", 400),
        (b"", "gzip", 400),
        (BODY, "gzip", 400),
        (BODY, "deflate", 400),
        (gzip.compress(BODY) + b"rest", "gzip", 400),
        (gzip.compress(BODY), "br", 415),
        (gzip.compress(gzip.compress(BODY)), "gzip, gzip", 415),
    ],
)
async def test_damaged_or_unknown_packing_is_refused(call: Caller, body: bytes, coding: str, status: int) -> None:
    answer = await call("POST", INFER, body, content_encoding=coding)
    assert answer.status == status
    assert answer.error


@pytest.mark.parametrize("times", [1, 30])
async def test_a_packed_bomb_stops_at_the_limit(times: int) -> None:
    call = Caller(max_body_bytes=1_000_000)
    bomb = gzip.compress(bytes(1_000_000 * times + 1))
    answer = await call("POST", INFER, bomb, content_encoding="gzip")
    assert answer.status == 413
    assert "1000000 bytes" in answer.error


def long_request(count: int) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [count], "datatype": "FP32", "data": [0.5] * count}]}


@pytest.mark.parametrize("accept", ["gzip", "deflate, gzip;q=0.5", "*", "GZip"])
@pytest.mark.parametrize("count", [300, 30_000])
async def test_long_answers_are_packed_where_the_client_takes_it(call: Caller, accept: str, count: int) -> None:
    answer = await call("POST", INFER, long_request(count), accept_encoding=accept)
    assert answer["content-encoding"] == "gzip"
    assert answer["vary"] == "Accept-Encoding"
    assert answer["content-length"] == str(len(answer.body))
    assert answer.json()["outputs"][0]["data"] == [0.5] * count


@pytest.mark.parametrize("accept", ["", "br", "gzip;q=0", "*;q=0", "gzip;q=x", "identity, *;q=0"])
async def test_answers_stay_as_they_are_where_it_does_not(call: Caller, accept: str) -> None:
    answer = await call("POST", INFER, long_request(300), accept_encoding=accept)
    assert answer["content-encoding"] is None
    assert answer["vary"] == "Accept-Encoding"


async def test_short_answers_are_not_packed(call: Caller) -> None:
    answer = await call("POST", INFER, REQUEST, accept_encoding="gzip")
    assert answer["content-encoding"] is answer["vary"] is None


async def test_packing_can_be_switched_off() -> None:
    answer = await Caller(gzip_enabled=False)("POST", INFER, long_request(300), accept_encoding="gzip")
    assert answer["content-encoding"] is answer["vary"] is None


async def test_large_outputs_are_sent_as_they_are(call: Caller) -> None:
    text = memoryview(b"[" + b",".join([b"0.5"] * 50_000) + b"]")

    def predict(request: InferenceRequest) -> InferenceResponse:
        output = ResponseOutput(name="y", shape=[50_000], datatype="FP32", data=TensorData.from_json(text))
        return InferenceResponse(model_name="", outputs=[output])

    call.dataplane.models["big"] = predict
    ours = {"mlserve.disconnect": lambda callback: None}  # a server below that keeps its own watch on slow clients
    answer = await call("POST", "/v2/models/big/infer", REQUEST, ours)
    assert any(message["body"] is text for message in answer.messages[1:])
    assert [message["more_body"] for message in answer.messages[1:]] == [True, True, False]
    assert answer.json()["outputs"][0]["data"] == [0.5] * 50_000


# -- clients that leave -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["infer", "infer_stream"])
async def test_a_client_that_leaves_cancels_its_call(verb: str) -> None:
    """Through the extension of our own HTTP edge, whose callback comes while the model runs."""
    ended: list[str] = []
    callbacks: list[Callable[[], None] | None] = []

    async def wait() -> InferenceResponse:
        try:
            leave = callbacks[-1]
            assert leave is not None
            leave()
            await anyio.sleep(PATIENCE)
            raise AssertionError("the call was not cancelled")
        finally:
            ended.append("model")

    async def stream() -> AsyncIterator[InferenceResponse]:
        yield await wait()

    call = Caller(FakeDataPlane(slow=lambda _: wait() if verb == "infer" else stream()))
    answer = await call("POST", f"/v2/models/slow/{verb}", REQUEST, {"mlserve.disconnect": callbacks.append})
    assert ended == ["model"]
    assert answer.messages == []
    assert callbacks[-1] is None  # Taken back: the connection may live on.
    assert call.counted() == {("POST", f"/v2/models/{{model_name}}/{verb}", "499"): 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["infer", "infer_stream"])
def test_a_closed_socket_cancels_the_call_on_every_server(kind: str, verb: str) -> None:
    started, ended = threading.Event(), threading.Event()

    async def wait() -> InferenceResponse:
        started.set()
        try:
            await anyio.sleep_forever()
            raise AssertionError
        finally:
            ended.set()

    async def stream() -> AsyncIterator[InferenceResponse]:
        yield InferenceResponse(model_name="", outputs=[])
        await wait()

    call = Caller(FakeDataPlane(slow=lambda _: wait() if verb == "infer" else stream()))
    with running(kind, app=call.app) as edge, socket.create_connection(edge.address) as client:
        head = f"POST /v2/models/slow/{verb} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(BODY)}\r\n\r\n"
        client.sendall(head.encode() + BODY)
        assert started.wait(PATIENCE)
        client.close()
        assert ended.wait(PATIENCE)


@pytest.mark.parametrize("kind", KINDS)
def test_large_tensors_go_round_on_every_server(kind: str) -> None:
    call = Caller()
    data = ",".join(["0.25"] * 300_000)
    body = f'{{"inputs":[{{"name":"x","shape":[300000],"datatype":"FP32","data":[{data}]}}]}}'
    with running(kind, app=call.app) as edge, httpx.Client(trust_env=False) as client:
        base = f"http://127.0.0.1:{edge.address[1]}"
        answer = client.post(base + INFER, content=body.encode())  # httpx takes gzip
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.json()["outputs"][0]["data"] == [0.25] * 300_000
        plain = client.post(base + INFER, content=gzip.compress(body.encode()), headers=UNPACKED)
        assert "content-encoding" not in plain.headers
        assert plain.json() == answer.json()
        head = client.head(base + "/v2/docs")
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 0


UNPACKED = {"accept-encoding": "identity", "content-encoding": "gzip"}
