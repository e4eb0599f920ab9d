"""Bodies that would hold the event loop up are read by the worker, and answered like any other."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from mlserve import sealed
from mlserve.batching import batch_key
from mlserve.errors import InvalidRequest
from mlserve.layout import pack_request, unpack_request
from mlserve.repository import ModelRepository
from mlserve.sealed import READ_HERE_BYTES, READ_HERE_PARTS, read_or_seal
from mlserve.server import Server
from mlserve.settings import Settings
from mlserve.types import InferenceRequest, Parameters
from mlserve.wire.v2json import decode_request
from tests.serving import write_model

MODELS = """
from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput


class Tell(MLModel):
    def predict(self, request):
        headers = request.parameters.headers
        said = [len(request.inputs), request.id, headers.get("x-mine"), headers["Ce-Id"]]
        said += [str(request.inputs[-1].data.to_numpy("INT64", [1])), request.parameters.get("mine")]
        output = ResponseOutput(name="said", shape=[len(said)], datatype="BYTES", data=[str(one)[:99] for one in said])
        sent_back = {"p": request.parameters.get("mine")}
        return InferenceResponse(model_name=self.name, id="another", outputs=[output], parameters=sent_back)

    async def predict_stream(self, requests):
        async for request in requests:
            yield self.predict(request)
"""
MANY = READ_HERE_PARTS // 4


def _body(**more: Any) -> dict[str, Any]:
    tensor = {"name": "x", "shape": [1], "datatype": "INT64", "data": [7]}
    return {"inputs": [tensor] * MANY, "parameters": {"mine": "m", "headers": {"x-mine": "false"}}, **more}


def _is_sealed(request: InferenceRequest) -> bool:
    return [one.data.form for one in request.inputs] == ["body"]


def _opened(request: InferenceRequest) -> InferenceRequest:
    """The request as the worker gets it."""
    return unpack_request(pack_request(request, lambda size: None), lambda number: pytest.fail("no slot"))


@pytest.mark.parametrize(
    "more",
    [
        {"parameters": {f"k{at}": at for at in range(READ_HERE_PARTS + 1)}},
        {"parameters": {"k": [[]] * READ_HERE_PARTS}},
        {"parameters": {"k": [{}] * READ_HERE_PARTS}},
        {"parameters": {"k": "a" * READ_HERE_BYTES}},
        {"outputs": [{"name": "y"}] * READ_HERE_PARTS},
        {},
    ],
)
def test_a_body_with_many_parts_or_bytes_stays_sealed_until_its_worker_opens_it(more):
    body = json.dumps(_body(**more)).encode()
    request = read_or_seal(body, None)
    assert _is_sealed(request) and batch_key(request) is None
    opened = _opened(request)
    plain = decode_request(body)
    plain.parameters = plain.parameters or Parameters()
    plain.parameters.headers = {}
    assert opened == plain


def test_ordinary_bodies_are_read_at_once():
    row = b"[" + b",".join([b"0.1"] * 1000) + b"]"
    text = b'{"inputs":[{"name":"x","shape":[900,1000],"datatype":"FP32","data":[' + b",".join([row] * 900) + b"]}]}"
    assert not _is_sealed(read_or_seal(text, None)) and len(text) < READ_HERE_BYTES
    few = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}] * (MANY // 3)}).encode()
    assert not _is_sealed(read_or_seal(few, None))


def test_only_the_json_of_a_binary_body_counts():
    size = READ_HERE_BYTES * 2
    tensor = {"name": "x", "shape": [size], "datatype": "UINT8", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    assert not _is_sealed(read_or_seal(head + b":" * size, len(head)))
    head = json.dumps({"inputs": [tensor], "parameters": {"k": [[]] * READ_HERE_PARTS}}).encode()
    request = read_or_seal(head + b"\x05" * size, len(head))
    assert _is_sealed(request)
    opened = _opened(request)
    assert opened.inputs[0].data.to_numpy("UINT8", [size]).sum() == 5 * size


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        (b'{"inputs":[' + b"[" * READ_HERE_PARTS + b"]", 400, "not valid JSON|nested too deep"),
        (b"[" * 200_000, 400, "nested too deep"),
        (b'{"inputs":[], "parameters": 3, "x":[' + b"[]," * READ_HERE_PARTS + b"1]}", 422, "parameters: expected"),
        (b'{"inputs":[], "id":"\xff", "x":[' + b"[]," * READ_HERE_PARTS + b"1]}", 400, "UTF-8"),
    ],
)
def test_what_is_wrong_with_it_is_told_as_ever(text, status, says):
    request = read_or_seal(text, None)
    assert _is_sealed(request)
    with pytest.raises(InvalidRequest, match=says) as caught:
        _opened(request)
    assert caught.value.http_status == status


@pytest.fixture(scope="module", params=[0, 1])
def url(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, more in (("tell", {}), ("batched", {"max_batch_size": 4, "max_batch_time": 0.05})):
        (write_model(folder, name, "models.Tell", **more) / "models.py").write_text(MODELS)
    workers = {"parallel_workers": request.param, "metrics_endpoint": None}
    made = Settings(host="127.0.0.1", http_port=0, grpc_port=0, **workers)
    with start_blocking_portal("asyncio", {"use_uvloop": True}) as portal:
        ended, server = portal.start_task(Server(made, ModelRepository(folder)).run)
        yield "http://{}:{}/v2/models".format(*server.addresses["http"])
        portal.call(server.stop)
        ended.result(60)


@pytest.mark.parametrize("model", ["tell", "batched"])
def test_it_is_answered_with_its_own_id_and_the_headers_of_its_call(url, model):
    answer = httpx.post(f"{url}/{model}/infer", json=_body(id="mine"), headers={"X-Mine": "yes"}, timeout=60).json()
    assert answer["id"] == "mine"
    assert answer["outputs"][0]["data"] == [str(MANY), "mine", "yes", "mine", "[7]", "m"]
    answer = httpx.post(f"{url}/{model}/infer", json=_body(), timeout=60).json()
    said = answer["outputs"][0]["data"]
    assert said[1] == said[3] == answer["id"] not in ("another", "None")


def test_a_stream_takes_it_too(url):
    answer = httpx.post(f"{url}/tell/infer_stream", json=_body(id="mine"), headers={"X-Mine": "yes"}, timeout=60).text
    assert json.loads(answer.removeprefix("data: "))["outputs"][0]["data"][:3] == [str(MANY), "mine", "yes"]


@pytest.mark.parametrize("verb", ["infer", "infer_stream"])
def test_one_that_cannot_be_read_is_refused_and_the_next_one_served(url, verb):
    bad = httpx.post(f"{url}/tell/{verb}", json=_body(inputs=[{"name": "x"}] * READ_HERE_PARTS), timeout=60)
    assert bad.status_code == 422 and "inputs[0].shape: missing" in bad.json()["error"]
    assert httpx.post(f"{url}/tell/{verb}", json=_body(), timeout=60).status_code == 200


@pytest.mark.parametrize("verb", ["infer", "generate", "infer_stream", "generate_stream"])
@pytest.mark.parametrize("padding", [b"", b"[]," * READ_HERE_PARTS], ids=["read here", "sealed"])
def test_nesting_gives_a_4xx_or_an_answer_however_deep_it_is(url, verb, padding):
    """The model sends the parameters back, through every encoder and decoder on the way."""
    for depth in (10, 190, 201, 500, 900, 960, 970, 980, 990, 1000, 1100, 100_000):
        nested = b"[" * depth + b"]" * depth
        text = (
            b'{"x":[%s 1],"inputs":[{"name":"x","shape":[1],"datatype":"INT64","data":[7],"parameters":{"p":%s}}],'
            b'"parameters":{"mine":%s}}' % (padding, nested, nested)
        )
        answer = httpx.post(f"{url}/tell/{verb}", content=text, timeout=60)
        assert answer.status_code == (200 if depth < 200 else 400), depth
        if answer.status_code != 200:
            says = answer.json()["error"]
            assert "nested too deep" in says or "recursion depth" in says, depth
        else:
            assert "event: error" not in answer.text
    for text in (b"[" * 100_000, b'{"ready":' + b"[" * 100_000, b'{"a":' * 100_000):
        assert httpx.post(f"{url}/tell/{verb}", content=text, timeout=60).status_code == 400
        index = httpx.post(url.replace("models", "repository/index"), content=text, timeout=60)
        assert index.status_code in (400, 422) and index.json()["error"]


def test_the_server_does_not_read_it(url, monkeypatch, request):
    if "[0]" in request.node.name:
        return  # its worker is a thread of this process
    monkeypatch.setattr(sealed, "decode_request", lambda *_: pytest.fail("read here"))
    assert httpx.post(f"{url}/tell/infer", json=_body(), timeout=60).status_code == 200
