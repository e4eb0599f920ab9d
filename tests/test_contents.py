"""InferTensorContents as numpy reads and writes it is what protobuf reads and writes."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import example, given
from hypothesis import strategies as st

from mlserve.datatypes import DTYPES, INT_RANGES
from mlserve.errors import CodecError, InvalidRequest
from mlserve.wire.contents import (
    check_contents,
    contents_from_elements,
    contents_from_numbers,
    elements_from_contents,
    numbers_from_contents,
)

FIELDS = {
    "bool_contents": (1, "TYPE_BOOL"),
    "int_contents": (2, "TYPE_INT32"),
    "int64_contents": (3, "TYPE_INT64"),
    "uint_contents": (4, "TYPE_UINT32"),
    "uint64_contents": (5, "TYPE_UINT64"),
    "fp32_contents": (6, "TYPE_FLOAT"),
    "fp64_contents": (7, "TYPE_DOUBLE"),
    "bytes_contents": (8, "TYPE_BYTES"),
}
FIELD_OF = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def message_class(*, packed: bool) -> Any:
    """Google's class for the message, from a pool of its own."""
    file = descriptor_pb2.FileDescriptorProto(name="contents.proto", package="private", syntax="proto3")
    message = file.message_type.add(name="InferTensorContents")
    for name, (number, kind) in FIELDS.items():
        field = message.field.add(name=name, number=number, label="LABEL_REPEATED", type=kind)
        if kind != "TYPE_BYTES":
            field.options.packed = packed
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("private.InferTensorContents"))


PACKED, UNPACKED = message_class(packed=True), message_class(packed=False)


def numbers(datatype: str) -> st.SearchStrategy[Any]:
    if datatype == "BOOL":
        return st.booleans()
    if datatype in INT_RANGES:
        low, high = INT_RANGES[datatype]
        return st.integers(low, high) | st.integers(max(low, -3), min(high, 130))
    return st.floats(width=32 if datatype == "FP32" else 64)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, np.ndarray[Any, Any]]:
    datatype = draw(st.sampled_from(sorted(FIELD_OF)))
    return datatype, np.array(draw(st.lists(numbers(datatype), max_size=30)), DTYPES[datatype])


def same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """Equal to the bit, but for the payload of NaN: protobuf's Python layer goes through double."""
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


@given(tensors())
def test_protobuf_reads_what_we_write(tensor: tuple[str, np.ndarray[Any, Any]]) -> None:
    datatype, array = tensor
    message = PACKED.FromString(contents_from_numbers(array, datatype))
    assert [name for name in FIELDS if getattr(message, name)] == ([FIELD_OF[datatype]] if array.size else [])
    assert same(np.array(getattr(message, FIELD_OF[datatype]), array.dtype), array)


@given(tensors())
def test_our_bytes_are_protobufs_bytes(tensor: tuple[str, np.ndarray[Any, Any]]) -> None:
    datatype, array = tensor
    if array.dtype.kind == "f":
        array = np.nan_to_num(array)
    message = PACKED(**{FIELD_OF[datatype]: array.tolist()})
    assert contents_from_numbers(array, datatype) == message.SerializeToString()


@given(tensors(), st.sampled_from([PACKED, UNPACKED]))
def test_we_read_what_protobuf_writes_packed_or_not(tensor: tuple[str, np.ndarray[Any, Any]], kind: Any) -> None:
    datatype, array = tensor
    data = kind(**{FIELD_OF[datatype]: array.tolist()}).SerializeToString()
    check_contents(data, datatype, [array.size])
    assert same(numbers_from_contents(data, datatype), array)


@given(tensors(), st.integers(0, 30))
def test_a_field_may_come_in_several_pieces_of_either_kind(tensor: tuple[str, np.ndarray[Any, Any]], cut: int) -> None:
    datatype, array = tensor
    field = FIELD_OF[datatype]
    data = b"".join(
        kind(**{field: part.tolist()}).SerializeToString()
        for kind, part in ((PACKED, array[:cut]), (UNPACKED, array[cut : cut + 3]), (PACKED, array[cut + 3 :]))
    )
    check_contents(data, datatype, [-1] if array.size else [0])
    assert same(numbers_from_contents(data, datatype), array)


@given(st.lists(st.binary(max_size=200), max_size=20))
@example([b"x" * 127, b"y" * 128, b"z" * 70_000, b""])
def test_bytes_go_there_and_back(elements: list[bytes]) -> None:
    data = contents_from_elements(elements)
    assert data == PACKED(bytes_contents=elements).SerializeToString()
    assert elements_from_contents(data) == elements
    check_contents(data, "BYTES", [len(elements)])


@given(st.lists(st.text(max_size=20), max_size=10))
def test_text_is_written_as_utf8(elements: list[str]) -> None:
    assert elements_from_contents(contents_from_elements(elements)) == [one.encode() for one in elements]


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda rest: b"\x32" + bytes((len(rest),)) + rest))
def test_malformed_bytes_are_refused_and_never_crash(data: bytes) -> None:
    for datatype in [*FIELD_OF, "BYTES"]:
        read = elements_from_contents if datatype == "BYTES" else None
        try:
            found = read(data) if read else numbers_from_contents(data, datatype)
            check_contents(data, datatype, [len(found)])
        except InvalidRequest:
            continue
        assert len(found) <= len(data)


@given(tensors(), st.data())
def test_a_cut_message_is_refused_or_holds_fewer_values(
    tensor: tuple[str, np.ndarray[Any, Any]], data: st.DataObject
) -> None:
    datatype, array = tensor
    whole = contents_from_numbers(array, datatype)
    cut = whole[: data.draw(st.integers(0, max(0, len(whole) - 1)))]
    with pytest.raises(InvalidRequest):
        check_contents(cut, datatype, [array.size or 1])


def test_what_we_accept_protobuf_reads_alike() -> None:
    """A large message in which each varint has another length."""
    values = [0, 1, 127, 128, 16383, 16384, 2**31 - 1, -1, -(2**31)] * 1000
    data = contents_from_numbers(np.array(values, np.int32), "INT32")
    assert list(PACKED.FromString(data).int_contents) == values
    assert numbers_from_contents(data, "INT32").tolist() == values


def test_negative_int32_has_ten_bytes_and_shorter_ones_are_read_too() -> None:
    assert contents_from_numbers(np.array([-1], np.int32), "INT32") == b"\x12\x0a" + b"\xff" * 9 + b"\x01"
    assert numbers_from_contents(b"\x12\x05\xff\xff\xff\xff\x0f", "INT32").tolist() == [-1]


def test_numbers_of_fixed_size_are_a_view_where_they_lie_even() -> None:
    body = np.arange(6, dtype="<f4")
    buffer = bytearray(2 + body.nbytes + 2)
    view = memoryview(buffer)[2:]  # Tag and length end on an address that four divides.
    view[:] = b"\x32" + bytes((body.nbytes,)) + body.tobytes()
    found = numbers_from_contents(view, "FP32")
    assert found.flags.aligned
    assert found.tolist() == body.tolist()
    found[0] = 9.0
    assert struct.unpack_from("<f", buffer, 4) == (9.0,)


def test_numbers_at_odd_addresses_are_copied_so_that_c_code_can_take_them() -> None:
    data = contents_from_numbers(np.arange(6, dtype="<f8"), "FP64")
    for offset in range(8):
        buffer = bytearray(offset) + data
        found = numbers_from_contents(memoryview(buffer)[offset:], "FP64")
        assert found.flags.aligned
        assert found.tolist() == [0, 1, 2, 3, 4, 5]


def test_values_in_another_field_are_refused_by_name() -> None:
    data = PACKED(fp32_contents=[0.5]).SerializeToString()
    with pytest.raises(InvalidRequest, match="FP64 belongs into fp64_contents, found fp32_contents"):
        numbers_from_contents(data, "FP64")
    with pytest.raises(InvalidRequest, match="BYTES belongs into bytes_contents, found fp32_contents"):
        elements_from_contents(data)


def test_two_filled_fields_are_refused() -> None:
    data = PACKED(int_contents=[5], fp32_contents=[1]).SerializeToString()
    for check in (lambda: numbers_from_contents(data, "FP32"), lambda: check_contents(data, "FP32", [1])):
        with pytest.raises(InvalidRequest, match="found int_contents"):
            check()


def test_an_empty_packed_field_beside_the_right_one_is_no_second_value() -> None:
    data = b"\x12\x00" + PACKED(fp32_contents=[1]).SerializeToString()
    assert numbers_from_contents(data, "FP32").tolist() == [1.0]


def test_unknown_fields_are_passed_over() -> None:
    unknown = b"\x4a\x03abc" + b"\x50\x07" + b"\x5d\0\0\0\0" + b"\x61" + b"\0" * 8
    data = unknown + PACKED(int64_contents=[7]).SerializeToString() + unknown
    assert numbers_from_contents(data, "INT64").tolist() == [7]


def test_fp16_has_no_field() -> None:
    for attempt in (
        lambda: numbers_from_contents(PACKED(fp32_contents=[0.5]).SerializeToString(), "FP16"),
        lambda: contents_from_numbers(np.ones(2, np.float16), "FP16"),
    ):
        with pytest.raises(CodecError, match="FP16 has no field in InferTensorContents; use raw contents"):
            attempt()


def test_a_value_out_of_range_is_named_with_its_place() -> None:
    data = PACKED(uint_contents=[1, 300]).SerializeToString()
    with pytest.raises(CodecError, match=r"data\[1\]: 300 is no UINT8 \(a whole number from 0 to 255\)"):
        numbers_from_contents(data, "UINT8")
    data = PACKED(int_contents=[-129]).SerializeToString()
    with pytest.raises(CodecError, match=r"data\[0\]: -129 is no INT8"):
        numbers_from_contents(data, "INT8")


def test_a_count_that_is_not_the_shapes_is_refused_without_reading_the_values() -> None:
    data = PACKED(int64_contents=[1, 300, -1]).SerializeToString()
    check_contents(data, "INT64", [3, 1])
    check_contents(data, "INT64", [-1])
    with pytest.raises(CodecError, match=r"shape \[2, 2\] needs 4 values, got 3"):
        check_contents(data, "INT64", [2, 2])
    with pytest.raises(CodecError, match=r"needs 1152921504606846976 values, got 0"):
        check_contents(b"", "FP32", [2**40, 2**20])


def test_bools_of_any_varint_are_true_but_for_zero() -> None:
    assert numbers_from_contents(b"\x0a\x04\x00\x01\x80\x01", "BOOL").tolist() == [False, True, True]
    assert numbers_from_contents(b"\x0a\x02\x02\x00", "BOOL").tolist() == [True, False]


def test_a_length_beyond_the_message_allocates_nothing() -> None:
    huge = b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"
    for tag in (b"\x32", b"\x12", b"\x42"):
        for datatype in ("FP32", "INT32", "BYTES"):
            with pytest.raises(InvalidRequest):
                check_contents(tag + huge, datatype, [1])


def test_none_has_no_place_among_bytes() -> None:
    with pytest.raises(CodecError, match=r"data\[1\]: null has no binary form"):
        contents_from_elements(["a", None])
