"""Content types str, base64 and datetime: lists there and back, what is lenient, what is refused."""

# mypy: disable-error-code="arg-type, assignment, union-attr"
# The types take plain lists and dicts where they declare TensorData and Parameters, and tests make use of that.

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve import codecs
from mlserve.codecs.errors import CodecError
from mlserve.errors import MLServeError
from mlserve.types import RequestInput
from tests.forms import BINARY, FORMS, TEXT, forms, made, quick, sent, sent_request

UTC = datetime.timezone(datetime.timedelta(0))


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


values_of = {codecs.StringCodec: TEXT, codecs.Base64Codec: st.binary(max_size=8), codecs.DatetimeCodec: dates}


@forms
@pytest.mark.parametrize("codec", list(values_of))
@quick
@given(data=st.data())
def test_lists_with_none_come_back_equal_or_are_refused_both_ways(form: str, codec: Any, data: Any) -> None:
    values = data.draw(st.lists(st.none() | values_of[codec], max_size=5))
    for tensor, decode in (
        (codec.encode_input("x", values), codec.decode_input),
        (codec.encode_output("x", values), codec.decode_output),
    ):
        if form in BINARY[1:] and None in values:  # the client sends inputs without a binary form as JSON
            with pytest.raises(MLServeError, match="null has no binary form"):
                sent(tensor, form)
        elif form == "json" or None not in values:
            assert decode(sent(tensor, form)) == values


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
    for form in BINARY:
        with pytest.raises(MLServeError, match="null has no binary form"):
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


def test_text_is_taken_whatever_datatype_it_says_it_has() -> None:
    assert codecs.StringCodec.decode_input(made(["a", "b"], "INT32")) == ["a", "b"]
    assert codecs.Base64Codec.decode_input(made(["YQ=="], "FP32")) == [b"a"]
    assert codecs.StringCodec.decode_input(made([], "INT64", [0])) == []


@pytest.mark.parametrize("values", [{"a"}, {"a": 1}.keys(), ("a",), pd.Series(["a"]), pd.Index(["a"]), np.array(["a"])])
def test_any_collection_is_as_good_as_a_list(values: Any) -> None:
    assert codecs.StringCodec.encode_output("y", values).data == [b"a"]
    assert codecs.Base64Codec.encode_output("y", values, use_bytes=False).data == ["YQ=="]


def test_utf8_bytes_are_text() -> None:
    assert codecs.StringCodec.encode_output("y", ["a", "é".encode(), None]).data == [b"a", b"\xc3\xa9", None]
    assert codecs.StringCodec.encode_output("y", ["é".encode()], use_bytes=False).data == ["é"]


def test_base64_takes_anything_that_lends_its_memory() -> None:
    rows = np.arange(8, dtype=np.uint8).reshape(2, 4)
    for array in (rows[:, ::2], np.asfortranarray(rows[:, ::2])):
        output = codecs.Base64Codec.encode_output("y", array)
        assert output.shape == [2, 1]
        assert codecs.Base64Codec.decode_output(output) == [b"\x00\x02", b"\x04\x06"]
    assert codecs.Base64Codec.encode_output("y", [bytearray(b"a"), memoryview(b"b")]).data == [b"YQ==", b"Yg=="]


@pytest.mark.parametrize("use_bytes", [True, False])
def test_a_lone_surrogate_never_gets_onto_the_wire(use_bytes: bool) -> None:
    for form in FORMS:
        with pytest.raises(MLServeError, match=r"UTF-8|surrogate"):
            sent(codecs.StringCodec.encode_output("y", ["\ud800"], use_bytes=use_bytes), form)


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (codecs.StringCodec, [datetime.datetime(2024, 1, 1)]),
        (codecs.StringCodec, [b"\xff"]),
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
