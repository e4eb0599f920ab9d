"""What the types give: plain dicts, JSON, copies, schemas, and how they read."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve.tensors import TensorData
from mlserve.types import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
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


def test_the_example_of_the_documentation_runs() -> None:
    page = (Path(__file__).parent.parent / "docs" / "types.md").read_text("utf-8")
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    assert names["again"].parameters.region == "eu"


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


def test_bytes_are_text_in_json_however_it_is_picked() -> None:
    output = ResponseOutput(name="z", shape=[1], datatype="BYTES", data=["é".encode()])
    assert output.model_dump()["data"] == ["é".encode()]
    assert output.model_dump(mode="json")["data"] == ["é"]
    assert json.loads(output.model_dump_json(exclude={"name"}))["data"] == ["é"]
    assert json.loads(output.model_dump_json())["data"] == ["é"]


def test_tensor_data_has_the_methods_of_root_models() -> None:
    data = TensorData(root=[1, [2]])
    plain = data.model_dump()
    assert plain == data.dict() == [1, [2]]
    plain[1].append(3)
    assert data == [1, [2]]
    assert data.model_dump_json() == data.json() == "[1,[2]]"
    assert TensorData.model_validate([1]) == TensorData.parse_obj([1]) == [1]
    assert TensorData.model_validate(data) is data
    copied = data.model_copy(deep=True)
    copied[1].append(4)
    assert data == data.copy() == [1, [2]]


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
    assert TensorData.model_json_schema() == {"title": "TensorData", "anyOf": [{"type": "array", "items": {}}, {}]}
    assert TensorData.schema() == TensorData.model_json_schema()


def test_names_of_pydantics_first_version_answer() -> None:
    """Those that code written for MLServer may call, beside the ones that have tests of their own."""
    kind: Any = InferenceRequest
    assert kind.validate({"inputs": []}) == InferenceRequest(inputs=[])
    assert json.loads(kind.schema_json()) == kind.model_json_schema()
    assert list(kind.model_fields) == list(kind.__fields__) == ["id", "parameters", "inputs", "outputs"]
    assert (kind.model_rebuild(), kind.update_forward_refs(), kind(inputs=[]).model_extra) == (None, None, None)
    data: Any = TensorData
    assert data.parse_raw("[1, null]").root == [1, None]
    with pytest.raises(ValueError):
        data.parse_raw("[1,")
