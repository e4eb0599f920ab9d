"""The protocol's types: pydantic's conveniences on msgspec's Structs, and what MLServer's users write with them."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
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


# -- making them ------------------------------------------------------------------------------------------------------


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


def test_lists_stay_the_callers_own() -> None:
    outputs: list[ResponseOutput] = []
    response = InferenceResponse(model_name="m", outputs=outputs)
    outputs.append(answer().outputs[0])
    assert len(response.outputs) == 1


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
        (RequestInput, {"name": "x", "shape": "1", "datatype": "FP32"}, ("shape",), "valid list"),
        (RequestInput, {"name": "x", "shape": [1, 1.5], "datatype": "FP32"}, ("shape", 1), "valid integer"),
        (RequestInput, {"name": "x", "shape": [1], "datatype": "FLOAT"}, ("datatype",), "one of BOOL, UINT8"),
        (RequestInput, {"name": 1, "shape": [1], "datatype": "FP32"}, ("name",), "valid string"),
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
        ('{"inputs": [{"name": "x"}]}', ("inputs", 0, "shape")),
        ('{"inputs": [{"name": "x", "shape": [1, null], "datatype": "FP32"}]}', ("inputs", 0, "shape", 1)),
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


def test_fields_go_by_keyword_only() -> None:
    with pytest.raises(ValidationError, match="by keyword"):
        RequestOutput("x")  # type: ignore[misc]  # On purpose.


# -- dumping them -----------------------------------------------------------------------------------------------------


def test_dumps_are_plain_and_leave_out_none() -> None:
    made = request()
    plain = made.model_dump()
    assert plain == PLAIN
    assert type(plain["parameters"]) is dict
    assert type(plain["inputs"][0]["data"]) is list
    assert made.dict() == plain  # type: ignore[attr-defined]  # Names of pydantic's first version.
    assert json.loads(made.model_dump_json()) == plain
    assert json.loads(made.json()) == plain  # type: ignore[attr-defined]
    assert json.loads(json.dumps(plain)) == plain


def test_none_is_in_the_dump_if_both_switches_say_so() -> None:
    assert RequestOutput(name="x").model_dump(exclude_none=False, exclude_unset=False) == {
        "name": "x",
        "parameters": None,
    }
    assert RequestOutput(name="x").model_dump(exclude_none=False) == {"name": "x"}
    assert RequestOutput(name="x").model_dump_json(exclude_none=False, exclude_unset=False, by_alias=True) == (
        '{"name":"x","parameters":null}'
    )


def test_empty_parameters_are_in_the_dump() -> None:
    assert answer(parameters=Parameters()).model_dump()["parameters"] == {}
    assert '"parameters":{}' in answer(parameters={}).model_dump_json()


@pytest.mark.parametrize(
    ("pick", "expected"),
    [
        ({"exclude": {"inputs", "outputs", "id"}}, {"parameters": PLAIN["parameters"]}),
        ({"include": {"id"}}, {"id": "one"}),
        ({"include": {"id": True, "parameters": {"extra"}}}, {"id": "one", "parameters": {"extra": 1}}),
        ({"include": {"inputs": {0: {"name"}}}}, {"inputs": [{"name": "x"}]}),
        ({"include": {"inputs": {-1: {"name"}}}}, {"inputs": [{"name": "y"}]}),
        ({"include": {"inputs": {"__all__": {"name"}}}}, {"inputs": [{"name": "x"}, {"name": "y"}]}),
        ({"include": {"id", "inputs"}, "exclude": {"inputs": {0, 1}}}, {"id": "one", "inputs": []}),
        (
            {"include": {"inputs"}, "exclude": {"inputs": {"__all__": {"data", "shape", "parameters"}}}},
            {"inputs": [{"name": "x", "datatype": "FP32"}, {"name": "y", "datatype": "BYTES"}]},
        ),
        ({"include": {"inputs": {0: {"data": {1}}}}}, {"inputs": [{"data": [2.5]}]}),
        ({"include": {"id": ...}, "exclude": {"id": False}}, {"id": "one"}),
    ],
)
def test_dumps_can_be_picked_from(pick: Any, expected: Any) -> None:
    assert request().model_dump(**pick) == expected
    assert json.loads(request().model_dump_json(**pick)) == expected


def test_what_the_document_excludes_is_excluded() -> None:
    made = request()
    assert made.parameters is not None
    made.parameters.headers = {"ce-id": "1"}
    made.parameters._decoded_payload = np.zeros(3)
    hidden = {"parameters": {"_decoded_payload", "headers"}, "inputs": {"__all__": {"parameters": {"headers"}}}}
    assert made.model_dump(exclude=hidden) == PLAIN
    assert json.loads(json.dumps(made.inputs[0].model_dump(exclude=hidden))) == PLAIN["inputs"][0]


def test_json_has_the_tensors_text_as_it_came() -> None:
    made = InferenceRequest.parse_raw('{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[ 1e-7 ]}]}')
    assert made.model_dump_json() == '{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[ 1e-7 ]}]}'
    assert made.model_dump_json(indent=2).startswith('{\n  "inputs": [')


def test_json_has_arrays_flat_and_nan_as_null() -> None:
    made = ResponseOutput(name="x", shape=[2, 2], datatype="FP32", data=np.array([[1, np.nan], [np.inf, 0.1]], "f4"))
    assert made.model_dump_json() == '{"name":"x","shape":[2,2],"datatype":"FP32","data":[1.0,null,null,0.1]}'
    made.parameters = {"score": np.float32(0.5), "list": np.arange(2), "when": np.int64(3)}
    assert '"parameters":{"score":0.5,"list":[0,1],"when":3}' in made.model_dump_json()


def test_files_and_texts_are_read_by_every_name(tmp_path: Path) -> None:
    text = json.dumps(PLAIN)
    path = tmp_path / "request.json"
    path.write_text(text)
    made = request()
    for again in (
        InferenceRequest.parse_raw(text),
        InferenceRequest.parse_raw(b=text.encode()),
        InferenceRequest.model_validate_json(bytearray(text.encode())),
        InferenceRequest.parse_file(path),
        InferenceRequest.parse_file(str(path)),
        InferenceRequest.parse_obj(PLAIN),
        InferenceRequest.model_validate(PLAIN),
        InferenceRequest.model_construct(**PLAIN),
    ):
        assert again == made
    assert InferenceRequest.model_validate(made) is made


def test_dict_of_an_object_has_its_fields() -> None:
    fields = dict(request())
    assert list(fields) == ["id", "parameters", "inputs", "outputs"]
    assert type(fields["inputs"][0]) is RequestInput
    assert dict(RequestOutput(name="x")) == {"name": "x", "parameters": None}
    assert RequestOutput(name="x").model_fields_set == {"name"}


def test_copies_share_their_parts_and_deep_ones_do_not() -> None:
    made = request()
    shallow = made.model_copy(update={"id": "two"})
    assert (shallow.id, made.id) == ("two", "one")
    assert shallow.inputs is made.inputs
    deep = made.model_copy(deep=True)
    assert deep == made
    deep.inputs[0].data.root[0] = 9
    assert made.inputs[0].data[0] == 1.5
    assert made.copy(exclude={"id"}).id is None  # type: ignore[attr-defined]  # pydantic's first version.
    assert pickle.loads(pickle.dumps(made)) == made
    assert copy.copy(made) == made


def test_equality_looks_at_values() -> None:
    assert request() == request()
    assert request() != answer()
    other = request()
    other.inputs[0].data = [1.5, 2.25]
    assert other != request()
    assert InferenceRequest.parse_raw(json.dumps(PLAIN)).inputs[0] == RequestInput(
        name="x", shape=[2], datatype="FP32", data=np.array([1.5, 2.5]), parameters={"content_type": "np"}
    )


def test_repr_is_short() -> None:
    made = ResponseOutput(name="x", shape=[1000], datatype="FP32", data=list(range(1000)))
    assert repr(made).endswith("data=TensorData([0, 1, 2, 3, 4, 5, ... 1000 values]))")
    assert repr(RequestOutput(name="x")) == "RequestOutput(name='x')"


def test_schemas_have_the_shape_of_pydantics() -> None:
    schema = InferenceRequest.model_json_schema()
    assert schema["title"] == "InferenceRequest"
    assert schema["required"] == ["inputs"]
    assert schema["properties"]["inputs"]["items"] == {"$ref": "#/$defs/RequestInput"}
    assert schema["$defs"]["RequestInput"]["required"] == ["name", "shape", "datatype", "data"]
    assert set(schema["$defs"]["Datatype"]["enum"]) == {one.value for one in Datatype}
    assert schema["$defs"]["RequestInput"]["properties"]["parameters"]["anyOf"][0]["properties"]["content_type"]
    assert RequestOutput.model_json_schema()["properties"]["name"] == {"type": "string"}
    assert json.dumps(schema)


# -- Parameters -------------------------------------------------------------------------------------------------------


def test_parameters_have_attributes_and_items() -> None:
    parameters = Parameters(content_type="np", extra=[1])
    assert parameters.content_type == parameters["content_type"] == "np"
    assert parameters.extra == [1]
    assert parameters.headers is None
    assert parameters.get("headers") is None
    parameters.extra = 2
    parameters["more"] = 3
    assert parameters == {"content_type": "np", "extra": 2, "more": 3}
    assert parameters.model_extra == {"extra": 2, "more": 3}
    del parameters.more
    assert "more" not in parameters
    for name in ("more", "_more"):
        assert getattr(parameters, name, "absent") == "absent"
        with pytest.raises(AttributeError):
            delattr(parameters, name)


def test_none_and_absent_parameters_are_the_same() -> None:
    parameters = Parameters(content_type=None, headers={"a": "b"})
    parameters.headers = None
    parameters["extra"] = None
    assert parameters == Parameters() == Parameters({"x": None}) == {}
    assert answer(parameters=parameters).model_dump_json().count('"parameters":{}') == 1
    assert Parameters(a=1, b=None).model_dump() == {"a": 1}


def test_parameters_are_true_even_if_empty() -> None:
    assert Parameters()
    assert len(Parameters()) == 0


def test_private_attributes_never_leave_the_process() -> None:
    parameters = Parameters(a=1)
    parameters._decoded_payload = np.zeros(2)
    assert parameters._decoded_payload is parameters.copy()._decoded_payload
    assert parameters.model_dump() == dict(parameters) == {"a": 1}
    assert parameters.model_dump_json() == '{"a":1}'
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(parameters)) == {"a": 1}
    again = pickle.loads(pickle.dumps(parameters))
    assert type(again) is Parameters
    assert not hasattr(again, "_decoded_payload")
    assert not hasattr(copy.deepcopy(parameters), "_decoded_payload")
    del parameters._decoded_payload
    assert not hasattr(parameters, "_decoded_payload")


def test_a_deferred_attribute_is_made_once_when_it_is_read() -> None:
    calls: list[int] = []
    parameters = Parameters()
    parameters._defer("_decoded_payload", lambda: calls.append(1) or "value")
    assert calls == []
    assert parameters._decoded_payload == "value"
    assert parameters._decoded_payload == "value"
    assert calls == [1]


def test_parameters_copies() -> None:
    parameters = Parameters(a=[1])
    assert parameters.copy(update={"a": None, "b": 2}) == {"b": 2}
    assert parameters.model_copy(deep=True).a is not parameters.a
    assert Parameters.model_validate({"a": 1}) == Parameters.parse_obj(Parameters(a=1))
    assert repr(Parameters(a=1, b="x" * 100)) == f"Parameters(a=1, b='{'x' * 56}...)"


# -- the rest ---------------------------------------------------------------------------------------------------------


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
        assert kind().error is None


def test_the_state_is_its_name() -> None:
    assert State.READY == "READY"
    assert f"{State.READY} {State('READY')!s}" == "READY READY"
    assert {"READY": 1}[State.READY] == 1


def test_all_public_names_are_there_and_sorted() -> None:
    assert types.__all__ == sorted(types.__all__)
    assert all(hasattr(types, name) for name in types.__all__)
