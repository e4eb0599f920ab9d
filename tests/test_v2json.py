"""V2 JSON bodies: what is read, what is refused and how that is said."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve.errors import InvalidRequest
from mlserve.wire.v2json import decode_index_request, decode_request

TENSOR = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, 2]}


def body_of(*inputs: dict[str, Any], **members: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **members}).encode()


def refusal(body: bytes, header_length: int | None = None) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        decode_request(body, header_length)
    return caught.value


# -- reading ----------------------------------------------------------------------------------------------------------


def test_a_request_is_read_and_its_data_left_as_text() -> None:
    text = b'{"id":"a","inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[ 1.50,\n2]}]}'
    request = decode_request(text)
    (tensor,) = request.inputs
    assert (request.id, tensor.name, tensor.shape, tensor.datatype) == ("a", "x", [2], "FP32")
    assert tensor.data.form == "json"
    assert bytes(tensor.data.payload) == b"[ 1.50,\n2]"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_buffer_is_read(kind: Any) -> None:
    request = decode_request(kind(body_of(TENSOR)))
    assert request.inputs[0].data.to_numpy("FP32", [2]).tolist() == [1.5, 2.0]


@pytest.mark.parametrize(("shape", "read"), [(["2"], [2]), ([2.0], [2]), ([], []), ([-1], [-1]), ([0, 3], [0, 3])])
def test_sizes_may_be_written_as_loosely_as_mlserver_takes_them(shape: list[Any], read: list[int]) -> None:
    assert decode_request(body_of({**TENSOR, "shape": shape})).inputs[0].shape == read


@pytest.mark.parametrize("data", ["hello", 5, True, None, [], [[1], [2]], [{"a": 1}]])
def test_data_may_be_any_json(data: Any) -> None:
    tensor = decode_request(body_of({**TENSOR, "data": data})).inputs[0]
    assert json.loads(bytes(tensor.data.payload)) == data


def test_members_that_nobody_knows_are_ignored() -> None:
    request = decode_request(body_of({**TENSOR, "more": [1]}, model_name="x", more={"a": 1}))
    assert request.inputs[0].name == "x"


def test_null_is_as_good_as_absent_where_a_member_is_optional() -> None:
    tensor = {**TENSOR, "parameters": None}
    request = decode_request(body_of(tensor, id=None, parameters=None, outputs=None))
    assert (request.id, request.parameters, request.outputs) == (None, None, None)


def test_parameters_keep_all_their_members() -> None:
    parameters = {"content_type": "np", "k": 1, "o": {"p": [1, "q"]}, "é": "ü"}
    request = decode_request(body_of({**TENSOR, "parameters": parameters}, outputs=[{"name": "y"}]))
    assert request.inputs[0].parameters == parameters
    assert request.outputs is not None
    assert request.outputs[0].name == "y"


def test_escapes_and_other_scripts_survive() -> None:
    tensor = {**TENSOR, "name": "é", "datatype": "BYTES", "data": ["🙂", "日本"]}
    for ascii_only in (True, False):
        text = json.dumps({"inputs": [tensor]}, ensure_ascii=ascii_only).encode()
        request = decode_request(text)
        assert request.inputs[0].name == "é"
        assert request.inputs[0].data.tolist() == ["🙂", "日本"]


# -- what is no JSON --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is empty"),
        (b'{"inputs":[}', "(byte 11)"),
        (b'{"inputs":[]} x', "(byte 15)"),
        (b'{\n"inputs":[\n 1 2]}', "line 3, column 4"),  # the numbers are wrong, too, but this is worse
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"{'inputs':[]}", "(byte 1)"),
        (b'{"inputs":[NaN]}', "(byte 11)"),
        (b'{"inputs":[{"data":[-Infinity]}]}', "(byte 21)"),
        ('{"inputs":[]}'.encode("utf-16"), "UTF-8"),
        (b'{"inputs":[{"name":"\\ud800 "}]}', "not valid JSON"),
        (b'{"inputs":[{"data":["\\ud83d\\u0041"]}]}', "not valid JSON"),
        (b'{"inputs":[{"data":["a\nb"]}]}', "not valid JSON"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(body: bytes, words: str) -> None:
    error = refusal(body)
    assert words in str(error)
    assert error.http_status == 400


@pytest.mark.parametrize("place", [b'{"id":"%s","inputs":[]}', b'{"inputs":[],"more":"%s"}'])
@pytest.mark.parametrize("wrong", [b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xc0\x80"])
def test_bytes_that_are_no_utf8_are_refused_wherever_they_are(place: bytes, wrong: bytes) -> None:
    assert "UTF-8" in str(refusal(place % wrong))


def test_data_that_is_no_utf8_never_gets_in() -> None:
    """msgspec leaves such text as it is, and it would be put into an answer as it is."""
    text = body_of({**TENSOR, "datatype": "BYTES", "data": ["HERE"]}).replace(b"HERE", b"\xff\xfe")
    assert "UTF-8" in str(refusal(text))
    assert "UTF-8" in str(refusal(text, len(text)))


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_bomb_of_brackets_is_refused(opening: bytes) -> None:
    closing = {b"[": b"]", b'{"a":': b"}"}[opening]
    bomb = opening * 100_000 + b"1" + closing * 100_000
    for text in (bomb, body_of({**TENSOR, "data": "HERE"}).replace(b'"HERE"', bomb)):
        error = refusal(text)
        assert "deep" in str(error)
        assert error.http_status == 400


def test_deep_nesting_within_reason_is_read() -> None:
    data = b"[" * 200 + b"]" * 200
    text = body_of({**TENSOR, "data": "HERE"}).replace(b'"HERE"', data)
    assert bytes(decode_request(text).inputs[0].data.payload) == data


@pytest.mark.parametrize("number", [b"1e999", b"-1E+400", b"[[0.5], 1.5e309]"])
@pytest.mark.parametrize("padding", [0, 5000])
def test_a_number_beyond_any_float_is_refused(number: bytes, padding: int) -> None:
    filler = b"0.5e1," * padding
    text = body_of({**TENSOR, "data": "HERE"}).replace(b'"HERE"', b"[" + filler + number + b"]")
    assert "inputs[0].data" in str(refusal(text))


def test_large_exponents_that_fit_and_look_alikes_are_read() -> None:
    text = body_of({**TENSOR, "name": "e2e999", "datatype": "BYTES", "data": ["1e999", 1e300]}, more="1e999")
    assert decode_request(text).inputs[0].data.tolist() == ["1e999", 1e300]


# -- what is no request -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "the body: expected an object {...}, got []"),
        ("a", 'the body: expected an object {...}, got "a"'),
        (None, "the body: expected an object {...}, got null"),
        ({}, "inputs: missing; a request needs a list of input tensors, this one has nothing"),
        ({"instances": []}, "inputs: missing; a request needs a list of input tensors, this one has instances"),
        ({"inputs": {"x": 1}}, 'inputs: expected a list of input tensors, got {"x": 1}'),
        ({"inputs": None}, "inputs: expected a list of input tensors, got null"),
        ({"inputs": ["x"]}, 'inputs[0]: expected an object {...}, got "x"'),
        ({"inputs": [], "id": 5}, "id: expected a text, got 5"),
        ({"inputs": [], "outputs": "y"}, 'outputs: expected a list of requested outputs, got "y"'),
        ({"inputs": [], "outputs": [{}]}, "outputs[0].name: missing; expected a text"),
        ({"inputs": [], "parameters": []}, "parameters: expected an object {...}, got []"),
        ({"inputs": [], "parameters": {"headers": ["a"]}}, 'parameters.headers: expected an object {...}, got ["a"]'),
        ({"inputs": [], "parameters": {"content_type": 1}}, "parameters.content_type: expected a text, got 1"),
    ],
)
def test_a_wrong_member_of_the_request_is_named(body: Any, message: str) -> None:
    error = refusal(json.dumps(body).encode())
    assert str(error) == message
    assert error.http_status == 422


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "inputs[1].name: expected a text, got 1"),
        ({"shape": "1"}, 'inputs[1].shape: expected a list of whole numbers, got "1"'),
        ({"shape": ["a"]}, 'inputs[1].shape: expected a list of whole numbers, got "a"'),
        ({"shape": [1.5]}, "inputs[1].shape: expected a list of whole numbers, got 1.5"),
        ({"shape": [None]}, "inputs[1].shape: expected a list of whole numbers, got null"),
        ({"shape": None}, "inputs[1].shape: expected a list of whole numbers, got null"),
        ({"shape": {"a": 1}}, 'inputs[1].shape: expected a list of whole numbers, got {"a": 1}'),
        (
            {"shape": [-2]},
            "inputs[1].shape: expected sizes from 0 on, or -1 for one that follows from the data, got -2",
        ),
        ({"parameters": "np"}, 'inputs[1].parameters: expected an object {...}, got "np"'),
        ({"parameters": {"headers": 1}}, "inputs[1].parameters.headers: expected an object {...}, got 1"),
    ],
)
def test_a_wrong_member_of_an_input_is_named(change: dict[str, Any], message: str) -> None:
    error = refusal(body_of(TENSOR, {**TENSOR, **change}))
    assert str(error) == message
    assert error.http_status == 422


@pytest.mark.parametrize("name", ["name", "shape", "datatype", "data"])
def test_a_missing_member_of_an_input_is_named(name: str) -> None:
    error = refusal(body_of(TENSOR, {key: value for key, value in TENSOR.items() if key != name}))
    assert str(error).startswith(f"inputs[1].{name}: missing")
    assert error.http_status == 422


def test_an_unknown_datatype_is_answered_with_those_there_are() -> None:
    message = str(refusal(body_of({**TENSOR, "datatype": "FLOAT"})))
    assert message.startswith("inputs[0].datatype: expected one of BOOL, UINT8")
    assert message.endswith('got "FLOAT"')


@pytest.mark.parametrize("size", [2**63, 10**30])
def test_a_size_beyond_any_memory_is_refused(size: int) -> None:
    assert str(refusal(body_of({**TENSOR, "shape": [size]}))).startswith("inputs[0].shape: expected")


def test_a_long_wrong_value_is_shown_in_part() -> None:
    assert len(str(refusal(body_of({**TENSOR, "parameters": "n" * 10_000})))) < 120


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_whatever_comes_is_read_or_refused_in_words(noise: bytes) -> None:
    for text in (noise, b'{"inputs":' + noise + b"}", b'{"inputs":[{"name":' + noise + b"}]}"):
        for header_length in (None, len(text) // 2):
            try:
                decode_request(text, header_length)
            except InvalidRequest as error:
                assert str(error)


# -- the binary tensor extension --------------------------------------------------------------------------------------


def binary_body(*blobs: bytes, inputs: list[dict[str, Any]]) -> tuple[bytes, int]:
    text = body_of(*inputs)
    return text + b"".join(blobs), len(text)


def binary_input(size: Any, name: str = "x", datatype: str = "FP32", shape: Any = (2,)) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "datatype": datatype, "parameters": {"binary_data_size": size}}


def test_binary_inputs_are_views_of_the_body_in_order() -> None:
    first, second = np.array([1.5, -2], "<f4"), np.array([1, 2, 3], "<i8")
    body, length = binary_body(
        first.tobytes(),
        second.tobytes(),
        inputs=[binary_input(8), TENSOR, binary_input(24, "y", "INT64", (3,))],
    )
    request = decode_request(body, length)
    one, json_one, two = request.inputs
    assert [tensor.data.form for tensor in request.inputs] == ["raw", "json", "raw"]
    assert one.data.to_numpy("FP32", [2]).tolist() == [1.5, -2.0]
    assert two.data.to_numpy("INT64", [3]).tolist() == [1, 2, 3]
    assert json_one.data.tolist() == [1.5, 2]
    assert one.parameters == {}  # How the data travelled is nothing to the model.
    assert np.shares_memory(np.frombuffer(one.data.payload, np.uint8), np.frombuffer(body, np.uint8))


def test_binary_text_and_half_floats_are_read() -> None:
    text = b"".join(struct.pack("<I", len(one)) + one for one in (b"a", "日本".encode()))
    half = np.array([0.5, -65504], "<f2")
    body, length = binary_body(
        text, half.tobytes(), inputs=[binary_input(len(text), datatype="BYTES"), binary_input(4, "y", "FP16")]
    )
    request = decode_request(body, length)
    assert request.inputs[0].data.to_numpy("BYTES", [2]).tolist() == [b"a", "日本".encode()]
    assert request.inputs[1].data.to_numpy("FP16", [2]).tolist() == [0.5, -65504.0]


def test_an_empty_binary_tensor_is_one() -> None:
    body, length = binary_body(inputs=[binary_input(0, shape=(0, 3))])
    assert decode_request(body, length).inputs[0].data.to_numpy("FP32", [0, 3]).shape == (0, 3)


@pytest.mark.parametrize(
    ("size", "rest", "words"),
    [
        (8, b"1234", "8 bytes, but only 4 are left"),
        (8, b"123456789", "9 bytes after its JSON, but the inputs' binary_data_size add up to 8"),
        (4, b"1234", "shape [2] of FP32 needs 8 bytes, got 4"),
        (-1, b"", "expected a number of bytes, got -1"),
        ("8", b"12345678", 'expected a number of bytes, got "8"'),
        (True, b"1", "expected a number of bytes, got true"),
        (8.5, b"12345678", "expected a number of bytes, got 8.5"),
        (None, b"", "has neither data nor parameters.binary_data_size"),
    ],
)
def test_binary_sizes_must_come_out_even(size: Any, rest: bytes, words: str) -> None:
    body, length = binary_body(rest, inputs=[binary_input(size)])
    assert words in str(refusal(body, length))


@pytest.mark.parametrize("length", [0, 10**6])
def test_a_json_length_that_does_not_fit_the_body_is_refused(length: int) -> None:
    assert "Inference-Header-Content-Length" in str(refusal(body_of(TENSOR), length))


def test_a_json_length_that_cuts_the_json_is_refused() -> None:
    assert "not valid JSON" in str(refusal(body_of(TENSOR), 20))


def test_bytes_behind_the_json_that_no_input_wants_are_refused() -> None:
    body, length = binary_body(b"1234", inputs=[TENSOR])
    assert "add up to 0" in str(refusal(body, length))


def test_data_twice_is_refused() -> None:
    body, length = binary_body(b"12345678", inputs=[{**binary_input(8), "data": [1, 2]}])
    assert "beside data" in str(refusal(body, length))


def test_binary_data_without_the_header_is_explained() -> None:
    assert "Inference-Header-Content-Length" in str(refusal(body_of(binary_input(8))))


# -- the index --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "ready"), [(b"", False), (b"{}", False), (b'{"ready":true}', True), (b'{"ready":null}', False)]
)
def test_an_index_request_says_whether_it_wants_ready_models_only(body: bytes, ready: bool) -> None:
    assert decode_index_request(body) is ready


@pytest.mark.parametrize(("body", "status"), [(b"[]", 422), (b'{"ready":"maybe"}', 422), (b"{", 400), (b"\xff", 400)])
def test_a_wrong_index_request_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_index_request(body)
    assert caught.value.http_status == status
