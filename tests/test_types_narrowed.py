"""Subclasses of the message types that give fields of ours a type of their own, or declare further ones."""

from __future__ import annotations

import copy
import enum
import json
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import msgspec
import numpy as np
import pydantic
import pytest

from mlserve.errors import SettingsError
from mlserve.settings import ModelParameters, ModelSettings
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
    RepositoryIndexResponse,
    RepositoryIndexResponseItem,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    TensorData,
    ValidationError,
)

TENSOR: dict[str, Any] = {"name": "a", "shape": [1], "datatype": "FP32", "data": [1]}


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Options(Parameters):
    threshold: float = 0.5
    mode: Literal["fast", "exact"] = "fast"


class Input(RequestInput):
    parameters: Options | None = None
    datatype: Literal["FP32", "FP64"]
    note: str | None = None
    k: int = 4
    inner: list[Input] = []


class Wanted(RequestOutput):
    top: int = 1


class Request(InferenceRequest):
    inputs: list[Input]
    outputs: list[Wanted] | None = None


class Output(ResponseOutput):
    score: float = 0.0


class Response(InferenceResponse):
    outputs: list[Output]
    parameters: Options
    total: int = 0


class Unit(MetadataTensor):
    unit: str = "kg"


class Metadata(MetadataModelResponse):
    inputs: list[Unit] | None = None


class Item(RepositoryIndexResponseItem):
    size: int = 0


class Index(RepositoryIndexResponse):
    root: list[Item]


def _of_file(kind: Any, value: Any, place: Path) -> Any:
    path = place / "message.json"
    path.write_text(json.dumps(value))
    return kind.parse_file(path)


WAYS: dict[str, Callable[[Any, Any, Path], Any]] = {
    "keywords": lambda kind, value, _: kind(**value),
    "model_validate": lambda kind, value, _: kind.model_validate(value),
    "parse_obj": lambda kind, value, _: kind.parse_obj(value),
    "model_validate_json": lambda kind, value, _: kind.model_validate_json(json.dumps(value)),
    "parse_raw": lambda kind, value, _: kind.parse_raw(json.dumps(value).encode()),
    "parse_file": _of_file,
    "model_construct": lambda kind, value, _: kind.model_construct(**value),
    "pydantic": lambda kind, value, _: pydantic.TypeAdapter(kind).validate_python(value),
}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Any, Any], Any]:
    return lambda kind, value: request.param(kind, value, tmp_path)


def test_a_narrowed_field_has_its_type_however_the_object_is_made(make: Any) -> None:
    tensor = {**TENSOR, "note": "x", "parameters": {"threshold": "0.7", "more": 1}, "inner": [TENSOR]}
    request = make(Request, {"inputs": [tensor, TENSOR], "outputs": [{"name": "o", "top": "3"}]})
    first, second = request.inputs
    assert (type(first), first.note, first.k, first.datatype) == (Input, "x", 4, "FP32")
    assert (type(first.parameters), first.parameters.threshold) == (Options, 0.7)
    assert (first.parameters.mode, first.parameters.more, second.parameters) == ("fast", 1, None)
    assert type(first.inner[0]) is Input
    assert (type(request.outputs[0]), request.outputs[0].top) == (Wanted, 3)
    assert type(first.data) is TensorData
    assert first.data.to_numpy("FP32", [1]) == np.ones(1)
    expected = {**tensor, "parameters": {"threshold": 0.7, "more": 1}}
    assert request.model_dump() == {"inputs": [expected, TENSOR], "outputs": [{"name": "o", "top": 3}]}
    assert json.loads(request.model_dump_json()) == request.model_dump()


def test_what_does_not_fit_is_told_with_every_place(make: Any) -> None:
    bad = {**TENSOR, "datatype": "INT8", "k": "x", "parameters": {"threshold": "q", "mode": "slow"}}
    with pytest.raises((ValidationError, pydantic.ValidationError)) as caught:
        make(Request, {"inputs": [TENSOR, bad, {**TENSOR, "note": 5}], "outputs": [{"top": 1}]})
    told = {one["loc"]: (one["type"], one["msg"]) for one in caught.value.errors()}
    assert told == {
        ("inputs", 1, "datatype"): ("literal_error", "Input should be 'FP32' or 'FP64'"),
        ("inputs", 1, "k"): ("int_type", "Input should be a valid integer"),
        ("inputs", 1, "parameters", "threshold"): ("float_type", "Input should be a valid number"),
        ("inputs", 1, "parameters", "mode"): ("literal_error", "Input should be 'fast' or 'exact'"),
        ("inputs", 2, "note"): ("string_type", "Input should be a valid string"),
        ("outputs", 0, "name"): ("missing", "Field required"),
    }


def test_responses_metadata_and_the_index_narrow_too(make: Any) -> None:
    value = {"model_name": "m", "outputs": [{**TENSOR, "score": 2}], "parameters": {"threshold": 1}}
    response = make(Response, value)
    assert (response.outputs[0].score, response.parameters.threshold, response.total) == (2.0, 1.0, 0)
    with pytest.raises((ValidationError, pydantic.ValidationError), match="parameters"):
        make(Response, {"model_name": "m", "outputs": []})
    tensor = {"name": "a", "datatype": "FP32", "shape": [1], "unit": "g"}
    assert make(Metadata, {"name": "m", "platform": "p", "inputs": [tensor]}).inputs[0].unit == "g"


def test_an_index_of_narrowed_items() -> None:
    items = [{"name": "m", "state": "READY", "reason": "", "size": "3"}]
    for index in (Index(items), Index(root=items), Index.parse_obj(items), Index.parse_raw(json.dumps(items))):
        assert (type(index.root[0]), index.root[0].size) == (Item, 3)
    with pytest.raises(ValidationError) as caught:
        Index([*items, {"name": "m"}])
    assert [one["loc"] for one in caught.value.errors()] == [(1, "state"), (1, "reason")]


def test_a_field_may_get_another_type_than_ours(make: Any) -> None:
    class Numbered(InferenceRequest):
        id: uuid.UUID

    class Own(RequestInput):
        datatype: Literal["FP32", "TOKENS"] = "TOKENS"
        shape: tuple[int, int] = (1, 2)
        data: list[float]

    number = "12345678-1234-5678-1234-567812345678"
    numbered = make(Numbered, {"inputs": [], "id": number})
    assert numbered.id == uuid.UUID(number)
    assert json.loads(numbered.model_dump_json())["id"] == number
    own = make(Own, {"name": "a", "data": ["1", 2]})
    assert (own.datatype, own.shape, own.data) == ("TOKENS", [1, 2], [1.0, 2.0])
    with pytest.raises((ValidationError, pydantic.ValidationError)) as caught:
        make(Own, {"name": "a", "data": ["x"], "shape": [1]})
    assert {one["loc"] for one in caught.value.errors()} == {("data", 0), ("shape", 1)}


class Text(RequestInput):
    kind: Literal["text"] = "text"
    language: str


class Picture(RequestInput):
    kind: Literal["picture"] = "picture"
    pixels: int


class Mixed(InferenceRequest):
    inputs: list[Union[Text, Picture]]  # as older code writes it


class MixedWithBase(InferenceRequest):
    inputs: list[Optional[RequestInput | Text]]  # noqa: UP045


def test_the_member_of_a_union_is_the_one_that_fits_best(make: Any) -> None:
    text, picture = {**TENSOR, "language": "en"}, {**TENSOR, "pixels": "9"}
    assert [type(one) for one in make(Mixed, {"inputs": [picture, text]}).inputs] == [Picture, Text]
    assert [type(one) for one in make(MixedWithBase, {"inputs": [TENSOR, text]}).inputs] == [RequestInput, Text]
    with pytest.raises((ValidationError, pydantic.ValidationError)) as caught:
        make(Mixed, {"inputs": [TENSOR]})
    places = {one["loc"] for one in caught.value.errors()}
    assert places == {("inputs", 0, "Text", "language"), ("inputs", 0, "Picture", "pixels")}
    given = Picture(**picture)
    assert Mixed(inputs=[given]).inputs[0] is given


class Coloured(RequestInput):
    colour: Colour = Colour.RED
    colours: list[Colour] = []
    by_name: dict[str, Colour] = {}


def test_enums_become_their_values(make: Any) -> None:
    one = make(Coloured, {**TENSOR, "colour": "blue", "colours": ["red"], "by_name": {"x": "blue"}})
    assert (one.colour, one.colours, one.by_name) == ("blue", ["red"], {"x": "blue"})
    assert json.loads(one.model_dump_json()) == one.model_dump()
    assert Coloured(**TENSOR, colour=Colour.BLUE).colour == "blue"
    with pytest.raises((ValidationError, pydantic.ValidationError)) as caught:
        make(Coloured, {**TENSOR, "colours": ["red", "green"]})
    assert [(one["loc"], one["msg"]) for one in caught.value.errors()] == [
        (("colours", 1), "Input should be 'red' or 'blue'")
    ]


def test_what_nobody_gave_is_not_dumped() -> None:
    one = Coloured(**TENSOR, colours=[])
    assert one.colour is Colour.RED
    assert one.model_dump() == {**TENSOR, "colours": []}
    assert json.loads(one.model_dump_json()) == {**TENSOR, "colours": []}
    assert one.model_dump(mode="json", exclude_unset=False) == {
        **TENSOR,
        "colour": "red",
        "colours": [],
        "by_name": {},
    }
    assert one.model_fields_set == {*TENSOR, "colours"}
    one.colour = Colour.BLUE
    assert one.model_dump() == {**TENSOR, "colours": [], "colour": Colour.BLUE}
    assert Options(mode="exact").model_dump(exclude_unset=False) == {"mode": "exact", "threshold": 0.5}


@pytest.mark.parametrize(
    "again",
    [
        copy.copy,
        copy.deepcopy,
        lambda one: pickle.loads(pickle.dumps(one)),
        lambda one: one.model_copy(deep=True),
        lambda one: one.copy(exclude={"id"}),
        type(Request(inputs=[])).model_validate,
    ],
)
def test_copies_know_what_was_given(again: Any) -> None:
    request = Request(id="1", inputs=[{**TENSOR, "note": "x", "parameters": {"threshold": 1}}])
    made = again(request)
    assert made.inputs == request.inputs
    assert type(made.inputs[0]) is Input
    assert made.inputs[0].model_dump() == {**TENSOR, "note": "x", "parameters": {"threshold": 1.0}}


def test_objects_of_the_base_are_taken_where_they_fit() -> None:
    base = InferenceRequest(inputs=[{**TENSOR, "parameters": {"threshold": 1}}])
    assert Request.model_validate(base).inputs[0].parameters.threshold == 1.0
    with pytest.raises(ValidationError, match=r"inputs\.0\.parameters\.threshold"):
        Request(inputs=[RequestInput(**TENSOR, parameters={"threshold": "x"})])


def test_defaults_may_be_lists_and_bounds_hold() -> None:
    class Bounded(RequestInput):
        shape: list[int] = [1]
        threshold: float = pydantic.Field(0.5, ge=0, le=1)
        steps: pydantic.PositiveInt = 1
        rows: Annotated[int, msgspec.Meta(gt=0)] = 1

    one = Bounded(name="a", datatype="FP32", data=[1], threshold="1")
    assert (one.shape, one.threshold, one.steps) == ([1], 1.0, 1)
    one.shape.append(2)
    assert Bounded(name="a", datatype="FP32", data=[1]).shape == [1]
    with pytest.raises(ValidationError) as caught:
        Bounded(name="a", datatype="FP32", data=[1], threshold=2, steps=0, rows="0")
    assert {one["loc"] for one in caught.value.errors()} == {("threshold",), ("steps",), ("rows",)}


def test_private_attributes_and_methods_are_no_fields() -> None:
    class Working(RequestInput):
        _cache: int = 0
        _seen: list[int] = []
        _made: dict[str, int] = pydantic.PrivateAttr(default_factory=dict)
        LIMITS = [1, 2]

        def count(self) -> int:
            self._cache += 1
            self._seen.append(1)
            self._made["a"] = len(self._seen)
            return self._cache

    one = Working(**TENSOR)
    assert (one.count(), one.count(), Working(**TENSOR).count()) == (1, 2, 1)
    assert (one._seen, one._made, copy.deepcopy(one)._made) == ([1, 1], {"a": 2}, {"a": 2})
    assert one.model_dump() == TENSOR
    assert repr(Coloured(**TENSOR)) == repr(RequestInput(**TENSOR)).replace("RequestInput", "Coloured")
    with pytest.raises(AttributeError, match="surplus"):
        one.surplus = 1  # type: ignore[attr-defined]


class Tuned(ModelParameters):
    temperature: float = 0.5


class TunedSettings(ModelSettings):
    parameters: Tuned | None = None
    inputs: list[Unit] = []


def test_settings_narrow_too() -> None:
    unit = {"name": "a", "datatype": "FP32", "shape": [1], "unit": "g"}
    given = {"name": "m", "implementation": "a.B", "parameters": {"temperature": "0.7", "uri": "u"}, "inputs": [unit]}
    for settings in (TunedSettings(**given), TunedSettings.parse_raw(json.dumps(given))):
        assert (type(settings.parameters), settings.parameters.temperature) == (Tuned, 0.7)
        assert settings.inputs[0].unit == "g"
        assert settings.model_dump(exclude_unset=True)["parameters"] == {"temperature": 0.7, "uri": "u"}
    with pytest.raises(SettingsError, match="'temperature': expected a number"):
        TunedSettings(**{**given, "parameters": {"temperature": "hot"}})
    with pytest.raises(SettingsError, match=r"'inputs\.0\.shape'"):
        TunedSettings(**{**given, "inputs": [{**unit, "shape": 5}]})
