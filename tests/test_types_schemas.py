"""JSON schemas of subclasses of our types, alone and inside pydantic's models; what pydantic writes of them."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from typing import Any, Literal

import pydantic
import pytest

from mlserve.settings import ModelParameters, ModelSettings
from mlserve.types import InferenceRequest, Parameters, RepositoryIndexResponse, RequestInput, RequestOutput, TensorData

TENSOR: dict[str, Any] = {"name": "a", "shape": [1], "datatype": "FP32", "data": [1]}


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Unit(pydantic.BaseModel):
    symbol: str


class Options(Parameters):
    threshold: float = 0.5


class Input(RequestInput):
    """An input of ours."""

    parameters: Options | None = None
    datatype: Literal["FP32", "FP64"]
    colour: Colour = Colour.RED
    limits: tuple[int, int] = (0, 1)
    named: dict[str, list[RequestOutput]] = {}
    step: float = pydantic.Field(1.0, ge=0)
    unit: Unit | None = None
    inner: Input | None = None


class Request(InferenceRequest):
    inputs: list[Input | RequestInput]


class Tuned(ModelParameters):
    temperature: float = 0.5


class TunedSettings(ModelSettings):
    parameters: Tuned | None = None


class Holding(pydantic.BaseModel):
    request: Request
    plain: InferenceRequest
    tensor: Input | None = None
    options: Options
    data: TensorData | None = None
    index: RepositoryIndexResponse | None = None
    settings: TunedSettings | None = None


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for one in part.values():
            yield from _references(one)
    elif isinstance(part, list):
        for one in part:
            yield from _references(one)


@pytest.mark.parametrize("kind", [Input, Options, Request, TunedSettings, Holding, InferenceRequest])
def test_every_reference_of_a_schema_leads_somewhere(kind: Any) -> None:
    schema = kind.model_json_schema()
    json.dumps(schema)
    for reference in _references(schema):
        assert reference.startswith("#/$defs/")
        assert reference.removeprefix("#/$defs/") in schema["$defs"]


def test_declared_fields_are_described_beside_ours() -> None:
    parts = Input.model_json_schema()["$defs"]
    own = parts["Input"]
    assert (own["title"], own["description"]) == ("Input", "An input of ours.")
    assert own["required"] == ["name", "shape", "data", "datatype"]
    fields = own["properties"]
    assert fields["parameters"] == {"anyOf": [{"$ref": "#/$defs/Options"}, {"type": "null"}], "default": None}
    assert fields["datatype"] == {"enum": ["FP32", "FP64"]}
    assert fields["colour"] == {"$ref": "#/$defs/Colour", "default": "red"}
    assert fields["limits"]["prefixItems"] == [{"type": "integer"}] * 2
    assert fields["named"]["additionalProperties"]["items"] == {"$ref": "#/$defs/RequestOutput"}
    assert (fields["step"]["minimum"], fields["step"]["default"]) == (0, 1.0)
    assert parts["Options"]["properties"]["threshold"] == {"type": "number", "default": 0.5}
    assert fields["unit"]["anyOf"][0]["required"] == ["symbol"]
    assert {"name", "shape", "inner", "data"} < fields.keys()


def test_pydantics_models_read_and_write_narrowed_fields() -> None:
    given = {"inputs": [{**TENSOR, "parameters": {"threshold": "1"}, "inner": TENSOR, "unit": {"symbol": "m"}}]}
    holding = Holding(request=given, plain={"inputs": [TENSOR]}, options={})
    assert holding.request.inputs[0].parameters.threshold == 1.0
    assert holding.request.inputs[0].unit == Unit(symbol="m")
    dumped = holding.model_dump(mode="json", exclude_unset=True)
    written = {**given["inputs"][0], "parameters": {"threshold": 1.0}}
    assert dumped == {"request": {"inputs": [written]}, "plain": {"inputs": [TENSOR]}, "options": {}}
    assert holding.model_dump(mode="json")["options"] == {"threshold": 0.5}
    with pytest.raises(pydantic.ValidationError) as caught:
        Holding(request={"inputs": [{**TENSOR, "step": -1}]}, plain=given, options={"threshold": "x"})
    places = {one["loc"] for one in caught.value.errors()}
    assert ("options", "threshold") in places
    # a base that fits takes the input, as in pydantic's own unions
    assert ("request", "inputs", 0) not in {place[:3] for place in places}


def test_serialize_as_any_writes_what_subclasses_declare() -> None:
    class Outer(pydantic.BaseModel):
        tensor: RequestInput
        anything: Any = None

    outer = Outer(tensor=Input(**TENSOR, step=2), anything=InferenceRequest(inputs=[TENSOR]))
    assert outer.model_dump() == {"tensor": TENSOR, "anything": {"inputs": [TENSOR]}}
    for dumped in (
        outer.model_dump(serialize_as_any=True, exclude_unset=True),
        json.loads(outer.model_dump_json(serialize_as_any=True, exclude_unset=True)),
    ):
        assert dumped == {"tensor": {**TENSOR, "step": 2.0}, "anything": {"inputs": [TENSOR]}}
    one = InferenceRequest(inputs=[Input(**TENSOR, step=2)])
    assert one.model_dump(serialize_as_any=True)["inputs"][0]["step"] == 2.0
    assert json.loads(one.model_dump_json(serialize_as_any=True))["inputs"][0]["step"] == 2.0
