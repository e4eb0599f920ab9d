"""Models whose names have a slash: over REST it is encoded in the path, on every server below."""

from __future__ import annotations

import httpx
import pytest
from starlette.responses import PlainTextResponse

from mlserve.metrics import Metrics
from mlserve.rest.app import RestApp
from mlserve.rest.slashes import DECODED_PATH, keep_slashes
from mlserve.settings import Settings
from tests import http_edge
from tests.fake_dataplane import FakeDataPlane, echo

BODY = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}


@pytest.fixture(params=http_edge.KINDS)
def served(request):
    plane = FakeDataPlane(**{"a/b": echo, "a": echo, "c%2Fd": echo, "é/ü": echo})
    plane.versions["a/b"] = ("1/2",)
    plane.routes = [("/v2/models/a/b/own", "GET", PlainTextResponse("own"))]
    with http_edge.running(request.param, RestApp(plane, Metrics(), Settings(root_path="/root"))) as edge:
        yield plane, "http://{}:{}".format(*edge.address)


def test_an_encoded_slash_is_part_of_the_name(served):
    plane, url = served
    for path, name, version in (
        ("a%2Fb", "a/b", None),
        ("a%2fb", "a/b", None),
        ("a%2Fb/versions/1%2F2", "a/b", "1/2"),
        ("c%252Fd", "c%2Fd", None),
        ("%C3%A9%2F%C3%BC", "é/ü", None),
        ("a", "a", None),
    ):
        for prefix in (url, f"{url}/root"):
            answer = httpx.post(f"{prefix}/v2/models/{path}/infer", json=BODY)
            assert (answer.status_code, *plane.calls[-1][:2]) == (200, name, version), path
        assert httpx.post(f"{url}/v2/models/{path}/infer_stream", json=BODY).text.startswith("data: ")
        assert httpx.get(f"{url}/v2/models/{path}/ready").status_code == 200
        assert httpx.get(f"{url}/v2/models/{path}").json()["name"] == name
        assert httpx.post(f"{url}/v2/repository/models/{path.partition('/')[0]}/load").status_code == 200


def test_a_slash_that_is_not_encoded_is_none_of_the_name(served):
    _, url = served
    assert httpx.post(f"{url}/v2/models/a/b/infer", json=BODY).status_code == 404
    answer = httpx.post(f"{url}/v2/models/a%2Fx/infer", json=BODY)
    assert answer.status_code == 404 and "a/x" in answer.json()["error"]


def test_routes_of_models_and_files_are_found_as_ever(served):
    _, url = served
    assert httpx.get(f"{url}/v2/models/a%2Fb/own").text == "own"
    assert httpx.get(f"{url}/v2/models/a/b/own").text == "own"
    for path in ("..%2F..%2Fapp.py", "..%2Fv2%2Fmodels%2Fx", "x%2Fv2%2Fmodels%2F..%2F..%2Fapp.py"):
        assert httpx.get(f"{url}/v2/docs/static/{path}").status_code == 404


def test_only_paths_of_models_are_looked_at():
    for raw in (b"/v2/docs/a%2Fb", b"/v2/models/a%20b/infer", b"/own/a%2Fb"):
        scope = {"type": "http", "path": raw.decode(), "raw_path": raw}
        assert keep_slashes(scope) is scope and DECODED_PATH not in scope
