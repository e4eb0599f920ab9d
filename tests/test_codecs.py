"""The codecs: what each content type decodes and encodes, and that nothing is lost on the way over any form."""

# mypy: disable-error-code="arg-type, assignment, union-attr"
# The types take plain lists and dicts where they declare TensorData and Parameters, and tests make use of that.

from __future__ import annotations

import datetime
import gc
import json
import sys
import weakref
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mlserve import codecs
from mlserve.codecs import registry, utils
from mlserve.codecs.errors import CodecError
from mlserve.datatypes import DTYPES
from mlserve.errors import MLServeError
from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, InferenceResponse, MetadataTensor, Parameters, RequestInput, ResponseOutput
from tests.forms import FORMS, can_carry, sent, sent_request, sent_response

NUMERIC = [name for name in DTYPES if name != "BYTES"]
FLOATS = {"FP16", "FP32", "FP64"}
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
UTC = datetime.timezone(datetime.timedelta(0))
forms = pytest.mark.parametrize("form", FORMS)
quick = settings(max_examples=25, deadline=None)


def made(data: Any, datatype: str = "FP32", shape: list[int] | None = None, content_type: str | None = None) -> Any:
    """An input `x` as a REST client sends it."""
    body = {"name": "x", "shape": shape or [len(data)], "datatype": datatype, "data": data}
    if content_type:
        body["parameters"] = {"content_type": content_type}
    return RequestInput.model_validate_json(json.dumps(body))


def same(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    """Equal in dtype (but for byte order), shape and values; NaN equals NaN, and -0.0 differs from 0.0 nowhere."""
    if left.shape != right.shape or left.dtype.newbyteorder("=") != right.dtype.newbyteorder("="):
        return False
    return bool(np.array_equal(left, right, equal_nan=left.dtype.kind == "f"))


# -- numpy ------------------------------------------------------------------------------------------------------------

dtypes = st.sampled_from([DTYPES[name] for name in NUMERIC]).flatmap(
    lambda dtype: st.sampled_from([dtype, dtype.newbyteorder(">")])
)
arrays = dtypes.flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
)
layouts = st.sampled_from(
    [
        lambda array: array,
        np.asfortranarray,
        lambda array: array[::2],
        lambda array: array[..., ::-1],
        lambda array: array.T,
    ]
)


@forms
@quick
@given(array=arrays, layout=layouts)
def test_arrays_of_every_datatype_layout_and_byte_order_come_back_equal(form: str, array: Any, layout: Any) -> None:
    array = layout(array)
    output = codecs.NumpyCodec.encode_output("x", array)
    if not can_carry(form, output.datatype):
        return
    if form == "json" and array.dtype.kind == "f":
        array = np.where(np.isinf(array), np.array(np.nan, array.dtype), array)  # JSON has one word for both
    decoded = codecs.NumpyCodec.decode_output(sent(output, form))
    assert same(decoded, array.reshape(output.shape))


@forms
@quick
@given(array=arrays)
def test_a_numpy_request_comes_back_equal(form: str, array: Any) -> None:
    request = codecs.NumpyRequestCodec.encode_request(array)
    if can_carry(form, request.inputs[0].datatype):
        decoded = codecs.NumpyRequestCodec.decode_request(sent_request(request, form))
        finite = array if form != "json" or array.dtype.kind != "f" else np.where(np.isinf(array), np.nan, array)
        assert same(decoded, finite.astype(array.dtype).reshape(request.inputs[0].shape))


@forms
@quick
@given(texts=st.lists(TEXT, max_size=6))
def test_arrays_of_text_come_back_as_text_from_json_and_as_utf8_otherwise(form: str, texts: list[str]) -> None:
    output = codecs.NumpyCodec.encode_output("x", np.array(texts, dtype=object))
    decoded = codecs.NumpyCodec.decode_output(sent(output, form))
    assert decoded.shape == (len(texts), 1)
    wanted = texts if form == "json" else [text.encode() for text in texts]
    assert decoded.ravel().tolist() == wanted


def test_a_decoded_text_array_has_the_width_of_its_longest_element() -> None:
    decoded = codecs.NumpyCodec.decode_input(made(["a", "bcd", "日本"], "BYTES"))
    assert decoded.dtype == np.dtype("<U3")


def test_a_text_array_stays_objects_where_fixed_width_would_lose_or_waste() -> None:
    assert codecs.NumpyCodec.decode_input(made(["a\0", "b"], "BYTES")).tolist() == ["a\0", "b"]
    long = ["x" * 10_000] + [""] * 5_000
    assert codecs.NumpyCodec.decode_input(made(long, "BYTES")).dtype == object
    assert codecs.NumpyCodec.decode_input(made(["a", None], "BYTES")).tolist() == ["a", None]


def test_an_encoded_array_is_neither_copied_nor_made_a_list() -> None:
    array = np.arange(6.0).reshape(2, 3)
    for tensor in (codecs.NumpyCodec.encode_output("x", array), codecs.NumpyCodec.encode_input("x", array)):
        assert tensor.data.payload is array


def test_a_raw_tensor_is_decoded_without_a_copy() -> None:
    memory = bytearray(np.arange(3.0).tobytes())
    tensor = RequestInput(name="x", shape=[3], datatype="FP64", data=TensorData.from_raw(memory, "FP64", [3]))
    decoded = codecs.NumpyCodec.decode_input(tensor)
    memory[:8] = np.array([9.0]).tobytes()
    assert decoded.tolist() == [9.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (np.array(7.5), [1]),
        (np.float32(7.5), [1]),
        (np.array([1, 2]), [2, 1]),
        (np.array([]), [0, 1]),
        (np.zeros((0, 3)), [0, 3]),
        (np.zeros((2, 2, 2)), [2, 2, 2]),
    ],
)
def test_a_vector_is_encoded_as_a_column_and_a_scalar_as_one_value(array: Any, shape: list[int]) -> None:
    assert codecs.NumpyCodec.encode_output("x", array).shape == shape


def test_null_is_nan_in_floats_both_ways() -> None:
    assert np.isnan(codecs.NumpyCodec.decode_input(made([1, None])).tolist()[1])
    output = codecs.NumpyCodec.encode_output("x", np.array([1.0, np.nan, np.inf, -np.inf]))
    assert bytes(output.data.to_json("FP64")) == b"[1.0,null,null,null]"


@pytest.mark.parametrize(
    ("data", "datatype", "shape"),
    [
        ([1, None], "INT64", [2]),
        ([True, None], "BOOL", [2]),
        ([300], "UINT8", [1]),
        ([1.5], "INT32", [1]),
        ([2**63], "INT64", [1]),
        ([1], "FP32", [7]),
        ([1, 2, 3], "FP32", [-3]),
        ([1], "FP32", [10**9, 10**9]),
        ([[1, 2], [3]], "FP32", [3]),
        ([1, 234], "BYTES", [2]),
        ([{"a": 1}], "FP32", [1]),
    ],
)
def test_data_that_is_not_what_it_says_is_the_clients_fault(data: Any, datatype: str, shape: list[int]) -> None:
    with pytest.raises(CodecError, match="input 'x'") as caught:
        codecs.NumpyCodec.decode_input(made(data, datatype, shape))
    assert caught.value.http_status == 400


@pytest.mark.parametrize(
    "value",
    [
        np.array(["2024-02-29"], dtype="datetime64[D]"),
        np.array([1 + 2j]),
        np.array([1], dtype="timedelta64[s]"),
        np.array([1.0], dtype=np.longdouble),
        np.array([object()]),
        np.array([{"a": 1}, "b"], dtype=object),
        ["a", "b"],
        None,
    ],
)
def test_a_value_without_a_datatype_is_the_models_fault(value: Any) -> None:
    if isinstance(value, np.ndarray) and value.dtype == np.longdouble and value.dtype.itemsize == 8:
        pytest.skip("long doubles are doubles here")
    with pytest.raises(CodecError, match="'y'") as caught:
        codecs.NumpyCodec.encode_output("y", value)
    assert caught.value.http_status == 500


def test_object_arrays_of_numbers_are_encoded_as_numbers() -> None:
    integers = codecs.NumpyCodec.encode_output("x", np.array([1, 2], dtype=object))
    assert integers.datatype == "INT64"
    floats = codecs.NumpyCodec.encode_output("x", np.array([[1, None], [2.5, 3]], dtype=object))
    assert (floats.datatype, floats.shape) == ("FP64", [2, 2])
    assert bytes(floats.data.to_json("FP64")) == b"[1.0,null,2.5,3.0]"


def test_arrays_of_other_libraries_are_taken_by_their_array_interface() -> None:
    output = codecs.NumpyCodec.encode_output("x", pd.Series([1.5, 2.5]))
    assert (output.datatype, output.shape) == ("FP64", [2, 1])


def test_the_datatype_helpers_agree_with_each_other() -> None:
    for name in NUMERIC:
        assert codecs.to_datatype(codecs.to_dtype(made([0], name))) == name
    assert codecs.to_datatype("U5") == codecs.to_datatype(object) == "BYTES"
    with pytest.raises(CodecError):
        codecs.to_datatype("complex128")


# -- lists of text, bytes, dates --------------------------------------------------------------------------------------

zones = st.one_of(
    st.none(),
    st.integers(-23 * 60, 23 * 60).map(lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes))),
)
dates = st.datetimes(timezones=st.none()).flatmap(lambda date: zones.map(lambda zone: date.replace(tzinfo=zone)))


@forms
@pytest.mark.parametrize("use_bytes", [True, False])
@quick
@given(texts=st.lists(TEXT, max_size=6))
def test_text_comes_back_equal(form: str, use_bytes: bool, texts: list[str]) -> None:
    output = codecs.StringCodec.encode_output("x", texts, use_bytes=use_bytes)
    assert codecs.StringCodec.decode_output(sent(output, form)) == texts
    request = codecs.StringRequestCodec.encode_request(texts, use_bytes=use_bytes)
    assert codecs.StringRequestCodec.decode_request(sent_request(request, form)) == texts


@forms
@pytest.mark.parametrize("use_bytes", [True, False])
@quick
@given(blobs=st.lists(st.binary(max_size=12), max_size=6))
def test_bytes_come_back_equal(form: str, use_bytes: bool, blobs: list[bytes]) -> None:
    tensor = codecs.Base64Codec.encode_input("x", blobs, use_bytes=use_bytes)
    assert codecs.Base64Codec.decode_input(sent(tensor, form)) == blobs


@forms
@pytest.mark.parametrize("use_bytes", [True, False])
@quick
@given(moments=st.lists(dates, max_size=6))
def test_dates_come_back_equal_with_their_zones(form: str, use_bytes: bool, moments: list[Any]) -> None:
    tensor = codecs.DatetimeCodec.encode_input("x", moments, use_bytes=use_bytes)
    decoded = codecs.DatetimeCodec.decode_input(sent(tensor, form))
    assert decoded == moments
    assert [one.utcoffset() for one in decoded] == [one.utcoffset() for one in moments]


@pytest.mark.parametrize(
    ("codec", "values"),
    [
        (codecs.StringCodec, ["a", None, ""]),
        (codecs.Base64Codec, [b"a", None, b""]),
        (codecs.DatetimeCodec, [datetime.datetime(2024, 2, 29), None]),
    ],
)
def test_none_is_null_in_lists_and_has_no_binary_form(codec: Any, values: list[Any]) -> None:
    output = codec.encode_output("x", values)
    assert codec.decode_output(sent(output, "json")) == values
    for form in ("raw", "contents"):
        with pytest.raises(CodecError, match="null has no binary form"):
            sent(output, form)


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (codecs.StringCodec, "plain"),
        (codecs.Base64Codec, b"Python is fun"),
        (codecs.DatetimeCodec, datetime.datetime(2022, 1, 11, 11)),
    ],
)
def test_a_bare_value_is_a_list_of_one(codec: Any, value: Any) -> None:
    tensor = codec.encode_input("foo", value, use_bytes=False)
    assert tensor.shape == [1, 1]
    assert codec.decode_input(sent(tensor, "json")) == [value]


def test_use_bytes_decides_what_the_tensor_holds() -> None:
    assert codecs.StringCodec.encode_input("x", ["é"]).data == ["é".encode()]
    assert codecs.StringCodec.encode_input("x", ["é"], use_bytes=False).data == ["é"]
    assert codecs.Base64Codec.encode_input("x", [b"hello"], use_bytes=False).data == ["aGVsbG8="]
    assert codecs.DatetimeCodec.encode_input("x", [datetime.datetime(2022, 1, 11)]).data == [b"2022-01-11T00:00:00"]


def test_a_text_tensor_may_have_any_shape_and_a_bare_scalar_is_one_element() -> None:
    assert codecs.StringCodec.decode_input(made("hello", "BYTES", [11])) == ["hello"]
    assert codecs.StringCodec.decode_input(made(["a", "b"], "BYTES", [2, 11])) == ["a", "b"]
    assert codecs.StringCodec.decode_input(made([["a", "b"], ["c", "d"]], "BYTES", [2, 2])) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("codec", [codecs.StringCodec, codecs.Base64Codec, codecs.DatetimeCodec])
def test_lists_need_the_datatype_bytes(codec: Any) -> None:
    with pytest.raises(CodecError, match=r"input 'x': content type .* needs datatype BYTES, got FP32") as caught:
        codec.decode_input(made([1.5]))
    assert caught.value.http_status == 400
    with pytest.raises(CodecError, match="input 'x'"):
        codec.decode_input(made([5], "BYTES"))


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (codecs.StringCodec, [datetime.datetime(2024, 1, 1)]),
        (codecs.StringCodec, [b"a"]),
        (codecs.StringCodec, [1]),
        (codecs.StringCodec, ["\ud800"]),
        (codecs.Base64Codec, ["é"]),
        (codecs.Base64Codec, [1]),
        (codecs.DatetimeCodec, [5]),
        (codecs.StringCodec, {"a": 1}),
        (codecs.StringCodec, pd.DataFrame({"a": ["b"]})),
    ],
)
def test_values_of_another_kind_are_the_models_fault(codec: Any, value: Any) -> None:
    with pytest.raises(CodecError, match="'y'") as caught:
        codec.encode_output("y", value)
    assert caught.value.http_status == 500


@pytest.mark.parametrize("codec", [codecs.StringCodec, codecs.Base64Codec, codecs.DatetimeCodec])
def test_none_is_no_list(codec: Any) -> None:
    with pytest.raises(CodecError, match="no values to encode, but None"):
        codec.encode_output("y", None)


def test_text_that_is_not_utf8_is_refused() -> None:
    tensor = RequestInput(name="x", shape=[1], datatype="BYTES", data=[b"\xff\xfe"])
    with pytest.raises(CodecError, match=r"data\[0\].*not UTF-8"):
        codecs.StringCodec.decode_input(tensor)


def test_base64_takes_what_is_no_base64_as_the_bytes_themselves() -> None:
    assert codecs.Base64Codec.decode_input(made(["not base64!"], "BYTES")) == [b"not base64!"]
    raw = RequestInput(name="x", shape=[1], datatype="BYTES", data=[b"\x00\xff"])
    assert codecs.Base64Codec.decode_input(raw) == [b"\x00\xff"]
    with pytest.raises(CodecError, match="base64, which is ASCII"):
        codecs.Base64Codec.decode_input(made(["é"], "BYTES"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2024-02-29", datetime.datetime(2024, 2, 29)),
        ("2024-02-29T12:30:15Z", datetime.datetime(2024, 2, 29, 12, 30, 15, tzinfo=UTC)),
        ("20240229T123015", datetime.datetime(2024, 2, 29, 12, 30, 15)),
        ("2024-02-29 12:30", datetime.datetime(2024, 2, 29, 12, 30)),
        ("2024-02-29T12:30:15.25", datetime.datetime(2024, 2, 29, 12, 30, 15, 250000)),
        ("2024-02-29T12:30:15.123456789", datetime.datetime(2024, 2, 29, 12, 30, 15, 123456)),
    ],
)
def test_dates_are_read_in_the_usual_forms_of_iso_8601(text: str, wanted: datetime.datetime) -> None:
    assert codecs.DatetimeCodec.decode_input(made([text], "BYTES")) == [wanted]


def test_a_zone_without_a_colon_is_read() -> None:
    (decoded,) = codecs.DatetimeCodec.decode_input(made(["20240229T123015-0530"], "BYTES"))
    assert decoded.utcoffset() == -datetime.timedelta(hours=5, minutes=30)


@pytest.mark.parametrize("text", ["2023-02-29", "yesterday", "", "2024-02-29T25:00", "2024-02-29T12:00:61"])
def test_a_date_that_is_not_in_the_calendar_is_refused(text: str) -> None:
    with pytest.raises(CodecError, match=r"input 'x': data\[0\].* is no date and time"):
        codecs.DatetimeCodec.decode_input(made([text], "BYTES"))


def test_dates_of_numpy_and_pandas_and_iso_text_are_encoded_too() -> None:
    array = np.array(["2024-02-29", "NaT"], dtype="datetime64[D]")
    values = [*array, datetime.date(2024, 1, 1), "2024-02-01", pd.Timestamp("2024-03-01"), pd.NaT]
    wanted = ["2024-02-29T00:00:00", None, "2024-01-01", "2024-02-01", "2024-03-01T00:00:00", None]
    assert codecs.DatetimeCodec.encode_output("x", values, use_bytes=False).data == wanted
    assert codecs.DatetimeCodec.encode_output("x", array, use_bytes=False).data == wanted[:2]


# -- frames -----------------------------------------------------------------------------------------------------------


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
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT,
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
    assert said == {"n": None, "s": "str", "d": "datetime", "l": "pd_json", "u": None, "z": "base64", "e": "str"}
    assert all(one.shape == [1, 1] for one in response.outputs)
    assert response.parameters == {"content_type": "pd"}
    assert (response.model_name, response.model_version) == ("m", "v1")
    assert codecs.PandasCodec.JsonContentType == "pd_json"


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
        pd.Series([2**60, None], dtype="Int64"),
        pd.Series([object()]),
    ],
)
def test_a_column_that_the_protocol_cannot_carry_is_named(column: Any) -> None:
    with pytest.raises(CodecError, match="column 'odd'") as caught:
        codecs.PandasCodec.encode_outputs(pd.DataFrame({"odd": column}))
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


# -- single-tensor request codecs -------------------------------------------------------------------------------------


def test_single_tensor_codecs_name_their_only_tensor() -> None:
    request = codecs.NumpyRequestCodec.encode_request(np.array([1]))
    assert (request.inputs[0].name, request.parameters) == ("input-1", {"content_type": "np"})
    response = codecs.StringRequestCodec.encode_response("m", ["a"], "v1", use_bytes=False)
    assert (response.outputs[0].name, response.model_version) == ("output-1", "v1")
    assert codecs.StringRequestCodec.decode_response(response) == ["a"]


@pytest.mark.parametrize("count", [0, 2])
def test_single_tensor_codecs_refuse_other_numbers_of_tensors(count: int) -> None:
    with pytest.raises(CodecError, match=f"single input, got {count} inputs"):
        codecs.NumpyRequestCodec.decode_request(InferenceRequest(inputs=[made([1])] * count))
    with pytest.raises(CodecError, match=f"single output, got {count} outputs"):
        outputs = [ResponseOutput(name="y", shape=[1], datatype="FP32", data=[1])] * count
        codecs.NumpyRequestCodec.decode_response(InferenceResponse(model_name="m", outputs=outputs))


def test_an_inputs_own_content_type_goes_before_the_requests() -> None:
    request = InferenceRequest(parameters={"content_type": "np"}, inputs=[made(["a"], "BYTES", content_type="str")])
    assert codecs.NumpyRequestCodec.decode_request(request) == ["a"]


# -- finding codecs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def registered() -> Any:
    """Puts the registry back as it was."""
    before = dict(registry._input_codecs), dict(registry._request_codecs)
    yield
    registry._input_codecs.clear()
    registry._input_codecs.update(before[0])
    registry._request_codecs.clear()
    registry._request_codecs.update(before[1])


@pytest.mark.parametrize(
    ("value", "content_type"),
    [
        (np.zeros(1), "np"),
        (["a"], "str"),
        ([], "str"),
        ([b"a"], "base64"),
        ([datetime.datetime(2024, 1, 1)], "datetime"),
        ([1, 2], None),
        (["a", b"b"], None),
        ([None], None),
        (5, None),
        (None, None),
        ("plain", None),
        ({"x": np.zeros(1)}, None),
        (pd.DataFrame(), None),
    ],
)
def test_input_codecs_are_found_by_value(value: Any, content_type: str | None) -> None:
    found = codecs.find_input_codec(payload=value)
    assert (found.ContentType if found else None) == content_type


def test_our_codecs_answer_about_any_value_without_failing() -> None:
    for codec in [*registry._input_codecs.values(), *registry._request_codecs.values()]:
        for value in (np.zeros(2), pd.DataFrame({"a": [1, 2]}), pd.Series([1, 2]), None, object(), {}, [object()]):
            assert codec.can_encode(value) in (True, False)


@pytest.mark.parametrize(
    ("value", "content_type"),
    [(np.zeros(1), "np"), (["a"], "str"), (pd.DataFrame(), "pd"), ([b"a"], None), ({}, None), ("plain", None)],
)
def test_request_codecs_are_found_by_value(value: Any, content_type: str | None) -> None:
    found = codecs.find_request_codec(payload=value)
    assert (found.ContentType if found else None) == content_type


class Reversed(codecs.InputCodec):
    """Text written backwards: a codec with the two methods that every codec needs."""

    ContentType: ClassVar[str] = "reversed"

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        return [text[::-1] for text in codecs.StringCodec.decode_input(request_input)]

    @classmethod
    def encode_output(cls, name: str, payload: Any, **kwargs: Any) -> ResponseOutput:
        return codecs.StringCodec.encode_output(name, [text[::-1] for text in payload], **kwargs)


def test_a_codec_of_ones_own_needs_two_methods_and_a_content_type(registered: None) -> None:
    assert codecs.register_input_codec(Reversed) is Reversed
    assert codecs.find_input_codec("reversed") is Reversed
    tensor = Reversed.encode_input("x", ["ab"], use_bytes=False)
    assert isinstance(tensor, RequestInput)
    assert tensor.data == ["ba"]
    assert Reversed.decode_output(Reversed.encode_output("x", ["ab"])) == ["ab"]
    with pytest.raises(ValueError, match="ContentType"):
        codecs.register_input_codec(type("Nameless", (codecs.InputCodec,), {}))


def test_an_object_with_a_codecs_methods_is_a_codec_too(registered: None) -> None:
    codec = codecs.register_input_codec(Reversed())
    assert codecs.decode_request_input(made(["ab"], "BYTES", content_type="reversed")) == ["ba"]
    assert codecs.find_input_codec("reversed") is codec


def test_a_request_codec_of_ones_own_needs_two_methods(registered: None) -> None:
    @codecs.register_request_codec
    class Names(codecs.RequestCodec):
        ContentType: ClassVar[str] = "names"

        @classmethod
        def decode_request(cls, request: InferenceRequest) -> Any:
            return [one.name for one in request.inputs]

        @classmethod
        def encode_response(
            cls, model_name: str, payload: Any, model_version: str | None = None, **kwargs: Any
        ) -> InferenceResponse:
            outputs = [ResponseOutput(name=name, shape=[0], datatype="BOOL", data=[]) for name in payload]
            return InferenceResponse(model_name=model_name, outputs=outputs)

    request = Names.encode_request(["a", "b"])
    request.parameters = {"content_type": "names"}
    assert codecs.decode_inference_request(request) == ["a", "b"]
    assert Names.decode_response(Names.encode_response("m", ["c"])) == ["c"]


def test_a_strangers_codec_that_fails_on_a_value_is_passed_over(registered: None) -> None:
    @codecs.register_input_codec
    class Broken(codecs.InputCodec):
        ContentType: ClassVar[str] = "broken"

        @classmethod
        def can_encode(cls, payload: Any) -> bool:
            return isinstance(payload, codecs)  # a module is no type: TypeError

    assert codecs.find_input_codec(payload=5) is None


def test_a_subclass_may_have_private_methods_named_like_ours(registered: None) -> None:
    """The document's example: a codec for images that extends NumpyCodec, with a `_decode` of its own."""

    @codecs.register_input_codec
    class Image(codecs.NumpyCodec):
        ContentType: ClassVar[str] = "img"

        @classmethod
        def _decode(cls, input_or_output: utils.InputOrOutput) -> Any:
            return ("image", super().decode_input(input_or_output).sum())

        @classmethod
        def decode_input(cls, request_input: RequestInput) -> Any:
            return cls._decode(request_input)

    assert codecs.decode_request_input(made([1, 2], "INT32", content_type="img")) == ("image", 3)
    assert Image.encode_output("y", np.zeros(1)).parameters.content_type == "img"
    assert codecs.find_input_codec(type_hint=np.ndarray) is codecs.NumpyCodec


def test_old_names_answer_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="NumpyCodec.decode is the old name of decode_input"):
        assert codecs.NumpyCodec.decode(made([1, 2])).tolist() == [1.0, 2.0]
    with pytest.warns(DeprecationWarning, match="encode_output"):
        assert codecs.StringCodec.encode("y", ["a"]).data == [b"a"]
    request = codecs.NumpyRequestCodec.encode_request(np.array([1]))
    with pytest.warns(DeprecationWarning, match="decode_request"):
        assert codecs.NumpyRequestCodec.decode(request).tolist() == [[1]]
    with pytest.warns(DeprecationWarning, match="encode_response"):
        assert codecs.NumpyRequestCodec.encode("m", np.array([1])).model_name == "m"


# -- content types and decoded forms ----------------------------------------------------------------------------------

METADATA = {
    "x": MetadataTensor(name="x", datatype="BYTES", shape=[-1], parameters={"content_type": "str"}),
    "bare": MetadataTensor(name="bare", datatype="BYTES", shape=[-1]),
}


def test_an_inputs_content_type_is_its_own_or_its_metadatas() -> None:
    assert codecs.decode_request_input(made(["YQ=="], "BYTES", content_type="base64"), METADATA) == [b"a"]
    assert codecs.decode_request_input(made(["a"], "BYTES"), METADATA) == ["a"]
    assert codecs.decode_request_input(made(["a"], "BYTES")) is None
    assert codecs.decode_request_input(made(["a"], "BYTES", content_type="unheard-of"), METADATA) is None


def test_decoded_forms_are_offered_before_anyone_asks_and_made_once() -> None:
    calls = []

    class Counting(Reversed):
        @classmethod
        def decode_input(cls, request_input: RequestInput) -> Any:
            calls.append(request_input.name)
            return super().decode_input(request_input)

    registry._input_codecs["counting"] = Counting
    try:
        request = InferenceRequest(inputs=[made(["ab"], "BYTES", content_type="counting"), made([1.5])])
        codecs.offer_decoded(request)
        first, second = request.inputs
        assert codecs.has_decoded(first)
        assert not codecs.has_decoded(second)
        assert calls == []
        assert getattr(first.parameters, codecs.DecodedParameterName) == ["ba"]
        assert codecs.get_decoded(first) == codecs.get_decoded_or_raw(first) == ["ba"]
        assert codecs.decode_request_input(first) == ["ba"]
        assert calls == ["x"]
        assert codecs.get_decoded(second) is None
        assert codecs.get_decoded_or_raw(second) == [1.5]
        assert codecs.get_decoded_or_raw(request) is request
    finally:
        del registry._input_codecs["counting"]


def test_decoded_forms_follow_metadata_and_never_travel() -> None:
    request = InferenceRequest(inputs=[made(["a"], "BYTES")])
    codecs.offer_decoded(request, None, METADATA)
    assert codecs.get_decoded(request.inputs[0]) == ["a"]
    assert json.loads(request.model_dump_json())["inputs"][0].get("parameters", {}) == {}


def test_a_request_offers_its_decoded_form_by_its_content_type() -> None:
    request = InferenceRequest(parameters={"content_type": "pd"}, inputs=[made([1, 2])])
    codecs.offer_decoded(request)
    frame = getattr(request.parameters, codecs.DecodedParameterName)
    assert frame["x"].tolist() == [1.0, 2.0]
    assert codecs.decode_inference_request(request) is frame


def test_wrong_data_is_told_when_the_decoded_form_is_read() -> None:
    request = InferenceRequest(inputs=[made([1], "FP32", [7], "np")])
    codecs.offer_decoded(request)
    with pytest.raises(CodecError, match="shape"):
        codecs.get_decoded(request.inputs[0])


def test_offering_decoded_forms_makes_no_reference_cycle() -> None:
    """A request's memory is freed when its last user lets go: shared-memory slots depend on it."""
    gc.disable()
    try:
        request = InferenceRequest(parameters={"content_type": "pd"}, inputs=[made([1, 2], content_type="np")])
        codecs.offer_decoded(request, None, METADATA)
        data = weakref.ref(request.inputs[0].data)
        codecs.decode_request_input(request.inputs[0])
        del request
        assert data() is None
    finally:
        gc.enable()


def test_decoded_forms_can_be_saved_by_hand() -> None:
    tensor = made([1.5])
    assert utils.save_decoded(tensor, "anything") == "anything"
    assert utils.has_decoded(tensor)
    assert utils.get_decoded(tensor) == "anything"


def test_responses_are_encoded_by_value_only() -> None:
    from mlserve.settings import ModelSettings

    model = ModelSettings(name="m", parameters={"version": "v1"})
    response = codecs.encode_inference_response(np.array([1]), model)
    assert response is not None
    assert (response.model_name, response.model_version) == ("m", "v1")
    assert codecs.encode_inference_response({"x": 1}, model) is None


def test_outputs_are_encoded_by_the_type_asked_for_then_metadata_then_value() -> None:
    from mlserve.types import RequestOutput

    asked = RequestOutput(name="x", parameters=Parameters(content_type="base64"))
    assert codecs.encode_response_output([b"a"], asked, METADATA).parameters.content_type == "base64"
    assert codecs.encode_response_output(["a"], RequestOutput(name="x"), METADATA).parameters.content_type == "str"
    assert codecs.encode_response_output([b"a"], RequestOutput(name="bare"), METADATA).data == [b"YQ=="]
    assert codecs.encode_response_output(5, RequestOutput(name="bare"), METADATA) is None


def test_the_public_names_are_sorted_and_there() -> None:
    for module in (codecs, utils, registry):
        assert module.__all__ == sorted(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)
    assert issubclass(codecs.CodecError, MLServeError)
    assert utils.inject_batch_dimension([3]) == [3, 1]
    assert utils.inject_batch_dimension([3, 2]) == [3, 2]
