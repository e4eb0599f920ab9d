"""The REST application: inference, binary tensors, paths, health, metadata, the repository, errors."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from mlserve.errors import MLServeError, NoWorker, Overloaded, ServerStopping, WorkerDied
from mlserve.types import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
)
from tests.asgi_caller import Caller
from tests.fake_dataplane import failing

pytestmark = pytest.mark.anyio

INFER = "/v2/models/echo/infer"
REQUEST = {"id": "r", "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, 2]}]}


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
