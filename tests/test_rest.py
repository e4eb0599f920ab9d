"""The REST application: paths, errors, headers, packing, streams, clients that leave, documents, counting."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import numpy as np
import pytest
from prometheus_client import CONTENT_TYPE_LATEST

from mlserve.errors import MLServeError, NoWorker, Overloaded, ServerStopping, WorkerDied
from mlserve.rest.app import MetricsApp
from mlserve.settings import CORSSettings, Settings
from mlserve.tensors import TensorData
from mlserve.types import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
    ResponseOutput,
)
from tests.asgi_caller import Caller
from tests.fake_dataplane import FakeDataPlane, failing
from tests.http_edge import KINDS, PATIENCE, running

pytestmark = pytest.mark.anyio

INFER = "/v2/models/echo/infer"
REQUEST = {"id": "r", "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, 2]}]}
BODY = json.dumps(REQUEST).encode()


@pytest.fixture
def call() -> Caller:
    return Caller()


# -- infer ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["infer", "generate"])
@pytest.mark.parametrize("version", ["", "/versions/v1"])
async def test_infer_and_generate_answer_with_and_without_a_version(call: Caller, verb: str, version: str) -> None:
    call.dataplane.versions["echo"] = ("v1",)
    answer = await call("POST", f"/v2/models/echo{version}/{verb}", REQUEST)
    assert answer.status == 200
    assert answer["content-type"] == "application/json"
    assert answer["content-length"] == str(len(answer.body))
    assert answer.json() == {
        "model_name": "echo",
        "model_version": "v1",
        "id": "r",
        "parameters": {},
        "outputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, 2]}],
    }
    assert call.dataplane.calls[0][:2] == ("echo", "v1" if version else None)


async def test_model_names_may_be_in_any_script(call: Caller) -> None:
    call.dataplane.models["odd 名前"] = call.dataplane.models["echo"]
    answer = await call("POST", "/v2/models/odd 名前/infer", REQUEST)
    assert answer.json()["model_name"] == "odd 名前"
    assert answer["ce-endpoint"] == "odd %E5%90%8D%E5%89%8D"


async def test_request_headers_are_what_the_model_sees_and_the_body_has_no_say(call: Caller) -> None:
    request = {**REQUEST, "parameters": {"headers": {"x-mine": "body"}, "k": 1}}
    await call("POST", INFER, request, x_golden="wire", X_Odd="é")
    parameters = call.dataplane.calls[0][2].parameters
    assert parameters is not None
    assert parameters["k"] == 1
    assert parameters["headers"]["x-golden"] == "wire"
    assert "x-mine" not in parameters["headers"]


async def test_headers_of_the_response_go_out_as_http_headers(call: Caller) -> None:
    def predict(request: InferenceRequest) -> InferenceResponse:
        headers = {"X-Reply": "yes", "Content-Length": "1", "Bad Name": "x", "X-Number": 5}
        return InferenceResponse(model_name="", parameters=Parameters(headers=headers), outputs=[])

    call.dataplane.models["m"] = predict
    answer = await call("POST", "/v2/models/m/infer", {"inputs": []})
    assert answer["x-reply"] == "yes"
    assert answer["x-number"] == "5"
    assert answer["ce-id"] == "an-id"
    assert answer["content-length"] == str(len(answer.body))
    assert "bad name" not in dict(answer.headers)
    assert answer.json()["parameters"] == {}


@pytest.mark.parametrize(
    ("request_id", "header"),
    [("é", "é"), ("日本", "%E6%97%A5%E6%9C%AC"), ("a\r\nx-evil: 1", "a%0D%0Ax-evil: 1"), ('q"uo/te\\', 'q"uo/te\\')],
)
async def test_an_id_that_no_header_can_hold_is_encoded_there_and_kept_in_the_body(
    call: Caller, request_id: str, header: str
) -> None:
    answer = await call("POST", INFER, {"id": request_id, "inputs": []})
    assert answer.status == 200
    assert answer["ce-id"] == header
    assert answer.json()["id"] == request_id
    assert "x-evil" not in dict(answer.headers)


@pytest.mark.parametrize(("header", "seconds"), [("0.3", 0.3), ("2", 2.0), ("1e-3", 0.001)])
async def test_the_time_that_a_caller_gives_is_passed_on(call: Caller, header: str, seconds: float) -> None:
    await call("POST", INFER, REQUEST, x_request_timeout=header)
    assert call.dataplane.calls[0][3] == seconds


@pytest.mark.parametrize("header", ["", "soon", "0", "-1", "nan", "inf"])
async def test_a_time_that_is_none_is_refused(call: Caller, header: str) -> None:
    answer = await call("POST", INFER, REQUEST, x_request_timeout=header)
    assert answer.status == 400
    assert "X-Request-Timeout" in answer.error
    assert not call.dataplane.calls


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "application/x+json", ""]
)
async def test_content_types_that_are_json_are_read(call: Caller, content_type: str) -> None:
    assert (await call("POST", INFER, REQUEST, content_type=content_type)).status == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", "multipart/form-data", "json"])
async def test_other_content_types_are_refused(call: Caller, content_type: str) -> None:
    answer = await call("POST", INFER, REQUEST, content_type=content_type)
    assert answer.status == 415
    assert "application/json" in answer.error


@pytest.mark.parametrize(("body", "status"), [(b"", 400), (b"{", 400), (b"{}", 422), (b"[]", 422), (b"\xff", 400)])
async def test_a_wrong_body_is_refused_in_words(call: Caller, body: bytes, status: int) -> None:
    answer = await call("POST", INFER, body)
    assert answer.status == status
    assert answer.error


# -- binary tensors ---------------------------------------------------------------------------------------------------


async def test_binary_tensors_come_in_and_go_out(call: Caller) -> None:
    values = np.array([1.5, -2], "<f4").tobytes()
    tensor = {"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    text = json.dumps({"inputs": [tensor]}).encode()
    answer = await call(
        "POST",
        INFER,
        text + values,
        inference_header_content_length=str(len(text)),
        content_type="application/octet-stream",
    )
    assert answer.status == 200
    assert answer["content-type"] == "application/octet-stream"
    length = int(answer["inference-header-content-length"] or 0)
    assert json.loads(answer.body[:length])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert answer.body[length:] == values


@pytest.mark.parametrize("length", ["", "x", "-1", "1.5", "٣", "0", "9" * 30, "100000"])
async def test_a_wrong_length_of_the_json_part_is_refused(call: Caller, length: str) -> None:
    answer = await call("POST", INFER, REQUEST, inference_header_content_length=length)
    assert answer.status == 400
    assert "Inference-Header-Content-Length" in answer.error


# -- paths and methods ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v2/models",
        "/V2/models/echo",
        "/v2/models/a/b",
        "/v2/models/iris/versions//ready",
        "/infer",
        "/v2/x/y/infer",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_paths_that_lead_nowhere_are_404(call: Caller, path: str, method: str) -> None:
    answer = await call(method, path)
    assert answer.status == 404
    assert answer.error


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", INFER, "POST"),
        ("GET", "/v2/repository/index", "POST"),
        ("POST", "/v2", "GET"),
        ("POST", "/v2/health/live", "GET"),
        ("DELETE", "/v2/models/echo", "GET"),
        ("POST", "/v2/docs", "GET"),
    ],
)
async def test_wrong_methods_are_405_with_the_right_ones(call: Caller, method: str, path: str, allowed: str) -> None:
    answer = await call(method, path)
    assert answer.status == 405
    assert allowed in (answer["allow"] or "")
    assert answer.error


@pytest.mark.parametrize(
    ("method", "path", "target"),
    [
        ("GET", "/v2/", "http://a/v2"),
        ("GET", "/v2/models/echo/", "http://a/v2/models/echo"),
        ("POST", f"{INFER}/", f"http://a{INFER}"),
    ],
)
async def test_a_last_slash_too_many_is_redirected(call: Caller, method: str, path: str, target: str) -> None:
    answer = await call(method, path)
    assert (answer.status, answer["location"]) == (307, target)


@pytest.mark.parametrize("root", ["", "/proxied"])
async def test_paths_are_found_below_the_root_path_too(root: str) -> None:
    call = Caller(root_path="/proxied/")
    assert (await call("POST", f"{root}{INFER}", REQUEST)).status == 200
    assert (await call("GET", f"{root}/v2/models/echo/ready")).status == 200
    page = (await call("GET", f"{root}/v2/docs")).body.decode()
    assert '"/proxied/v2/docs/dataplane.json"' in page


async def test_a_query_changes_nothing(call: Caller) -> None:
    assert (await call("GET", "/v2/models/echo/ready?model_version=v9&x=1")).status == 200


# -- health, metadata, repository -------------------------------------------------------------------------------------


async def test_probes_answer_with_the_status_alone(call: Caller) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/echo/ready"):
        answer = await call("GET", path)
        assert (answer.status, answer.body, answer["content-type"]) == (200, b"", None)


async def test_what_is_not_ready_says_400(call: Caller) -> None:
    call.dataplane.is_ready = False
    call.dataplane.unready.add("echo")
    for path in ("/v2/health/ready", "/v2/models/echo/ready"):
        answer = await call("GET", path)
        assert answer.status == 400
        assert "not ready" in answer.error
    assert (await call("GET", "/v2/health/live")).status == 200


@pytest.mark.parametrize("path", ["", "/versions/v9", "/ready", "/docs", "/versions/v9/docs/dataplane.json"])
async def test_what_is_asked_about_an_unknown_model_is_404(call: Caller, path: str) -> None:
    answer = await call("GET", f"/v2/models/nope{path}")
    assert answer.status == 404
    assert "Model nope" in answer.error


async def test_metadata_leaves_out_what_is_not_set(call: Caller) -> None:
    call.dataplane.metadata["echo"] = MetadataModelResponse(
        name="echo",
        platform="",
        versions=["v1"],
        inputs=[MetadataTensor(name="x", datatype=Datatype.FP32, shape=[-1])],
        parameters=Parameters(),
    )
    assert (await call("GET", "/v2/models/echo")).json() == {
        "name": "echo",
        "versions": ["v1"],
        "platform": "",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}],
        "parameters": {},
    }
    assert (await call("GET", "/v2")).json() == {"name": "mlserve", "version": "0", "extensions": []}


async def test_the_index_lists_all_models_or_the_ready_ones(call: Caller) -> None:
    call.dataplane.unready.add("echo")
    everything = [{"name": "echo", "state": "UNAVAILABLE", "reason": ""}]
    for body in (b"", b"{}", b'{"ready": false}'):
        assert (await call("POST", "/v2/repository/index", body)).json() == everything
    assert (await call("POST", "/v2/repository/index", b'{"ready": true}')).json() == []
    assert (await call("POST", "/v2/repository/index", b'{"ready": "maybe"}')).status == 422


async def test_models_are_loaded_and_unloaded(call: Caller) -> None:
    for verb in ("load", "unload"):
        answer = await call("POST", f"/v2/repository/models/echo/{verb}", b"{}")
        assert (answer.status, answer.body) == (200, b"")
    assert call.dataplane.repository == ["load echo", "unload echo"]
    assert (await call("POST", "/v2/repository/models/nope/load")).status == 404


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MLServeError("gölden ✓\nline"), 400, "gölden ✓\nline"),
        (MLServeError("", 409), 409, ""),
        (MLServeError("odd", 200), 500, "odd"),
        (MLServeError("odd", 1000), 500, "odd"),
        (ValueError("wrong"), 500, "ValueError: wrong"),
    ],
)
async def test_errors_of_a_model_come_with_their_status(
    call: Caller, error: Exception, status: int, words: str
) -> None:
    call.dataplane.models["bad"] = failing(error)
    answer = await call("POST", "/v2/models/bad/infer", REQUEST)
    assert (answer.status, answer.error) == (status, words)


@pytest.mark.parametrize(
    ("error", "status", "seconds"),
    [
        (Overloaded("full", 2.5), 429, "3"),
        (NoWorker("none", 7.0), 503, "7"),
        (ServerStopping("stop"), 503, "1"),
        (WorkerDied("gone"), 503, None),
        (MLServeError("busy", 503), 503, None),
        (MLServeError("quota", 429), 429, None),
    ],
)
async def test_only_who_never_reached_a_model_is_told_to_try_again(
    call: Caller, error: MLServeError, status: int, seconds: str | None
) -> None:
    call.dataplane.models["bad"] = failing(error)
    answer = await call("POST", "/v2/models/bad/infer", REQUEST)
    assert (answer.status, dict(answer.headers).get("retry-after")) == (status, seconds)


async def test_what_nobody_expected_is_logged_once_with_the_id_and_not_shown(
    call: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    def predict(request: InferenceRequest) -> InferenceResponse:
        raise RuntimeError("a secret")

    call.dataplane.models["bad"] = predict
    answer = await call("POST", "/v2/models/bad/infer", {**REQUEST, "id": "id-7"})
    assert answer.status == 500
    assert "id-7" in answer.error
    assert "secret" not in answer.error
    (record,) = [one for one in caplog.records if one.exc_info]
    assert record.levelno == logging.ERROR
    assert "id-7" in record.getMessage()


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


# -- CORS -------------------------------------------------------------------------------------------------------------


async def test_browsers_may_call_where_the_settings_say_so() -> None:
    cors = CORSSettings(allow_origins=["http://a.example"], allow_methods=["POST"], expose_headers=["ce-id"])
    call = Caller(cors_settings=cors)
    answer = await call("POST", INFER, REQUEST, origin="http://a.example")
    assert answer["access-control-allow-origin"] == "http://a.example"
    assert answer["access-control-expose-headers"] == "ce-id"
    wrong = await call("POST", "/v2/models/nope/infer", REQUEST, origin="http://a.example")
    assert (wrong.status, wrong["access-control-allow-origin"]) == (404, "http://a.example")
    other = await call("POST", INFER, REQUEST, origin="http://b.example")
    assert other["access-control-allow-origin"] is None
    preflight = await call("OPTIONS", INFER, origin="http://a.example", access_control_request_method="POST")
    assert preflight.status == 200
    assert "POST" in (preflight["access-control-allow-methods"] or "")


async def test_without_settings_nothing_is_said_to_browsers(call: Caller) -> None:
    answer = await call("POST", INFER, REQUEST, origin="http://a.example")
    assert not any(name.startswith("access-control") for name, _ in answer.headers)


# -- routes of models -------------------------------------------------------------------------------------------------


async def test_routes_of_models_come_and_go(call: Caller) -> None:
    async def ping(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": scope["path_params"]["what"].encode()})

    async def bug(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("a secret")

    assert (await call("GET", "/ping/x")).status == 404
    call.dataplane.routes = [("/ping/{what}", "GET", ping), ("/bug", "POST", bug)]
    answer = await call("GET", "/ping/x")
    assert (answer.status, answer.body) == (201, b"x")
    assert (await call("POST", "/ping/x")).status == 405
    wrong = await call("POST", "/bug")
    assert wrong.status == 500
    assert "secret" not in wrong.error
    call.dataplane.routes = []
    assert (await call("GET", "/ping/x")).status == 404
    assert call.counted() == {("GET", "/ping/{what}", "201"): 1, ("POST", "/bug", "500"): 1}


# -- documents --------------------------------------------------------------------------------------------------------


async def test_the_page_shows_its_document_and_nothing_from_elsewhere(call: Caller) -> None:
    call.dataplane.models['a<b"c'] = call.dataplane.models["echo"]
    for path, document in [
        ("/v2/docs", "/v2/docs/dataplane.json"),
        ("/v2/models/echo/docs", "/v2/models/echo/docs/dataplane.json"),
        ('/v2/models/a<b"c/docs', "/v2/models/a%3Cb%22c/docs/dataplane.json"),
    ]:
        answer = await call("GET", path)
        page = answer.body.decode()
        assert answer["content-type"] == "text/html; charset=utf-8"
        assert f'"{document}"' in page
        assert "http" not in page.replace("<!DOCTYPE html>", "")
        assert 'a<b"c' not in page


async def test_the_page_finds_what_it_needs_here(call: Caller) -> None:
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"):
        answer = await call("GET", f"/v2/docs/static/{name}")
        assert answer.status == 200
        assert len(answer.body) > 500
    for name in ("LICENSE", "..", "other.js"):
        assert (await call("GET", f"/v2/docs/static/{name}")).status == 404


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        found = {value["$ref"]} if "$ref" in value else set()
        return found.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("/v2/docs/dataplane.json", "Data Plane"),
        ("/v2/docs/model_repository.json", "Model Repository API"),
        ("/v2/models/echo/docs/dataplane.json", "Data Plane for Model echo"),
        ("/v2/models/echo/versions/v1/docs/dataplane.json", "Data Plane for Model echo (v1)"),
    ],
)
async def test_documents_are_openapi_and_refer_to_what_they_have(call: Caller, path: str, title: str) -> None:
    call.dataplane.versions["echo"] = ("v1",)
    document = (await call("GET", path)).json()
    assert document["openapi"] == "3.0.3"
    assert document["info"]["title"] == title
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= schemas
    for path_name, operations in document["paths"].items():
        for operation in operations.values():
            named = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
            assert named == {part[1:-1] for part in path_name.split("/") if part.startswith("{")}


async def test_the_documented_operations_exist(call: Caller) -> None:
    call.dataplane.versions["echo"] = ("v1",)
    for document in ("dataplane", "model_repository"):
        paths = (await call("GET", f"/v2/docs/{document}.json")).json()["paths"]
        for path, operations in paths.items():
            for method in operations:
                real = path.replace("{model_name}", "echo").replace("{model_version}", "v1")
                answer = await call(method.upper(), real, REQUEST)
                assert answer.status == 200, (method, path)


async def test_the_document_of_a_model_has_an_example_that_it_takes(call: Caller) -> None:
    call.dataplane.metadata["echo"] = MetadataModelResponse(
        name="echo",
        platform="",
        inputs=[
            MetadataTensor(name="x", datatype=Datatype.FP32, shape=[-1, 4], parameters=Parameters(content_type="np")),
            MetadataTensor(name="s", datatype=Datatype.BYTES, shape=[2]),
        ],
    )
    document = (await call("GET", "/v2/models/echo/docs/dataplane.json")).json()
    example = document["components"]["schemas"]["InferenceRequest"]["example"]
    assert (await call("POST", INFER, example)).status == 200
    assert example["inputs"][0]["shape"] == [1, 4]


# -- counting ---------------------------------------------------------------------------------------------------------


async def test_requests_are_counted_by_template_and_probes_and_dead_ends_are_not(call: Caller) -> None:
    await call("POST", INFER, REQUEST)
    await call("POST", "/v2/models/nope/infer", REQUEST)
    await call("POST", INFER, b"{}")
    await call("POST", "/v2/models/echo/versions/v9/infer", REQUEST)
    for path in ("/v2", "/v2/models/echo", "/v2/health/live", "/v2/health/ready", "/no-such-path", "/v2/"):
        await call("GET", path)
    await call("POST", "/v2/repository/index", b"{}")
    infer = "/v2/models/{model_name}/infer"
    assert call.counted() == {
        ("POST", infer, "200"): 1,
        ("POST", infer, "404"): 1,
        ("POST", infer, "422"): 1,
        ("POST", "/v2/models/{model_name}/versions/{model_version}/infer", "404"): 1,
        ("GET", "/v2", "200"): 1,
        ("GET", "/v2/models/{model_name}", "200"): 1,
        ("POST", "/v2/repository/index", "200"): 1,
    }


async def test_nothing_is_in_progress_once_all_is_answered(call: Caller) -> None:
    await call("POST", INFER, REQUEST)
    await call("POST", INFER, b"{")
    (family,) = [one for one in call.metrics.collect() if one.name == "rest_server_requests_in_progress"]
    assert [one.value for one in family.samples] == [0]


# -- the metrics port -------------------------------------------------------------------------------------------------


async def test_the_metrics_port_has_one_page() -> None:
    call = Caller()
    await call("POST", INFER, REQUEST)
    call.app = MetricsApp(call.metrics, Settings(metrics_endpoint="/figures"))
    answer = await call("GET", "/figures")
    assert answer.status == 200
    assert answer["content-type"] == CONTENT_TYPE_LATEST
    assert b"rest_server_requests_total{" in answer.body
    packed = await call("GET", "/figures", accept_encoding="gzip")
    assert gzip.decompress(packed.body).startswith(b"# HELP")
    assert (await call("GET", "/figures/")).status == 307
    assert (await call("GET", "/metrics")).status == 404
    assert (await call("POST", "/figures")).status == 405


async def test_both_applications_take_part_in_a_lifespan(call: Caller) -> None:
    for app in (call.app, MetricsApp(call.metrics, Settings())):
        incoming = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]
        sent: list[Any] = []

        async def receive(incoming: list[Any] = incoming) -> Any:
            return incoming.pop()

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message["type"])

        await app({"type": "lifespan"}, receive, send)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
