"""Parameters of answers on the wire: bytes, dates and other values of Python's as the text and lists that JSON has."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from mlserve.client import Client
from mlserve.codecs import NumpyCodec, StringCodec
from mlserve.errors import MLServeError
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.testing import running_server
from mlserve.types import Datatype, InferenceRequest, InferenceResponse, Parameters, RequestInput

DAY = datetime.datetime(2024, 2, 29, 1, 2, 3)
EAST = DAY.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=2)))


class Word(str):
    """Text of a class of its own."""


# What a model gives, what JSON has for it, and whether gRPC's parameters can say it.
VALUES: dict[str, tuple[Any, Any, bool]] = {
    "bytes": (b"cat", "cat", True),
    "bytearray": (bytearray("é".encode()), "é", True),
    "naive": (DAY, "2024-02-29T01:02:03", True),
    "aware": (EAST, "2024-02-29T01:02:03+02:00", True),
    "date": (DAY.date(), "2024-02-29", True),
    "uuid": (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005", True),
    "datatype": (Datatype.FP32, "FP32", True),
    "word": (Word("a"), "a", True),
    "numpy": (np.float32(1.5), 1.5, True),
    "nested": ([b"x", {"k": b"y", "none": None}], ["x", {"k": "y", "none": None}], False),
    "set": ({1}, [1], False),
    "array": (np.array([1.5, np.nan]), [1.5, None], False),
}
REFUSED = {
    "latin": (b"\xe9", "parameter 'latin' cannot be sent: bytes that are not UTF-8"),
    "object": (object(), "parameter 'object' cannot be sent: object has no JSON form"),
    "huge": (1 << 64, "parameter 'huge' cannot be sent: an integer of more than 64 bits"),
}


@pytest.mark.parametrize(("given", "written", "_grpc"), VALUES.values(), ids=VALUES)
def test_dumps_have_what_json_has(given: Any, written: Any, _grpc: bool) -> None:
    parameters = Parameters(a=given)
    assert json.loads(json.dumps(parameters.model_dump(mode="json"))) == {"a": written}
    assert json.loads(parameters.model_dump_json()) == {"a": written}
    assert parameters.model_dump()["a"] is given or isinstance(given, list)
    one = RequestInput(name="x", shape=[1], datatype="BYTES", data=[b"q"], parameters=parameters)  # type: ignore[arg-type]
    whole = InferenceRequest(inputs=[one], parameters=parameters)
    plain = {"inputs": [{**one.model_dump(mode="json"), "data": ["q"]}], "parameters": {"a": written}}
    assert json.loads(json.dumps(whole.model_dump(mode="json"))) == plain
    assert json.loads(whole.model_dump_json()) == plain
    assert json.loads(whole.model_dump_json(include={"parameters"})) == {"parameters": {"a": written}}


def test_null_in_a_dict_among_parameters_stays() -> None:
    parameters = Parameters(a={"b": None, "c": [None]}, d=None)
    assert parameters.model_dump() == {"a": {"b": None, "c": [None]}}
    assert json.loads(parameters.model_dump_json()) == {"a": {"b": None, "c": [None]}}


class Telling(MLModel):
    """Answers with the parameter that it is asked for."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (name,) = StringCodec.decode_input(payload.inputs[0])
        value = {**VALUES, **REFUSED}[name][0]
        output = NumpyCodec.encode_output("y", np.array([1]))
        assert output.parameters is not None
        output.parameters[name] = value
        return InferenceResponse(model_name=self.name, outputs=[output], parameters=Parameters({name: value}))


class Echo(MLModel):
    """Answers with the parameters of its request."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        assert payload.parameters is not None
        parameters = Parameters({**payload.parameters})
        parameters.headers = None
        return InferenceResponse(model_name=self.name, outputs=[], parameters=parameters)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    models = [ModelSettings(name="m", implementation=Telling), ModelSettings(name="echo", implementation=Echo)]
    with running_server(models) as server:
        yield server


def asked(name: str) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [name]}]}


@pytest.mark.parametrize("name", VALUES)
def test_answers_have_it_on_every_transport(server: Any, name: str) -> None:
    _, written, grpc = VALUES[name]
    whole = httpx.post(f"{server.rest}/v2/models/m/infer", json=asked(name)).json()
    streamed = httpx.post(f"{server.rest}/v2/models/m/generate_stream", json=asked(name)).text
    for answer in (whole, json.loads(streamed.partition("data: ")[2])):
        assert answer["parameters"][name] == written
        assert answer["outputs"][0]["parameters"] == {"content_type": "np", name: written}
    with Client(f"grpc://{server.grpc}") as client:
        response = client.infer("m", [StringCodec.encode_input("x", [name])]).response
    assert response.model_dump().get("parameters", {}).get(name) == (written if grpc else None)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_sent_is_named(server: Any, name: str) -> None:
    reply = httpx.post(f"{server.rest}/v2/models/m/infer", json=asked(name))
    assert (reply.status_code, REFUSED[name][1] in reply.json()["error"]) == (500, True), reply.text
    with Client(f"grpc://{server.grpc}") as client, pytest.raises(MLServeError, match=REFUSED[name][1]):
        client.infer("m", [StringCodec.encode_input("x", [name])])


@pytest.mark.parametrize("name", ["bytes", "aware", "uuid"])
def test_a_client_sends_the_same(server: Any, name: str) -> None:
    value, written, _ = VALUES[name]
    for address in (server.rest, f"grpc://{server.grpc}"):
        with Client(address) as client:
            response = client.infer("echo", {"x": ["a"]}, parameters={"given": value}).response
        assert response.parameters is not None
        assert response.parameters.given == written


def test_keys_that_are_called_like_methods_of_dicts_reach_the_model_and_come_back(server: Any) -> None:
    given = {"get": 1, "items": "a", "keys": [1], "pop": 2.5, "update": True, "values": {"a": 1}}
    tensor = {"name": "x", "shape": [1], "datatype": "BYTES", "data": ["a"], "parameters": given}
    body = {
        "inputs": [tensor],
        "parameters": {**given, "given": given},
        "outputs": [{"name": "y", "parameters": given}],
    }
    reply = httpx.post(f"{server.rest}/v2/models/echo/infer", json=body)
    assert reply.json()["parameters"] == {"given": given, **given}, reply.text
    with Client(f"grpc://{server.grpc}") as client:
        response = client.infer("echo", {"x": ["a"]}, parameters={"items": "a", "get": 1, "given": 1}).response
    assert response.parameters is not None
    assert (response.parameters.items, response.parameters["get"]) == ("a", 1)
