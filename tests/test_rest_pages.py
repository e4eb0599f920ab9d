"""What else the REST application serves: CORS, routes of models, documents, counting, the metrics port."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from prometheus_client import CONTENT_TYPE_LATEST

from mlserve.rest.app import MetricsApp
from mlserve.settings import CORSSettings, Settings
from mlserve.types import (
    Datatype,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
)
from tests.asgi_caller import Caller

pytestmark = pytest.mark.anyio

INFER = "/v2/models/echo/infer"
REQUEST = {"id": "r", "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, 2]}]}


@pytest.fixture
def call() -> Caller:
    return Caller()


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
