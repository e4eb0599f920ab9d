"""The policy for null, NaN and None in docs/codecs.md, row by row: what each codec reads, writes and refuses."""

# mypy: disable-error-code="arg-type, assignment, union-attr"
# The types take plain lists and dicts where they declare TensorData and Parameters, and tests make use of that.

from __future__ import annotations

import datetime
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlserve import codecs
from mlserve.client.payload import make_request
from mlserve.errors import MLServeError
from mlserve.types import InferenceRequest, Parameters
from tests.forms import BINARY, FORMS, made, sent, sent_response

DAY = datetime.datetime(2024, 2, 29)
FLOATS = ("FP16", "FP32", "FP64")
INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
REFUSED = object()


def plain(values: Any) -> list[Any]:
    """A list in which NaN, which equals nothing, is the word."""
    listed = values.ravel().tolist() if isinstance(values, np.ndarray) else list(values)
    return ["NaN" if isinstance(one, float) and np.isnan(one) else one for one in listed]


def column_of(tensor: Any) -> pd.Series[Any]:
    frame = codecs.PandasCodec.decode_request(
        InferenceRequest(parameters=Parameters(content_type="pd"), inputs=[tensor])
    )
    column: pd.Series[Any] = frame["x"]
    return column


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "datatype", "data", "wanted"),
    [
        *(("np", datatype, [None, 1.5], ["NaN", 1.5]) for datatype in FLOATS),
        *(("np", datatype, [1, None], REFUSED) for datatype in (*INTEGERS, "BOOL")),
        ("np", "BYTES", ["a", None], ["a", None]),
        ("str", "BYTES", ["a", None, ""], ["a", None, ""]),
        ("base64", "BYTES", ["YQ==", None, ""], [b"a", None, b""]),
        ("datetime", "BYTES", ["2024-02-29T00:00:00", None], [DAY, None]),
        ("str", "BYTES", [None], [None]),
    ],
)
def test_null_in_json_is_none_or_nan_or_refused_with_its_place(
    content_type: str, datatype: str, data: list[Any], wanted: Any
) -> None:
    tensor = made(data, datatype, content_type=content_type)
    if wanted is not REFUSED:
        assert plain(codecs.decode_request_input(tensor)) == wanted
        return
    with pytest.raises(MLServeError, match=r"input 'x': data\[1\]: null is no") as caught:
        codecs.decode_request_input(tensor)
    assert caught.value.http_status == 400


@pytest.mark.parametrize("datatype", ["FP32", "INT32", "BYTES"])
def test_null_without_a_content_type_stays_what_it_is(datatype: str) -> None:
    assert made([None], datatype).data == [None]


@pytest.mark.parametrize(
    ("content_type", "datatype", "data", "wanted"),
    [
        *((None, datatype, [None, 1.5], ["missing", 1.5]) for datatype in FLOATS),
        *((None, datatype, [1, None], REFUSED) for datatype in (*INTEGERS, "BOOL")),
        (None, "BYTES", ["a", None], ["a", "missing"]),
        ("str", "BYTES", ["a", None], ["a", "missing"]),
        ("base64", "BYTES", ["YQ==", None], [b"a", "missing"]),
        ("datetime", "BYTES", ["2024-02-29T00:00:00", None], [DAY, "missing"]),
        ("pd_json", "BYTES", ["[1]", "null", None], [[1], "missing", "missing"]),
    ],
)
def test_null_in_a_column_is_what_pandas_has_for_missing(
    content_type: str | None, datatype: str, data: list[Any], wanted: Any
) -> None:
    tensor = made(data, datatype, content_type=content_type)
    if wanted is not REFUSED:
        column = column_of(tensor).tolist()
        assert ["missing" if np.ndim(one) == 0 and pd.isna(one) else one for one in column] == wanted
        return
    with pytest.raises(MLServeError, match=r"input 'x': data\[1\]: null is no"):
        column_of(tensor)


# -- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("datatype", FLOATS)
def test_nan_and_the_infinities_are_null_in_json_and_themselves_elsewhere(form: str, datatype: str) -> None:
    array = np.array([np.nan, np.inf, -np.inf, 1.0]).astype(codecs.to_dtype(made([1], datatype)))
    output = codecs.NumpyCodec.encode_output("x", array)
    assert json.loads(output.model_dump_json())["data"] == [None, None, None, 1.0]
    decoded = codecs.NumpyCodec.decode_output(sent(output, form))
    assert plain(decoded) == (["NaN"] * 3 + [1.0] if form == "json" else ["NaN", np.inf, -np.inf, 1.0])


@pytest.mark.parametrize(
    ("codec", "values", "text"),
    [
        (codecs.NumpyCodec, np.array(["a", None, ""], dtype=object), ["a", None, ""]),
        (codecs.StringCodec, ["a", None, ""], ["a", None, ""]),
        (codecs.Base64Codec, [b"a", None, b""], ["YQ==", None, ""]),
        (codecs.DatetimeCodec, [DAY, None], ["2024-02-29T00:00:00", None]),
        (codecs.DatetimeCodec, [DAY, pd.NaT], ["2024-02-29T00:00:00", None]),
        (codecs.DatetimeCodec, np.array([DAY, "NaT"], dtype="datetime64[us]"), ["2024-02-29T00:00:00", None]),
    ],
)
def test_none_is_null_in_json_and_refused_where_bytes_have_no_null(codec: Any, values: Any, text: list[Any]) -> None:
    output = codec.encode_output("x", values)
    assert json.loads(output.model_dump_json())["data"] == text
    assert sent(output, "json").data == text
    for form in BINARY:
        with pytest.raises(MLServeError, match=r"data\[1\]: null has no binary form"):
            sent(output, form)


@pytest.mark.parametrize("form", FORMS)
def test_none_among_numbers_makes_them_fp64_with_nan(form: str) -> None:
    output = codecs.NumpyCodec.encode_output("x", np.array([1, None], dtype=object))
    assert output.datatype == "FP64"
    assert plain(codecs.NumpyCodec.decode_output(sent(output, form))) == [1.0, "NaN"]


@pytest.mark.parametrize(
    ("column", "datatype", "data"),
    [
        (pd.Series([1.5, np.nan]), "FP64", [1.5, None]),
        (pd.Series([1, None], dtype="Int64"), "FP64", [1.0, None]),
        (pd.Series([True, None], dtype="boolean"), "FP64", [1.0, None]),
        (pd.Series([1.5, None], dtype="Float64"), "FP64", [1.5, None]),
        (pd.Series([1, 2], dtype="Int64"), "INT64", [1, 2]),
        (pd.Series([True, False], dtype="boolean"), "BOOL", [True, False]),
        (pd.Series([1, None], dtype=object), "FP64", [1.0, None]),
        (pd.Series(["a", None]), "BYTES", ["a", None]),
        (pd.Series(["a", pd.NA], dtype="string"), "BYTES", ["a", None]),
        (pd.Series(["a", float("nan")], dtype=object), "BYTES", ["a", None]),
        (pd.Series(["a", None], dtype="category"), "BYTES", ["a", None]),
        (pd.Series([b"a", None]), "BYTES", ["a", None]),
        (pd.Series([b"\xff", None]), "BYTES", ["/w==", None]),
        (pd.Series([DAY, pd.NaT]), "BYTES", ["2024-02-29T00:00:00", None]),
        (pd.Series([[1], None]), "BYTES", ["[1]", "null"]),
        (pd.Series([None, None], dtype=object), "BYTES", [None, None]),
    ],
)
def test_every_kind_of_missing_in_a_column_is_null_in_json(column: Any, datatype: str, data: list[Any]) -> None:
    response = codecs.PandasCodec.encode_response("m", pd.DataFrame({"x": column}))
    (output,) = response.outputs
    assert output.datatype == datatype
    assert json.loads(output.model_dump_json())["data"] == data
    for form in BINARY:
        if datatype == "BYTES" and None in data:
            with pytest.raises(MLServeError, match="null has no binary form"):
                sent_response(response, form)
        else:
            sent_response(response, form)


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_value_of_a_json_column_travels_over_every_form(form: str) -> None:
    frame = pd.DataFrame({"x": [[1], None, {"a": None}]})
    arrived = codecs.PandasCodec.decode_response(sent_response(codecs.PandasCodec.encode_response("m", frame), form))
    assert arrived["x"].tolist() == [[1], None, {"a": None}]


def test_an_integer_that_would_change_beside_a_missing_one_is_refused() -> None:
    frame = pd.DataFrame({"x": pd.Series([2**53 + 1, None], dtype="Int64")})
    with pytest.raises(MLServeError, match=r"column 'x': .*2\*\*53") as caught:
        codecs.PandasCodec.encode_response("m", frame)
    assert caught.value.http_status == 500


N = 2**60 + 1


@pytest.mark.parametrize(
    "values",
    [[N, None], [N, 1.5], [N, np.nan], [np.int64(N), None], [2**63 - 1, 2.0**63], [2**63, -1], [[N, None], [1, 2]]],
    ids=str,
)
def test_an_integer_that_would_change_in_a_list_or_an_array_of_objects_is_refused(values: Any) -> None:
    words = "would lose digits as FP64|no integer type holds both"
    with pytest.raises(codecs.CodecError, match=f"'x': .*({words})") as caught:
        codecs.NumpyCodec.encode_output("x", np.array(values, object))
    assert caught.value.http_status == 500
    with pytest.raises(codecs.CodecError, match=f"'x': .*({words})"):
        make_request({"x": values})


@pytest.mark.parametrize("values", [[2**60, None], [2**60, 0.5], [2**63, 1]], ids=str)
def test_an_integer_that_does_not_change_is_sent(values: Any) -> None:
    given = codecs.NumpyCodec.encode_output("x", np.array(values, object)).data.tolist()
    assert given == make_request({"x": values})[0].inputs[0].data.tolist() == values


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([N, None], dtype=object),
        pd.Series([N, 1.5], dtype=object),
        pd.Series(pd.Categorical([N, None])),
        pd.Series(pd.Categorical(pd.array([N, None], dtype="Int64"))),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_an_integer_that_would_change_in_a_column_of_objects_goes_as_json(column: Any, form: str) -> None:
    response = codecs.PandasCodec.encode_response("m", pd.DataFrame({"x": column}))
    arrived = codecs.PandasCodec.decode_response(sent_response(response, form))["x"].tolist()
    assert arrived[0] == N
    assert type(arrived[0]) is int
    assert arrived[1] is None or arrived[1] == 1.5


def test_categories_with_one_missing_are_the_numbers_that_they_were() -> None:
    frame = pd.DataFrame({"x": pd.Categorical([7, None, 5]), "y": pd.Categorical([N, 1, N])})
    x, y = codecs.PandasCodec.encode_response("m", frame).outputs
    assert (x.datatype, x.data.tolist()) == ("FP64", [7.0, None, 5.0])
    assert (y.datatype, y.data.tolist()) == ("INT64", [N, 1, N])


@pytest.mark.parametrize("categories", [[1, 2], [1.5], [True, False], pd.array([1], dtype="Int64")], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_categories_that_are_all_missing_are_numbers_if_their_kinds_are(categories: Any, form: str) -> None:
    frame = pd.DataFrame({"x": pd.Categorical([None, None], categories=categories)})
    response = codecs.PandasCodec.encode_response("m", frame)
    assert (response.outputs[0].datatype, response.outputs[0].data.tolist()) == ("FP64", [None, None])
    arrived = codecs.PandasCodec.decode_response(sent_response(response, form))["x"]
    assert arrived.dtype == "float64"
    assert arrived.isna().all()


def test_columns_without_a_row_keep_the_datatype_of_their_categories() -> None:
    frame = pd.DataFrame({"x": pd.Categorical([], categories=[1, 2]), "y": pd.Categorical([], categories=["a"])})
    assert [one.datatype for one in codecs.PandasCodec.encode_outputs(frame)] == ["INT64", "BYTES"]


@pytest.mark.parametrize("form", FORMS)
def test_floats_beyond_their_datatype_are_infinite(form: str) -> None:
    with np.errstate(over="ignore"):
        for datatype, value in (("FP16", 1e6), ("FP32", 1e300)):
            assert codecs.NumpyCodec.decode_input(sent(made([value], datatype), form)).tolist() == [np.inf]


def test_bytes_inside_a_list_of_a_frame_come_back_as_base64_text() -> None:
    response = codecs.PandasCodec.encode_response("m", pd.DataFrame({"x": [[b"a", 1], [b"\xff"]]}))
    assert codecs.PandasCodec.decode_response(response)["x"].tolist() == [["YQ==", 1], ["/w=="]]
