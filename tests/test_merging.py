"""Requests into one and a response into several: every row and every parameter back to its owner."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve.errors import CodecError, ModelError
from mlserve.merging import give_rows, members_of, merge, rows_of, split
from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput


def _request(rows, id=None, parameters=None, **more):
    array = np.asarray(rows, np.float32)
    one = RequestInput(name="x", shape=list(array.shape), datatype="FP32", data=array, parameters=parameters)
    return InferenceRequest(id=id, inputs=[one], **more)


def _echo(request):
    one = request.inputs[0]
    output = ResponseOutput(name="y", shape=one.shape, datatype=one.datatype, data=one.data, parameters=one.parameters)
    return InferenceResponse(model_name="m", outputs=[output], parameters=request.parameters)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=6), st.integers(1, 4))
def test_each_call_gets_its_own_rows_back(counts, width):
    arrays = [np.full((count, width), place, np.float32) for place, count in enumerate(counts)]
    requests = [_request(array, id=str(place)) for place, array in enumerate(arrays)]
    merged = merge(requests)
    assert merged.inputs[0].shape == [sum(counts), width]
    answers = split(_echo(merged), [rows_of(one) for one in requests])
    for array, answer in zip(arrays, answers):
        output = answer.outputs[0]
        assert output.shape == list(array.shape)
        assert output.data.to_numpy("FP32", output.shape).tolist() == array.tolist()


def test_text_and_bytes_travel_with_their_rows():
    requests = [
        InferenceRequest(inputs=[RequestInput(name="t", shape=[len(words)], datatype="BYTES", data=words)])
        for words in (["a", "é"], ["🙂"], ["", "z"])
    ]
    merged = merge(requests)
    assert merged.inputs[0].data.tolist() == ["a", "é", "🙂", "", "z"]
    answers = split(_echo(merged), [2, 1, 2])
    assert [one.outputs[0].data.tolist() for one in answers] == [["a", "é"], ["🙂"], ["", "z"]]


@pytest.mark.parametrize(
    ("datatype", "lists"),
    [
        ("FP32", ([[0.1, 2]], [[3, 4], [5, 6]])),
        ("FP32", ([0.1, 2], [3, 4])),
        ("FP64", ([[1.5, None]], [[3, 4]])),
        ("BYTES", ([["a", "b"]], [["c", "é"]])),
        ("BOOL", ([[True, False]], [[False, False]])),
    ],
)
def test_lists_stay_as_nested_and_exact_as_they_came(datatype, lists):
    counts = [len(one) if isinstance(one[0], list) else len(one) // 2 for one in lists]
    requests = [
        InferenceRequest.model_validate_json(
            json.dumps({"inputs": [{"name": "x", "shape": [count, 2], "datatype": datatype, "data": one}]})
        )
        for one, count in zip(lists, counts)
    ]
    merged = merge(requests)
    together = [row for one in lists for row in one]
    data = merged.inputs[0].data
    assert (len(data), data[0], list(data), data.model_copy(deep=True)) == (
        len(together),
        together[0],
        together,
        together,
    )
    assert json.loads(merged.model_dump_json())["inputs"][0]["data"] == together
    assert [one.outputs[0].data.root for one in split(_echo(merged), counts)] == list(lists)
    data.root[0] = 7
    assert merged.inputs[0].data.root == [7, *together[1:]], "the list that was handed out is the tensor's"


def test_nested_and_flat_lists_together_are_flat():
    requests = [
        InferenceRequest(inputs=[RequestInput(name="x", shape=[1, 2], datatype="FP32", data=one)])
        for one in ([[1, 2]], [3, 4])
    ]
    assert merge(requests).inputs[0].data.root == [1, 2, 3, 4]


def test_binary_data_read_as_a_list_in_a_batch_is_as_it_is_alone():
    rows = [np.array([[np.nan, 2.0]], np.float32), np.array([[3.0, 4.0]], np.float32)]
    requests = [
        InferenceRequest(
            inputs=[
                RequestInput(
                    name="x", shape=[1, 2], datatype="FP32", data=TensorData.from_raw(one.tobytes(), "FP32", [1, 2])
                )
            ]
        )
        for one in rows
    ]
    found = merge(requests).inputs[0].data.root
    assert np.isnan(found[0]) and np.isnan(requests[0].inputs[0].data.root[0])
    assert found[1:] == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(("values", "fits"), [([1, 2, 3, 4], True), ([[1, 2], [3, 4]], True), ([1, 2, 3], False)])
def test_a_list_in_the_response_is_cut_by_rows(values, fits):
    output = ResponseOutput(name="y", shape=[2, 2], datatype="INT64", data=values)
    response = InferenceResponse(model_name="m", outputs=[output])
    if not fits:
        with pytest.raises(CodecError, match=r"'y': shape .* does not hold the 3 values"):
            split(response, [1, 1])
        return
    first, second = split(response, [1, 1])
    half = len(values) // 2
    assert (first.outputs[0].data.root, second.outputs[0].data.root) == (values[:half], values[half:])


def test_a_model_may_say_how_many_rows_each_request_gets():
    output = ResponseOutput(name="y", shape=[3], datatype="INT64", data=[1, 2, 3])
    response = InferenceResponse(model_name="m", outputs=[output])
    give_rows(response, [1, 0, 2])
    answers = split(response, [1, 1, 1])
    assert [one.outputs[0].data.tolist() for one in answers] == [[1], [], [2, 3]]
    assert [(one.outputs[0].shape, one.parameters) for one in answers] == [([1], None), ([0], None), ([2], None)]
    response.parameters["p"] = ["a", "b", "c"]
    assert [dict(one.parameters) for one in split(response, [1, 1, 1])] == [{"p": "a"}, {"p": "b"}, {"p": "c"}]
    give_rows(response, [1, 1, 2])
    with pytest.raises(ModelError, match="'y' has 3 rows, but the batch of 3 requests had 4"):
        split(response, [1, 1, 1])


def test_parameters_merge_to_lists_and_come_back_to_their_owners():
    requests = [
        _request([[1]], parameters={"content_type": "np", "p": "one"}),
        _request([[2]], parameters={"content_type": "np"}),
        _request([[3]], parameters={"content_type": "np", "p": "three"}),
    ]
    merged = merge(requests)
    assert dict(merged.inputs[0].parameters) == {"content_type": "np", "p": ["one", None, "three"]}
    found = [dict(one.outputs[0].parameters) for one in split(_echo(merged), [1, 1, 1])]
    assert found == [{"content_type": "np", "p": "one"}, {"content_type": "np"}, {"content_type": "np", "p": "three"}]


def test_a_shorter_list_in_the_response_is_dealt_out_from_the_first_on():
    output = ResponseOutput(
        name="foo",
        datatype="INT32",
        shape=[3, 3],
        data=list(range(1, 10)),
        parameters=Parameters(content_type="np", foo=["foo_1", "foo_2"], bar=["bar_1", "bar_2", "bar_3"]),
    )
    answers = split(InferenceResponse(model_name="m", outputs=[output]), [1, 1, 1])
    assert [one.outputs[0].data.tolist() for one in answers] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert [dict(one.outputs[0].parameters) for one in answers] == [
        {"content_type": "np", "foo": "foo_1", "bar": "bar_1"},
        {"content_type": "np", "foo": "foo_2", "bar": "bar_2"},
        {"content_type": "np", "bar": "bar_3"},
    ]


def test_headers_that_differ_stand_side_by_side():
    requests = [
        _request([[1]], parameters=None),
        _request([[2]], parameters=None),
    ]
    requests[0].parameters = Parameters(headers={"host": "a", "x": "1"})
    requests[1].parameters = Parameters(headers={"host": "a", "x": "2"})
    merged = merge(requests)
    assert merged.parameters.headers == {"host": "a", "x": "1, 2"}
    answers = split(_echo(merged), [1, 1])
    assert [one.parameters.headers for one in answers] == [{"host": "a", "x": "1"}, {"host": "a", "x": "2"}]


def test_nobody_gets_a_header_that_only_others_sent():
    requests = [_request([[place]], parameters=Parameters(headers={})) for place in range(3)]
    requests[1].parameters = Parameters(headers={"authorization": "Bearer 1"})
    merged = merge(requests)
    answer = _echo(merged)
    sent = merged.parameters.headers["authorization"]
    answer.parameters = Parameters(
        headers={**merged.parameters.headers, "x-model": "m"},
        plain={"a": None, "b": [1]},
        deep=[{"d": [[sent], sent]}] * 3,
    )
    assert [dict(one.parameters) for one in split(answer, [1, 1, 1])] == [
        {"headers": {**own, "x-model": "m"}, "plain": {"a": None, "b": [1]}, "deep": {"d": [[token], token]}}
        for own in ({}, {"authorization": "Bearer 1"}, {})
        for token in [own.get("authorization")]
    ]


def test_a_wrong_number_of_rows_names_both_numbers():
    output = ResponseOutput(name="y", shape=[4], datatype="FP32", data=[1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ModelError, match="'y' has 4 rows, but the batch of 2 requests had 5"):
        split(InferenceResponse(model_name="m", outputs=[output]), [2, 3])


def test_data_that_does_not_fit_its_shape_is_no_part_of_a_batch():
    bad = InferenceRequest(inputs=[{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [1.0]}])
    with pytest.raises(CodecError):
        merge([_request([[1], [2]]), bad])


def test_text_whose_count_does_not_fit_its_shape_is_no_part_of_a_batch():
    """A lone request may be lenient there; in a batch it would move other people's rows."""
    requests = [
        InferenceRequest(inputs=[{"name": "t", "shape": shape, "datatype": "BYTES", "data": ["a"]}])
        for shape in ([1, 8], [1, 8])
    ]
    with pytest.raises(CodecError):
        merge(requests)


def test_a_merged_request_knows_its_members() -> None:
    requests = [_request([[1]]), _request([[2], [3]])]
    merged = merge(requests)
    assert members_of(merged) == requests
    assert "_members" not in merged.model_dump_json()
    assert members_of(requests[0]) == [requests[0]]
