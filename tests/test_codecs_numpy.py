"""Content type np: arrays of every kind there and back, what is refused, and what is not copied."""

# mypy: disable-error-code="arg-type, assignment, union-attr"
# The types take plain lists and dicts where they declare TensorData and Parameters, and tests make use of that.

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mlserve import codecs
from mlserve.codecs.errors import CodecError
from mlserve.datatypes import DTYPES, INT_RANGES
from tests.forms import TEXT, forms, made, quick, sent, sent_request

NUMERIC = [name for name in DTYPES if name != "BYTES"]


def same(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    """Equal in dtype (but for byte order), shape and values; NaN equals NaN, and -0.0 differs from 0.0 nowhere."""
    if left.shape != right.shape or left.dtype.newbyteorder("=") != right.dtype.newbyteorder("="):
        return False
    return bool(np.array_equal(left, right, equal_nan=left.dtype.kind == "f"))


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
    if form == "json" and array.dtype.kind == "f":
        array = np.where(np.isinf(array), np.array(np.nan, array.dtype), array)  # JSON has one word for both
    decoded = codecs.NumpyCodec.decode_output(sent(output, form))
    assert same(decoded, array.reshape(output.shape))


@forms
@quick
@given(array=arrays)
def test_a_numpy_request_comes_back_equal(form: str, array: Any) -> None:
    request = codecs.NumpyRequestCodec.encode_request(array)
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


@forms
@pytest.mark.parametrize("array", [np.array(["a", "é"]), np.array(["a", "é"], dtype=object), np.array([["a"], ["é"]])])
def test_text_arrays_read_as_lists_have_the_elements_of_a_bytes_tensor(form: str, array: Any) -> None:
    output = codecs.NumpyCodec.encode_output("x", array)
    assert codecs.StringCodec.decode_output(sent(output, form)) == ["a", "é"]
    if array.dtype.kind == "U":
        assert output.data == output.data.root == output.model_dump()["data"] == [b"a", "é".encode()]
        assert codecs.NumpyCodec.decode_output(output).ravel().tolist() == ["a", "é"]
    assert json.loads(output.model_dump_json())["data"] == ["a", "é"]


@forms
@quick
@given(array=dtypes.flatmap(lambda dtype: npst.arrays(dtype, ())))
def test_a_scalar_comes_back_as_an_array_of_one(form: str, array: Any) -> None:
    output = codecs.NumpyCodec.encode_output("x", array)
    assert output.shape == [1]
    decoded = codecs.NumpyCodec.decode_output(sent(output, form))
    wanted = np.where(np.isinf(array), np.nan, array) if form == "json" and array.dtype.kind == "f" else array
    assert same(decoded, wanted.astype(array.dtype).reshape(1))


@forms
@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), (0, 0, 2)])
@pytest.mark.parametrize("datatype", [*NUMERIC, "BYTES"])
def test_an_array_without_values_keeps_its_shape(form: str, shape: tuple[int, ...], datatype: str) -> None:
    array = np.empty(shape, DTYPES[datatype])
    output = codecs.NumpyCodec.encode_output("x", array)
    assert output.datatype == datatype
    assert codecs.NumpyCodec.decode_output(sent(output, form)).shape == (shape if len(shape) > 1 else (0, 1))


@forms
@pytest.mark.parametrize("datatype", ["INT64", "UINT64"])
def test_the_greatest_integers_stay_exact(form: str, datatype: str) -> None:
    low, high = INT_RANGES[datatype]
    array = np.array([low, high, 2**53 + 1], DTYPES[datatype])
    assert codecs.NumpyCodec.decode_output(
        sent(codecs.NumpyCodec.encode_output("x", array), form)
    ).ravel().tolist() == [
        low,
        high,
        2**53 + 1,
    ]


def test_nested_lists_are_read_in_order_whatever_the_shape_says() -> None:
    nested = made([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], "INT16", [2, 2, 2])
    assert codecs.NumpyCodec.decode_input(nested).tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    assert codecs.NumpyCodec.decode_input(made([[1, 2], [3, 4]], "INT16", [4])).tolist() == [1, 2, 3, 4]


def test_a_decoded_text_array_has_the_width_of_its_longest_element() -> None:
    decoded = codecs.NumpyCodec.decode_input(made(["a", "bcd", "日本"], "BYTES"))
    assert decoded.dtype == np.dtype("<U3")


def test_a_text_array_stays_objects_where_fixed_width_would_lose_or_waste() -> None:
    assert codecs.NumpyCodec.decode_input(made(["a\0", "b"], "BYTES")).tolist() == ["a\0", "b"]
    long = ["x" * 10_000] + [""] * 5_000
    assert codecs.NumpyCodec.decode_input(made(long, "BYTES")).dtype == object
    assert codecs.NumpyCodec.decode_input(made(["a", None], "BYTES")).tolist() == ["a", None]


def test_an_encoded_array_is_not_made_a_list() -> None:
    array = np.arange(6.0).reshape(2, 3)
    for tensor in (codecs.NumpyCodec.encode_output("x", array), codecs.NumpyCodec.encode_input("x", array)):
        assert tensor.data.form == "object"
        assert isinstance(tensor.data.payload, np.ndarray)


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
        ([1, 234], "BYTES", [3]),
        ([["a", 1], ["b"]], "BYTES", [4]),
        (["a", "b"], "BYTES", [3]),
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
        np.array([object(), "b"], dtype=object),
        np.array([b"\xff", 1], dtype=object),
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
