"""The protocol's types: pydantic's conveniences on msgspec's Structs, and what MLServer's users write with them."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import numpy as np
import pytest

from mlserve import types
from mlserve.tensors import TensorData
from mlserve.types import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataServerResponse,
    MetadataTensor,
    Parameters,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryIndexResponseItem,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    State,
    ValidationError,
)

PLAIN = {
    "id": "one",
    "parameters": {"content_type": "np", "extra": 1},
    "inputs": [
        {"name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, 2.5], "parameters": {"content_type": "np"}},
        {"name": "y", "shape": [1], "datatype": "BYTES", "data": ["é"]},
    ],
    "outputs": [{"name": "z", "parameters": {"binary_data": True}}],
}


def request() -> InferenceRequest:
    return InferenceRequest(**copy.deepcopy(PLAIN))


def answer(**more: Any) -> InferenceResponse:
    output = ResponseOutput(name="z", shape=[2], datatype="FP32", data=[1, 2])
    return InferenceResponse(model_name="m", outputs=[output], **more)


def test_nested_dicts_become_objects() -> None:
    made = request()
    assert [type(one) for one in made.inputs] == [RequestInput, RequestInput]
    assert made.inputs[0].datatype is Datatype.FP32
    assert type(made.inputs[0].data) is TensorData
    assert made.inputs[1].data[0] == "é"
    assert made.outputs is not None
    assert made.outputs[0].name == "z"
    assert made.parameters is not None
    assert made.parameters.extra == 1
    response = InferenceResponse(model_name="m", outputs=[{**PLAIN["inputs"][0], "name": "o"}])
    assert response.outputs[0].name == "o"


def test_a_plain_decoder_reads_requests_and_leaves_the_data_as_text() -> None:
    text = json.dumps(PLAIN).encode()
    made = msgspec.json.Decoder(InferenceRequest).decode(text)
    assert made == request()
    assert made.inputs[0].data.form == "json"
    assert bytes(made.inputs[0].data.payload) == b"[1.5, 2.5]"
    assert type(made.parameters) is Parameters
    assert type(made.inputs[0].parameters) is Parameters


def test_shapes_may_be_any_sequence_of_whole_numbers() -> None:
    for shape in ((2, 1), [np.int64(2), 1.0], np.array([2, 1]), ["2", 1], (one for one in (2, 1))):
        made = ResponseOutput(name="x", shape=shape, datatype="INT8", data=[1, 2])
        assert made.shape == [2, 1]
        assert [type(size) for size in made.shape] == [int, int]
    assert InferenceRequest.parse_raw(
        '{"inputs":[{"name":"x","shape":["2", 1.0],"datatype":"INT8","data":[1, 2]}]}'
    ).inputs[0].shape == [2, 1]


def test_data_and_parameters_are_wrapped_when_they_are_assigned() -> None:
    response = answer()
    response.outputs[0].data = np.array([3.5], np.float32)
    assert response.outputs[0].data.to_raw("FP32") == np.float32(3.5).tobytes()
    response.parameters = {"a": 1}
    assert type(response.parameters) is Parameters
    response.parameters = None
    response.id = "new"
    assert response.model_dump() == {
        "model_name": "m",
        "id": "new",
        "outputs": [{"name": "z", "shape": [2], "datatype": "FP32", "data": [3.5]}],
    }


def test_what_becomes_of_a_list_later_is_not_seen() -> None:
    outputs: list[ResponseOutput] = []
    response = InferenceResponse(model_name="m", outputs=outputs)
    outputs.append(answer().outputs[0])
    assert response.outputs == []
    data, shape = [1, 2], [2]
    output = ResponseOutput(name="y", shape=shape, datatype="INT32", data=data)
    data.append(3)
    shape.append(1)
    assert (output.data.root, output.shape) == ([1, 2], [2])
    output.data = data  # type: ignore[assignment]  # what is assigned is held as it is
    data.append(4)
    assert output.data.root == [1, 2, 3, 4]
    assert isinstance(output.data, TensorData)
    headers = {"a": "b"}
    parameters = Parameters(headers=headers)
    headers["c"] = "d"
    assert parameters.headers == {"a": "b"}


def test_unknown_keywords_are_ignored() -> None:
    made = RequestOutput(name="x", colour="red")
    assert made == RequestOutput(name="x")
    assert not hasattr(made, "colour")
    assert RequestOutput.parse_raw('{"name": "x", "colour": "red"}') == made


@pytest.mark.parametrize(
    ("kind", "fields", "loc", "message"),
    [
        (InferenceRequest, {}, ("inputs",), "Field required"),
        (InferenceRequest, {"inputs": 5}, ("inputs",), "valid list"),
        (InferenceRequest, {"inputs": {"x": 1}}, ("inputs",), "valid list"),
        (InferenceRequest, {"inputs": ["x"]}, ("inputs", 0), "valid dictionary or instance of RequestInput"),
        (InferenceRequest, {"inputs": [], "id": 5}, ("id",), "valid string"),
        (InferenceRequest, {"inputs": [], "parameters": "np"}, ("parameters",), "valid dictionary"),
        (InferenceRequest, {"inputs": [{"name": "x", "shape": [1]}]}, ("inputs", 0, "datatype"), "Field required"),
        (RequestInput, {"name": "x", "shape": "1", "datatype": "FP32", "data": [1]}, ("shape",), "valid list"),
        (
            RequestInput,
            {"name": "x", "shape": [1, 1.5], "datatype": "FP32", "data": [1]},
            ("shape", 1),
            "valid integer",
        ),
        (
            RequestInput,
            {"name": "x", "shape": [1], "datatype": "FLOAT", "data": [1]},
            ("datatype",),
            "one of BOOL, UINT8",
        ),
        (RequestInput, {"name": "x", "shape": [1], "datatype": "FP32"}, ("data",), "Field required"),
        (RequestInput, {"name": 1, "shape": [1], "datatype": "FP32", "data": [1]}, ("name",), "valid string"),
        (InferenceResponse, {"model_name": None, "outputs": None}, ("outputs",), "valid list"),
        (RepositoryIndexResponseItem, {"name": "x", "state": "LOST", "reason": ""}, ("state",), "UNLOADING"),
        (MetadataTensor, {"name": "x", "shape": [1], "datatype": 5}, ("datatype",), "one of BOOL"),
    ],
)
def test_wrong_fields_are_named_by_their_place(kind: Any, fields: Any, loc: tuple[Any, ...], message: str) -> None:
    for make in (lambda: kind(**fields), lambda: kind.model_validate(fields), lambda: kind.parse_obj(fields)):
        with pytest.raises(ValidationError) as caught:
            make()
        (first, *_) = caught.value.errors()
        assert first["loc"] == loc
        assert message in first["msg"]
        assert f"for {kind.__name__}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "loc"),
    [
        ("{", ()),
        ("[]", ()),
        ('{"inputs": [{"name": "x", "shape": [1], "data": []}]}', ("inputs", 0, "datatype")),
        ('{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]}', ("inputs", 0, "data")),
        ('{"inputs": [{"name": "x", "shape": [1, null], "datatype": "FP32", "data": 1}]}', ("inputs", 0, "shape", 1)),
        ('{"inputs": [], "id": 5}', ("id",)),
    ],
)
def test_wrong_json_is_named_by_its_place(text: str, loc: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        InferenceRequest.model_validate_json(text)
    assert caught.value.errors()[0]["loc"] == loc
    assert caught.value.error_count() == 1
    assert json.loads(caught.value.json())[0]["loc"] == list(loc)
    with pytest.raises(ValueError, match="1 validation error for InferenceRequest"):
        InferenceRequest.parse_raw(text.encode())


def test_all_missing_fields_are_named_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        RepositoryIndexResponseItem(version="1")
    assert [one["loc"] for one in caught.value.errors()] == [("name",), ("state",), ("reason",)]
    assert str(caught.value).startswith("3 validation errors for RepositoryIndexResponseItem\nname\n  Field required")


def test_every_fault_is_named_by_its_place_in_json_as_in_python() -> None:
    wrong = {"inputs": [{"name": "x"}, {"name": "y", "shape": [1], "datatype": "FP32", "data": [1]}, {"name": 5}]}
    wanted = [
        *(("inputs", 0, name) for name in ("shape", "datatype", "data")),
        *(("inputs", 2, name) for name in ("shape", "datatype", "data")),
    ]
    for make in (lambda: InferenceRequest(**wrong), lambda: InferenceRequest.parse_raw(json.dumps(wrong))):
        with pytest.raises(ValidationError) as caught:
            make()
        assert [one["loc"] for one in caught.value.errors()] == wanted
        assert {one["type"] for one in caught.value.errors()} == {"missing"}


def test_fields_go_by_keyword_only() -> None:
    with pytest.raises(ValidationError, match="by keyword"):
        RequestOutput("x")  # type: ignore[misc]  # On purpose.


def test_the_repository_index_is_a_bare_list() -> None:
    item = {"name": "m", "version": "1", "state": "READY", "reason": ""}
    index = RepositoryIndexResponse(root=[item])
    assert index.root[0].state is State.READY
    assert index[0] == index.root[0] == RepositoryIndexResponseItem(**item)
    assert (
        index.model_dump_json() == msgspec.json.encode(index).decode() == f"[{json.dumps(item, separators=(',', ':'))}]"
    )
    assert index.model_dump() == [item]
    assert index.model_dump(exclude={"__all__": {"reason", "version"}}) == [{"name": "m", "state": "READY"}]
    assert RepositoryIndexResponse.parse_raw(index.model_dump_json()) == index
    assert RepositoryIndexResponse.parse_obj([item]) == index
    assert [one.name for one in index] == ["m"]
    with pytest.raises(ValidationError) as caught:
        RepositoryIndexResponse([item, {"name": "x"}])
    assert caught.value.errors()[0]["loc"] == (1, "state")


def test_metadata_and_errors() -> None:
    made = MetadataModelResponse(
        name="m", platform="", inputs=[{"name": "x", "datatype": "FP32", "shape": [-1, 4], "parameters": {"a": 1}}]
    )
    assert made.inputs is not None
    assert made.inputs[0].shape == [-1, 4]
    assert made.model_dump_json() == (
        '{"name":"m","platform":"","inputs":[{"name":"x","datatype":"FP32","shape":[-1,4],"parameters":{"a":1}}]}'
    )
    assert MetadataServerResponse(name="s", version="1", extensions=[]).model_dump()["extensions"] == []
    assert RepositoryIndexRequest().model_dump() == {}
    for kind in (
        types.InferenceErrorResponse,
        types.MetadataModelErrorResponse,
        types.MetadataServerErrorResponse,
        types.RepositoryLoadErrorResponse,
        types.RepositoryUnloadErrorResponse,
    ):
        assert kind(error="bad").model_dump() == {"error": "bad"}
        assert kind.parse_obj({"error": "bad"}).error == "bad"
        if "Metadata" in kind.__name__:  # as on MLServer
            assert kind.model_json_schema()["required"] == ["error"]
            assert kind.model_json_schema()["properties"]["error"] == {"type": "string"}
            with pytest.raises(types.ValidationError, match="error"):
                kind.parse_obj({})
        else:
            assert kind().error is None


def test_the_state_is_its_name() -> None:
    assert State.READY == "READY"
    assert f"{State.READY} {State('READY')!s}" == "READY READY"
    assert {"READY": 1}[State.READY] == 1


def test_all_public_names_are_there_and_sorted() -> None:
    assert types.__all__ == sorted(types.__all__)
    assert all(hasattr(types, name) for name in types.__all__)


def test_json_that_is_nested_too_deeply_is_a_validation_error() -> None:
    for text in ("[" * 100_000, '{"inputs": ' + "[" * 100_000 + "]" * 100_000 + "}"):
        with pytest.raises(ValidationError):
            InferenceRequest.model_validate_json(text)


# -- fields of subclasses ----------------------------------------------------------------------------------------------


class Noted(RequestOutput):
    count: int = 3
    tags: list[str] = []
    part: RequestOutput | None = None
    parts: list[RequestOutput] = []
    named: dict[str, float] = {}
    array: np.ndarray[Any, Any] | None = None


class Scaled(Noted):
    scale: float


class Foreign(RequestOutput):
    any_of: np.ndarray[Any, Any] | ValidationError | None = None


class ScaledInput(RequestInput):
    scale: float = 1.0


def test_fields_of_subclasses_are_converted_when_an_object_is_made() -> None:
    one = Noted(name="a", count="7", part={"name": "b"}, parts=[{"name": "c"}], named={"x": "1.5"}, unknown=1)
    assert (one.count, one.tags, one.named) == (7, [], {"x": 1.5})
    assert (type(one.part), type(one.parts[0])) == (RequestOutput, RequestOutput)
    assert Noted(name="a").part is None
    assert Noted.model_validate({"name": "a", "count": "7"}) == Noted(name="a", count=7)
    assert Noted.model_validate_json('{"name":"a","count":"7"}') == Noted(name="a", count=7)
    assert Scaled(name="a", scale="1.5").scale == 1.5
    assert ScaledInput(name="x", shape=[1], datatype="INT32", data=[1], scale="2").model_dump()["scale"] == 2.0
    array = np.zeros(2)
    assert Noted(name="a", array=array).array is array
    assert Foreign(name="a", any_of=array).any_of is array  # msgspec has no check for such a union


def test_every_wrong_field_of_a_subclass_is_told() -> None:
    with pytest.raises(ValidationError) as caught:
        Noted(name="a", count="x", tags=5, part={}, parts=[{"name": "c"}, {"name": 3}], named={"x": "y"}, array=[1])
    assert caught.value.title == "Noted"
    places = {one["loc"] for one in caught.value.errors()}
    assert places == {("count",), ("tags",), ("part", "name"), ("parts", 1, "name"), ("named", "x"), ("array",)}
    for make in (Scaled, Scaled.model_validate_json):
        with pytest.raises(ValidationError, match="scale\n  Field required"):
            make(name="a") if make is Scaled else make('{"name": "a"}')
    with pytest.raises(ValidationError, match="data\n  Field required"):
        ScaledInput(name="x", shape=[1], datatype="INT32", scale=1)
