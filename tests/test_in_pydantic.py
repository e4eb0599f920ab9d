"""Our types in other people's FastAPI applications and pydantic models: bodies, answers, fields, schemas."""

from __future__ import annotations

import dataclasses
import pprint
import subprocess
import sys
from typing import Any

import fastapi
import httpx
import pydantic
import pytest

from mlserve import types
from mlserve.settings import ModelParameters, ModelSettings, Settings
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RepositoryIndexResponse,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    TensorData,
)

INPUT = {"name": "x", "shape": [1], "datatype": "INT32", "data": [1]}
REQUEST = {"inputs": [INPUT]}
ITEM = {"name": "m", "state": "READY", "reason": ""}
SETTINGS = {"name": "m", "implementation": "a.B"}


class Wrapped(pydantic.BaseModel):
    request: InferenceRequest
    parameters: Parameters | None = None
    data: TensorData | None = None


app = fastapi.FastAPI()


@app.post("/infer")
async def infer(request: InferenceRequest) -> InferenceResponse:
    outputs = [ResponseOutput(**one.model_dump()) for one in request.inputs]
    return InferenceResponse(model_name="m", outputs=outputs)


@app.post("/promised", response_model=InferenceResponse, response_model_exclude_none=True)
async def promised(request: InferenceRequest) -> Any:
    return {"model_name": "m", "outputs": request.model_dump()["inputs"]}


@app.post("/embedded")
async def embedded(request: InferenceRequest, tensor: RequestInput, n: int = 1) -> list[Any]:
    return [request.inputs[0].name, tensor.name, n]


@app.post("/optional")
async def optional(request: InferenceRequest | None = None) -> bool:
    return request is None


@app.post("/listed")
async def listed(tensors: list[RequestInput]) -> list[RequestInput]:
    return tensors


@app.post("/wrapped")
async def wrapped(one: Wrapped) -> Wrapped:
    return one


@app.post("/parameters")
async def parameters(one: Parameters) -> Parameters:
    return one


@app.post("/index")
async def index() -> RepositoryIndexResponse:
    return RepositoryIndexResponse([ITEM])


async def asked(method: str, path: str, **more: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
        return await client.request(method, path, **more)


@pytest.fixture
def anyio_backend() -> str:
    """FastAPI's applications run on asyncio."""
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "sent", "answer"),
    [
        ("/infer", REQUEST, {"model_name": "m", "outputs": [INPUT]}),
        ("/promised", REQUEST, {"model_name": "m", "outputs": [INPUT]}),
        ("/embedded?n=3", {"request": REQUEST, "tensor": INPUT}, ["x", "x", 3]),
        ("/optional", None, True),
        ("/optional", REQUEST, False),
        ("/listed", [INPUT], [INPUT]),
        ("/wrapped", {"request": REQUEST, "data": [1]}, {"request": REQUEST, "parameters": None, "data": [1]}),
        ("/parameters", {"a": 1, "content_type": "np"}, {"a": 1, "content_type": "np"}),
        ("/index", None, [ITEM]),
    ],
)
async def test_they_are_bodies_and_answers_of_fastapi(path: str, sent: Any, answer: Any) -> None:
    got = await asked("POST", path, json=sent)
    assert (got.status_code, got.json()) == (200, answer)


@pytest.mark.anyio
async def test_what_is_wrong_is_told_with_its_place() -> None:
    got = await asked("POST", "/infer", json={"inputs": [{**INPUT, "shape": ["q"]}]})
    assert got.status_code == 422
    fault = got.json()["detail"][0]
    assert (fault["loc"], fault["msg"]) == (["body", "inputs", 0, "shape", 0], "Input should be a valid integer")
    nested = await asked("POST", "/wrapped", json={"request": {}})
    fault = nested.json()["detail"][0]
    assert (fault["loc"], fault["type"]) == (["body", "request", "inputs"], "missing")


@pytest.mark.anyio
async def test_openapi_describes_them() -> None:
    got = await asked("GET", "/openapi.json")
    body = got.json()["paths"]["/infer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["title"] == "InferenceRequest" or body["title"] == "Request"
    assert body["properties"]["inputs"]["items"]["required"] == ["name", "shape", "datatype", "data"]
    assert "#/$defs" not in got.text


@pytest.mark.parametrize("kind", [getattr(types, name) for name in types.__all__ if name != "ValidationError"])
def test_every_type_is_a_field_of_a_model(kind: Any) -> None:
    made = pydantic.create_model("Made", one=(kind | None, None))
    assert made().one is None
    assert made.model_json_schema()["properties"].keys() == {"one"}


@pytest.mark.parametrize(
    ("kind", "value", "dumped"),
    [
        (Parameters, {"a": 1, "content_type": "np"}, {"a": 1, "content_type": "np"}),
        (TensorData, [1, [2]], [1, [2]]),
        (TensorData, "bare", "bare"),
        (RepositoryIndexResponse, [ITEM], [ITEM]),
        (InferenceRequest, REQUEST, REQUEST),
    ],
)
def test_adapters_and_fields_make_and_write_them(kind: Any, value: Any, dumped: Any) -> None:
    adapter = pydantic.TypeAdapter(kind)
    made = adapter.validate_python(value)
    assert type(made) is kind
    assert adapter.validate_python(made) is made
    assert adapter.dump_python(made) == adapter.dump_python(made, mode="json") == dumped
    assert adapter.validate_json(adapter.dump_json(made)) == made


@pytest.mark.parametrize(
    ("kind", "value"), [(ModelSettings, SETTINGS), (ModelParameters, {"uri": "u"}), (Settings, {"http_port": 5})]
)
def test_settings_are_fields_of_models(kind: Any, value: Any) -> None:
    made = pydantic.create_model("Made", one=(kind, ...))(one=value)
    assert type(made.one) is kind
    assert made.model_dump()["one"] == made.one.model_dump()
    assert made.model_validate_json(made.model_dump_json()).one == made.one
    assert made.model_json_schema()
    with pytest.raises(pydantic.ValidationError):
        pydantic.TypeAdapter(kind).validate_python(5)


def test_what_their_settings_say_is_wrong_is_a_fault_of_the_field() -> None:
    with pytest.raises(pydantic.ValidationError, match="max_batch_size"):
        pydantic.TypeAdapter(ModelSettings).validate_python({**SETTINGS, "max_batch_size": "x"})


def test_their_structs_can_be_read_as_dataclasses() -> None:
    asked = InferenceRequest(inputs=[RequestInput(**INPUT)], parameters=Parameters(a=1))
    assert [one.name for one in dataclasses.fields(InferenceRequest)] == list(InferenceRequest.__struct_fields__)
    assert dataclasses.asdict(asked)["inputs"][0]["data"] == [1]
    assert dataclasses.asdict(asked)["parameters"] == {"a": 1}
    assert dataclasses.replace(asked, id="7").id == "7"
    assert "INT32" in pprint.pformat([asked] * 9)
    assert not dataclasses.is_dataclass(Parameters) and not dataclasses.is_dataclass(TensorData)


class Noted(RequestOutput):
    secret: str = "s3cr3t"
    tags: list[str] = []


class Hidden(Parameters):
    secret: str


class Kept(ModelSettings):
    secret: str = "s3cr3t"


FULL = {"id": "1", "parameters": {"headers": {"a": "s"}, "b": 1}, "inputs": [INPUT, {**INPUT, "name": "y"}]}


@pytest.mark.parametrize("mode", ["python", "json"])
@pytest.mark.parametrize(
    "picked",
    [
        {"exclude": {"parameters"}},
        {"include": {"id"}},
        {"include": {"parameters": {"b"}, "inputs": {0}}},
        {"exclude": {"parameters": {"headers": True}, "inputs": {"__all__": {"data"}, 1: {"shape"}}}},
        {"exclude": {"inputs": {-1}}, "include": {"inputs": {"__all__": {"name", "data"}}}},
        {"exclude_none": True, "exclude_unset": True},
    ],
    ids=str,
)
def test_include_and_exclude_are_those_of_model_dump(picked: Any, mode: Any) -> None:
    one = InferenceRequest(**FULL)
    wanted = one.model_dump(mode=mode, **picked)
    adapter, listed = pydantic.TypeAdapter(InferenceRequest), pydantic.TypeAdapter(list[InferenceRequest])
    assert adapter.dump_python(one, mode=mode, **picked) == wanted
    below = {key: {"__all__": said} if isinstance(said, set | dict) else said for key, said in picked.items()}
    assert listed.dump_python([one, one], mode=mode, **below) == [wanted, wanted]


@pytest.mark.anyio
async def test_what_an_answer_excludes_does_not_go_out() -> None:
    own = fastapi.FastAPI()

    @own.post("/", response_model=InferenceRequest, response_model_exclude={"parameters": {"headers"}})
    async def handle(request: InferenceRequest) -> Any:
        return request

    transport = httpx.ASGITransport(own)
    async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
        got = await client.post("/", json=FULL)
    assert got.json() == {**FULL, "parameters": {"b": 1}}


@pytest.mark.parametrize("mode", ["python", "json"])
@pytest.mark.parametrize(
    ("kind", "value", "dumped"),
    [
        (RequestOutput, Noted(name="a", parameters={"b": 1}), {"name": "a", "parameters": {"b": 1}}),
        (RequestOutput | None, Noted(name="a"), {"name": "a"}),
        (list[RequestOutput], [Noted(name="a")], [{"name": "a"}]),
        (
            InferenceRequest,
            InferenceRequest(inputs=[], outputs=[Noted(name="a")]),
            {"inputs": [], "outputs": [{"name": "a"}]},
        ),
        (Parameters, Hidden(secret="x", b=1), {"b": 1}),
        (
            RequestOutput,
            RequestOutput(name="a", parameters=Hidden(secret="x", b=1)),
            {"name": "a", "parameters": {"b": 1}},
        ),
        (Noted, Noted(name="a", secret="known"), {"name": "a", "secret": "known", "tags": []}),
        (Hidden, Hidden(secret="x", b=1), {"secret": "x", "b": 1}),
    ],
)
def test_the_declared_class_says_what_goes_out(kind: Any, value: Any, dumped: Any, mode: Any) -> None:
    assert pydantic.TypeAdapter(kind).dump_python(value, mode=mode) == dumped


def test_the_declared_class_says_what_goes_out_of_settings() -> None:
    value = Kept(name="m", implementation="a.B", parameters={"uri": "u", "own": 1})
    dumped = pydantic.TypeAdapter(ModelSettings).dump_python(value)
    assert "secret" not in dumped
    assert dumped["parameters"] == value.model_dump()["parameters"]
    assert pydantic.TypeAdapter(Kept).dump_python(value)["secret"] == "s3cr3t"


def test_defaults_of_subclasses_can_be_left_out() -> None:
    adapter = pydantic.TypeAdapter(Noted)
    assert adapter.dump_python(Noted(name="a"), exclude_defaults=True) == {"name": "a"}
    assert adapter.dump_python(Noted(name="a", tags=["t"]), exclude_defaults=True) == {"name": "a", "tags": ["t"]}
    assert Noted(name="a").model_dump_json(exclude_defaults=True) == '{"name":"a"}'


ORDERS = {
    "theirs first": "from fastapi import FastAPI\nfrom mlserve.types import InferenceRequest",
    "ours first": "import mlserve.compat\nmlserve.compat.install()\n"
    "from mlserver.types import InferenceRequest\nfrom fastapi import FastAPI",
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_the_order_of_imports_does_not_matter(order: str) -> None:
    text = f"""{order}
app = FastAPI()

@app.post("/")
def infer(request: InferenceRequest): ...

body = app.routes[-1].dependant.body_params
assert [one.name for one in body] == ["request"], body
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_we_do_not_import_pydantic_for_it() -> None:
    text = "import mlserve.types, mlserve.settings, sys; assert 'pydantic' not in sys.modules, 'imported'"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
