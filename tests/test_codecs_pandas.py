"""Content type pd: frames there and back, columns of every kind, what is refused."""

# mypy: disable-error-code="arg-type, assignment, union-attr"
# The types take plain lists and dicts where they declare TensorData and Parameters, and tests make use of that.

from __future__ import annotations

import datetime
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve import codecs
from mlserve.codecs.errors import CodecError
from mlserve.types import InferenceRequest, RequestInput
from tests.forms import TEXT, forms, made, quick, sent_request, sent_response


def through(frame: pd.DataFrame, form: str) -> pd.DataFrame:
    """The frame as a server gets it, and once more as a client gets it back; both have to agree."""
    decoded = codecs.PandasCodec.decode_request(sent_request(codecs.PandasCodec.encode_request(frame), form))
    response = codecs.PandasCodec.encode_response("m", frame)
    again = codecs.PandasCodec.decode_response(sent_response(response, form))
    pd.testing.assert_frame_equal(decoded, again)
    return decoded


def values_of(column: Any) -> list[Any]:
    """A column's plain values, every kind of missing as None."""
    return [None if np.ndim(one) == 0 and pd.isna(one) else one for one in column.tolist()]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
integers = st.integers(-(2**31), 2**31 - 1)
floats = st.floats(allow_infinity=False, width=32)
columns = {
    "bool": st.booleans(),
    "int8": st.integers(-128, 127),
    "uint64": st.integers(0, 2**64 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float32": floats,
    "float64": st.floats(allow_infinity=False),
}


@forms
@pytest.mark.parametrize("dtype", list(columns))
@quick
@given(data=st.data())
def test_columns_of_numbers_come_back_equal(form: str, dtype: str, data: Any) -> None:
    frame = pd.DataFrame({"c": pd.Series(data.draw(st.lists(columns[dtype], max_size=5)), dtype=dtype)})
    pd.testing.assert_frame_equal(through(frame, form), frame)


@forms
@pytest.mark.parametrize("dtype", ["Int64", "UInt8", "boolean", "Float64", "Int32"])
@quick
@given(data=st.data())
def test_nullable_columns_come_back_as_plain_ones_and_as_floats_where_a_value_is_missing(
    form: str, dtype: str, data: Any
) -> None:
    kind = {
        "boolean": st.booleans(),
        "Float64": floats.filter(lambda one: not np.isnan(one)),
        "UInt8": st.integers(0, 255),
    }
    values = data.draw(st.lists(st.none() | kind.get(dtype, integers), max_size=5))
    frame = pd.DataFrame({"c": pd.Series(values, dtype=dtype)})
    column = through(frame, form)["c"]
    assert values_of(column) == values_of(frame["c"])
    plain = np.dtype("float64") if None in values else frame["c"].dtype.numpy_dtype
    assert column.dtype == plain


@forms
@pytest.mark.parametrize("kind", ["text", "bytes", "dates", "zoned", "json"])
@quick
@given(data=st.data())
def test_columns_of_objects_come_back_equal(form: str, kind: str, data: Any) -> None:
    moments = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))
    if kind == "zoned":
        zone = datetime.timezone(datetime.timedelta(hours=data.draw(st.integers(-11, 11))))
        moments = moments.map(lambda moment: moment.replace(tzinfo=zone))
    blobs = st.binary(max_size=8).map(lambda blob: blob + b"\xff")
    elements = {"text": TEXT, "bytes": blobs, "json": st.lists(json_values, max_size=3)}.get(kind, moments)
    values = data.draw(st.lists(elements, min_size=1, max_size=5))
    frame = pd.DataFrame({"c": pd.Series(values)})
    assert through(frame, form)["c"].tolist() == frame["c"].tolist()


@quick
@given(values=st.lists(st.none() | TEXT, min_size=1, max_size=5))
def test_missing_text_is_null_in_json(values: list[Any]) -> None:
    for dtype in ("object", "string"):
        frame = pd.DataFrame({"c": pd.Series(values, dtype=dtype)})
        assert values_of(through(frame, "json")["c"]) == values


@forms
@quick
@given(values=st.lists(st.sampled_from(["a", "b", "é"]), max_size=5), numbers=st.lists(integers, max_size=5))
def test_categorical_columns_come_back_as_their_values(form: str, values: list[str], numbers: list[int]) -> None:
    frame = pd.DataFrame({"c": pd.Series(values, dtype="category")})
    assert through(frame, form)["c"].tolist() == values
    frame = pd.DataFrame({"c": pd.Categorical(numbers)})
    assert through(frame, form)["c"].tolist() == numbers


@forms
def test_a_frame_of_many_kinds_comes_back_with_its_names_in_order(form: str) -> None:
    frame = pd.DataFrame(
        {
            "n": [1, 2],
            "f": [0.5, np.nan],
            "s": ["x", "é"],
            "b": [True, False],
            "d": [datetime.datetime(2024, 2, 29), pd.NaT if form == "json" else datetime.datetime(2024, 3, 1)],
            "l": [[1, [2]], {"a": None}],
            7: [1.5, 2.5],
        }
    )
    decoded = through(frame, form)
    assert list(decoded.columns) == ["n", "f", "s", "b", "d", "l", "7"]
    assert decoded["d"].dtype.kind == "M"
    assert decoded["l"].tolist() == [[1, [2]], {"a": None}]
    assert codecs.PandasCodec.decode_request(codecs.PandasCodec.encode_request(frame))["n"].tolist() == [1, 2]


def test_only_columns_that_need_it_say_their_content_type() -> None:
    frame = pd.DataFrame(
        {
            "n": [1],
            "s": ["x"],
            "d": [datetime.datetime(2024, 2, 29)],
            "l": [[1]],
            "u": [b"utf-8"],
            "z": [b"\xff"],
            "e": pd.Series([None], dtype=object),
        }
    )
    response = codecs.PandasCodec.encode_response("m", frame, "v1")
    said = {one.name: one.parameters and one.parameters.content_type for one in response.outputs}
    assert said == {"n": None, "s": "str", "d": "datetime", "l": "pd_json", "u": "str", "z": "base64", "e": "str"}
    assert all(one.shape == [1, 1] for one in response.outputs)
    assert response.parameters == {"content_type": "pd"}
    assert (response.model_name, response.model_version) == ("m", "v1")
    assert codecs.PandasCodec.JsonContentType == "pd_json"


@pytest.mark.parametrize("use_bytes", [True, False])
def test_a_column_of_utf8_bytes_is_text_to_who_reads_it(use_bytes: bool) -> None:
    frame = pd.DataFrame({"u": [b"x", None, "é".encode()]})
    (tensor,) = codecs.PandasCodec.encode_inputs(frame, use_bytes=use_bytes)
    assert tensor.data == ([b"x", None, "é".encode()] if use_bytes else ["x", None, "é"])
    assert values_of(through(frame, "json")["u"]) == ["x", None, "é"]


@pytest.mark.parametrize(
    ("texts", "values", "kind"),
    [
        (["1", "2"], [1, 2], "i"),
        (["1.5", "2"], [1.5, 2.0], "f"),
        (["true", "false"], [True, False], "b"),
        (["true", "1"], [True, 1], "O"),
        (["1", "null"], [1, None], "O"),
        ([str(2**53 + 1), "0.5"], [2**53 + 1, 0.5], "O"),
        ([str(2**70), "1"], [2**70, 1], "O"),
        (["[1]", "{}"], [[1], {}], "O"),
    ],
)
def test_json_columns_of_numbers_are_numbers_where_that_changes_none(texts: Any, values: Any, kind: str) -> None:
    column = codecs.PandasCodec.decode_request(InferenceRequest(inputs=[made(texts, "BYTES", content_type="pd_json")]))
    assert column["x"].tolist() == values
    assert column["x"].dtype.kind == kind


def test_json_is_a_content_type_of_columns_alone() -> None:
    tensor = made(['{"a": 1}'], "BYTES", content_type="pd_json")
    assert codecs.decode_request_input(tensor) is None
    assert codecs.StringCodec.decode_input(tensor) == ['{"a": 1}']


def test_a_numeric_column_is_encoded_without_becoming_a_list() -> None:
    (output,) = codecs.PandasCodec.encode_outputs(pd.DataFrame({"f": [0.5, 1.5]}))
    assert isinstance(output.data.payload, np.ndarray)


def test_object_columns_of_numbers_are_numbers_and_mixed_ones_are_json() -> None:
    frame = pd.DataFrame(
        {
            "n": pd.Series([1, 2], dtype=object),
            "m": pd.Series([1, None], dtype=object),
            "b": pd.Series([True, 2], dtype=object),
            "x": pd.Series([1, "a"], dtype=object),
            "a": pd.Series([np.arange(2), np.arange(2)]),
        }
    )
    outputs = codecs.PandasCodec.encode_outputs(frame, use_bytes=False)
    assert [one.datatype for one in outputs] == ["INT64", "FP64", "BYTES", "BYTES", "BYTES"]
    assert [one.data.tolist() for one in outputs[2:]] == [["true", "2"], ["1", '"a"'], ["[0,1]", "[0,1]"]]


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1 + 2j]),
        pd.Series([datetime.timedelta(1)]),
        pd.Series(pd.period_range("2024", periods=1, freq="M")),
        pd.Series([2**60 + 1, None], dtype="Int64"),
        pd.Series([object()]),
    ],
)
def test_a_column_that_the_protocol_cannot_carry_is_named(column: Any) -> None:
    with pytest.raises(CodecError, match="column 'odd'") as caught:
        codecs.PandasCodec.encode_outputs(pd.DataFrame({"odd": column}))
    assert caught.value.http_status == 500


def test_a_column_with_a_lone_surrogate_is_named() -> None:
    with pytest.raises(CodecError, match=r"'s': content type 'str': text that has no UTF-8 form at 1") as caught:
        codecs.PandasCodec.encode_response("m", pd.DataFrame({"s": pd.Series(["a", "\ud800"], dtype=object)}))
    assert caught.value.http_status == 500


def test_what_is_no_frame_is_not_encoded_as_one() -> None:
    with pytest.raises(CodecError, match="takes a pandas DataFrame, got list"):
        codecs.PandasCodec.encode_response("m", [1, 2])


def test_columns_decode_by_their_own_types_and_numbers_by_their_datatype() -> None:
    request = InferenceRequest(
        inputs=[
            made([0.5, None], "FP16"),
            RequestInput(name="s", shape=[2, 1], datatype="BYTES", data=["a", None]),
            RequestInput(name="b", shape=[2], datatype="BYTES", data=[b"a", b"b"]),
            RequestInput(name="n", shape=[2, 1], datatype="INT8", data=[[1], [2]], parameters={"content_type": "np"}),
            RequestInput(name="m", shape=[2, 2], datatype="INT8", data=[1, 2, 3, 4], parameters={"content_type": "np"}),
        ]
    )
    frame = codecs.PandasCodec.decode_request(request)
    assert frame["x"].dtype == np.float16
    assert values_of(frame["s"]) == ["a", None]
    assert frame["b"].tolist() == [b"a", b"b"]  # no content type, no decoding
    assert frame["n"].dtype == np.int8
    assert [one.tolist() for one in frame["m"]] == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([made([1, 2], "FP32", [3])], "shape"),
        ([made([1, 2]), RequestInput(name="y", shape=[1], datatype="FP32", data=[1])], "'x' 2, 'y' 1"),
        ([made([1, 2]), made([1, 2])], "a second column"),
        ([made([1, None], "INT32")], "input 'x'"),
        ([made(["{"], "BYTES", content_type="pd_json")], "is no JSON"),
        ([made([5], "BYTES")], "input 'x'"),
    ],
)
def test_a_request_that_is_no_frame_is_the_clients_fault(inputs: Any, words: str) -> None:
    with pytest.raises(CodecError, match=words) as caught:
        codecs.PandasCodec.decode_request(InferenceRequest(inputs=inputs))
    assert caught.value.http_status == 400


def test_empty_requests_and_empty_columns_are_frames() -> None:
    assert codecs.PandasCodec.decode_request(InferenceRequest(inputs=[])).shape == (0, 0)
    assert codecs.PandasCodec.decode_request(InferenceRequest(inputs=[made([], "FP32", [0])])).shape == (0, 1)
    assert codecs.PandasCodec.encode_outputs(pd.DataFrame({"f": np.zeros(0)}))[0].shape == [0, 1]


def test_importing_the_codecs_does_not_import_pandas() -> None:
    import subprocess

    code = "import sys, mlserve.codecs, mlserve.model; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_json_column_that_is_nested_too_deeply_is_refused_with_its_place() -> None:
    column = RequestInput(
        name="a", shape=[2], datatype="BYTES", data=["1", "[" * 100_000], parameters={"content_type": "pd_json"}
    )
    with pytest.raises(codecs.CodecError, match=r"data\[1\]"):
        codecs.PandasCodec.decode_request(InferenceRequest(inputs=[column], parameters={"content_type": "pd"}))


def test_bytes_beside_text_are_text() -> None:
    (column,) = codecs.PandasCodec.encode_outputs(pd.DataFrame({"a": [b"x", "y", None]}))
    assert column.parameters is not None
    assert (column.parameters.content_type, column.data.root) == ("str", [b"x", b"y", None])
