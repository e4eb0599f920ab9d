"""TensorData: each form into each other, shapes, and what is refused with which words."""

from __future__ import annotations

import array
import json
import math
import os
import subprocess
import sys
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlserve.datatypes import BYTES, DTYPES, INT_RANGES, Datatype, cast, datatype_of, fit_shape, numpy_dtype
from mlserve.errors import CodecError
from mlserve.tensors import TensorData
from mlserve.wire import json_data
from mlserve.wire.json_data import to_json
from mlserve.wire.raw_data import check_raw

NUMERIC = [name for name in DTYPES if name != BYTES]
FLOATS = ["FP16", "FP32", "FP64"]
INTEGERS = sorted(INT_RANGES)

Array = np.ndarray[Any, Any]


def from_text(value: Any) -> TensorData:
    return TensorData.from_json(value if isinstance(value, bytes) else json.dumps(value).encode())


@st.composite
def arrays(draw: st.DrawFn, datatypes: list[str] = NUMERIC) -> tuple[str, Array]:
    datatype = draw(st.sampled_from(datatypes))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40))
    made = draw(hnp.arrays(DTYPES[datatype], shape, fill=st.nothing() if math.prod(shape) < 20 else None))
    return datatype, made


def assert_same(found: Array, wanted: Array) -> None:
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(found, wanted)  # Equal NaNs, and -0.0 as 0.0.


@given(arrays())
def test_json_keeps_every_number_but_infinities(tensor: tuple[str, Array]) -> None:
    datatype, wanted = tensor
    text = TensorData(wanted).to_json(datatype)
    values = json.loads(bytes(text))
    assert len(values) == wanted.size
    if wanted.dtype.kind == "f":
        wanted = np.where(np.isinf(wanted), wanted.dtype.type(np.nan), wanted)
        assert [one is None for one in values] == np.isnan(wanted).ravel().tolist()
    assert_same(TensorData.from_json(text).to_numpy(datatype, wanted.shape), wanted)


@given(arrays(), st.sampled_from([bytes, bytearray, memoryview, lambda text: np.frombuffer(text, np.uint8)]))
def test_nested_json_gives_the_same_as_flat(tensor: tuple[str, Array], kind: Any) -> None:
    datatype, wanted = tensor
    if wanted.dtype.kind == "f":
        wanted = np.asarray(np.nan_to_num(wanted))
    text = json.dumps(wanted.tolist()).encode()  # With spaces after its commas.
    found = TensorData.from_json(kind(text)).to_numpy(datatype, wanted.shape)
    assert_same(found, wanted)
    assert found.flags.writeable


@given(arrays())
def test_raw_keeps_every_bit(tensor: tuple[str, Array]) -> None:
    datatype, wanted = tensor
    raw = TensorData(wanted).to_raw(datatype)
    assert bytes(raw) == wanted.tobytes()
    check_raw(raw, datatype, wanted.shape)
    again = TensorData.from_raw(raw, datatype, wanted.shape)
    assert again.to_numpy(datatype, wanted.shape).tobytes() == wanted.tobytes()
    assert again.to_raw(datatype) is again.payload


@given(arrays([name for name in NUMERIC if name != "FP16"]))
def test_contents_keep_every_bit(tensor: tuple[str, Array]) -> None:
    datatype, wanted = tensor
    data = TensorData.from_contents(TensorData(wanted).to_contents(datatype), datatype, wanted.shape)
    assert data.to_numpy(datatype, wanted.shape).tobytes() == wanted.tobytes()
    assert data.to_contents(datatype) == data.payload


@given(arrays(), st.data())
def test_arrays_of_any_memory_layout_are_written_alike(tensor: tuple[str, Array], data: st.DataObject) -> None:
    datatype, wanted = tensor
    if wanted.dtype.kind == "f":
        wanted = np.asarray(np.nan_to_num(wanted))
    layout = data.draw(st.sampled_from(["fortran", "swapped", "strided", "odd address", "read-only"]))
    given_array = wanted
    if layout == "fortran":
        given_array = np.asfortranarray(wanted)
    elif layout == "swapped":
        given_array = wanted.astype(wanted.dtype.newbyteorder(">"))
    elif layout == "strided" and wanted.ndim:
        given_array = np.repeat(wanted, 2, axis=-1)[..., ::2]
    elif layout == "odd address":
        buffer = bytearray(1) + wanted.tobytes()
        given_array = np.frombuffer(buffer, wanted.dtype, offset=1).reshape(wanted.shape) if wanted.size else wanted
    elif layout == "read-only":
        given_array = wanted.copy()
        given_array.flags.writeable = False
    tensor_data = TensorData(given_array)
    values = json.loads(bytes(tensor_data.to_json(datatype)))
    assert np.array(values, wanted.dtype).tobytes() == wanted.tobytes()  # The shortest text that reads back the same.
    assert bytes(tensor_data.to_raw(datatype)) == wanted.tobytes()
    found = tensor_data.to_numpy(datatype, wanted.shape)
    assert_same(found, wanted)
    assert found.flags.writeable


@given(st.lists(st.text(max_size=10), max_size=10))
def test_text_survives_every_form(values: list[str]) -> None:
    shape = [len(values)]
    data = TensorData.from_json(TensorData(values).to_json(BYTES))
    assert data.tolist() == values
    assert data.to_numpy(BYTES, shape).tolist() == values
    encoded = [one.encode() for one in values]
    for again in (
        TensorData.from_raw(data.to_raw(BYTES), BYTES, shape),
        TensorData.from_contents(data.to_contents(BYTES), BYTES, shape),
    ):
        assert again.tolist() == encoded
        assert again.to_numpy(BYTES, shape).tolist() == encoded
        assert json.loads(bytes(again.to_json(BYTES))) == values


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_bytes_survive_raw_and_contents(values: list[bytes]) -> None:
    shape = [len(values)]
    raw = TensorData(values).to_raw(BYTES)
    check_raw(raw, BYTES, shape)
    data = TensorData.from_contents(TensorData.from_raw(raw, BYTES, shape).to_contents(BYTES), BYTES, shape)
    assert data.tolist() == values
    assert data.to_raw(BYTES) == raw


WRITES_JSON = """
import sys
import numpy as np
from mlserve.tensors import TensorData
random = np.random.default_rng(7)
pool = np.array([-1.2345678901234567e-300, -1.2345678901234567e300, 1.2345678901234567e-300, 0.5, np.nan, -0.0001234567])
for _ in range(4000):
    some = pool[random.integers(0, len(pool), random.integers(1, 6))].astype(sys.argv[1])
    TensorData(some[random.integers(0, len(some), random.integers(1, 1500))]).to_json()
"""


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_writing_the_longest_numbers_leaves_the_heap_alone(dtype: str) -> None:
    """Fails with orjson 3.12 and 3.13 where float64 arrays are given to it as they are."""
    environment = {**os.environ, "PYTHONMALLOC": "debug", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", WRITES_JSON, dtype]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("values", "shape"),
    [([1, 2, 3, 4], (2, 2)), ([[1, 2], [3, 4]], (4,)), ([[1], [2]], (1, 2, 1)), ([7], ()), (7, (1,)), ([], (0, 3))],
)
def test_data_may_be_nested_or_flat_for_any_shape_of_its_size(values: Any, shape: tuple[int, ...]) -> None:
    for data in (from_text(values), TensorData(values), TensorData(np.array(values, float))):
        assert data.to_numpy("FP32", shape).shape == shape


def test_one_size_may_be_left_open() -> None:
    data = from_text([1, 2, 3, 4, 5, 6])
    assert data.to_numpy("FP32", [-1, 2]).shape == (3, 2)
    for shape, words in (
        ([-1, 4], "does not divide 6 values"),
        ([-1, -1], "has a negative size"),
        ([-1, 0], "does not divide"),
    ):
        with pytest.raises(CodecError, match=words):
            data.to_numpy("FP32", shape)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([7], r"shape \[7\] needs 7 values, got 1"),
        ([0], r"shape \[0\] needs 0 values, got 1"),
        ([-3], r"shape \[-3\] has a negative size"),
        ([10**9, 10**9], r"shape \[1000000000, 1000000000\] needs 1000000000000000000 values, got 1"),
        ([2**40] * 30, "needs .* values, got 1"),
        ([1] * 1000, "a shape of 1000 dimensions; at most 64 can be"),
    ],
)
def test_shapes_that_disagree_with_the_data_are_refused_without_allocating(shape: list[int], words: str) -> None:
    for data in (from_text([1.5]), TensorData.from_raw(b"\0\0\xc0\x3f", "FP32", shape), TensorData([1.5])):
        with pytest.raises(CodecError, match=words):
            data.to_numpy("FP32", shape)


def test_empty_tensors_have_any_shape_without_values() -> None:
    for data in (from_text([]), TensorData([]), TensorData.from_raw(b"", "INT64", [0]), TensorData(np.zeros((0, 2)))):
        assert data.to_numpy("INT64", [0, 3]).shape == (0, 3)
        assert data.to_numpy("INT64", [0]).dtype == np.int64
        assert bytes(data.to_raw("INT64")) == b""
        assert data.to_contents("INT64") == b""
        assert not data
        assert bytes(data.to_json("INT64")) == b"[]"


@pytest.mark.parametrize(
    "shape", [[4097, 0], [64, 65, 0, 3], [30_000_000, 0], [4097, -1], [0, 2**25], [1, 0, 2**20, 32]], ids=str
)
def test_rows_without_values_are_few_since_they_cost_their_sender_nothing(shape: list[int]) -> None:
    for data in (from_text([]), TensorData([]), TensorData.from_raw(b"", "FP32", shape)):
        with pytest.raises(CodecError, match=r"rows without values; at most 4096|has no values, and sizes"):
            data.to_numpy("FP32", shape)
    for few in ([4096, 0], [64, 64, 0, 3], [0, 3, 2000, 2000], [16, -1]):
        assert from_text([]).to_numpy("FP32", few).size == 0


@pytest.mark.parametrize("piece", [1, 3, 10, 100])
@pytest.mark.parametrize(
    "values",
    [
        list(range(25)),
        [[1.5, None], [2.5, "é"]] * 13,
        [[0.5] * 30],
        [[[1] * 7] * 5] * 3,
        [[], [1], []] * 9,
        [[1], [2] * 50, 3, "a", b"b", [[4]]],
        np.arange(33),
        np.linspace(0, 1, 41),
        np.linspace(0, 1, 41, dtype=np.float32),
        np.array([[True, False]] * 12),
        np.array(["a", b"b", None] * 9, object),
    ],
    ids=repr,
)
def test_large_texts_are_written_in_pieces(values: Any, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = to_json(values)
    monkeypatch.setattr(json_data, "_PIECE_VALUES", piece)
    assert to_json(values) == whole


def test_a_raw_payload_is_viewed_and_not_copied() -> None:
    buffer = np.zeros(16, np.uint8)  # As shared memory comes.
    found = TensorData.from_raw(buffer, "FP32", [4]).to_numpy("FP32", [2, 2], writable=False)
    assert np.shares_memory(found, buffer)


@pytest.mark.parametrize("kind", [bytes, bytearray, lambda payload: np.frombuffer(bytearray(payload), np.uint8)])
def test_a_payload_is_copied_unless_reading_is_enough(kind: Any) -> None:
    payload = kind(np.arange(4, dtype="<f4").tobytes())
    data = TensorData.from_raw(payload, "FP32", [4])
    view = data.to_numpy("FP32", [4], writable=False)
    assert np.shares_memory(view, np.frombuffer(payload, np.uint8))
    found = data.to_numpy("FP32", [4])
    found[0] = 9
    assert bytes(payload[:4]) == b"\0\0\0\0"
    assert data.to_numpy("FP32", [4]).tolist() == view.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_raw_at_an_odd_address_is_copied() -> None:
    buffer = bytearray(1) + np.arange(4, dtype="<f4").tobytes()
    found = TensorData.from_raw(memoryview(buffer)[1:], "FP32", [4]).to_numpy("FP32", [4])
    assert found.flags.aligned
    assert found.tolist() == [0, 1, 2, 3]


def test_raw_booleans_are_true_for_every_byte_but_zero() -> None:
    assert TensorData.from_raw(b"\0\1\2\xff", "BOOL", [4]).tolist() == [False, True, True, True]


def test_a_payload_may_be_a_view_of_any_item_type() -> None:
    data = TensorData.from_raw(memoryview(array.array("f", [1.5, 2.5])), "FP32", [2])
    assert data.nbytes == len(data.payload) == 8
    assert data.tolist() == [1.5, 2.5]
    assert TensorData.from_raw(np.zeros((0, 3), np.uint8), "FP32", [0, 3]).payload == b""


@pytest.mark.parametrize(
    ("buffer", "datatype", "shape", "words"),
    [
        (b"\0" * 4, "FP32", [2**40, 2**20], r"needs 1152921504606846976 values, got 1 \(4 bytes of FP32\)"),
        (b"\0" * 8, "FP32", [1], "needs 1 value, got 2"),
        (b"\0" * 5, "FP32", [1], "5 bytes are no whole number of FP32 values"),
        (b"\5\0\0\0a", "BYTES", [2], "BYTES element 0 has a length of 5 bytes, but 1 are left"),
        (b"\1\0\0\0a", "BYTES", [3], r"shape \[3\] needs 3 values, got 1"),
        (b"\1\0\0\0a\0\0", "BYTES", [2], "BYTES element 1: 2 bytes are left"),
        (b"\xff\xff\xff\xff", "BYTES", [1], "length of 4294967295 bytes"),
        (b"\0", "FLOAT", [1], "unknown datatype 'FLOAT'"),
        (b"\0", "INT8", [-1, -1], "negative"),
    ],
)
def test_raw_data_is_checked_against_datatype_and_shape(
    buffer: bytes, datatype: str, shape: list[int], words: str
) -> None:
    with pytest.raises(CodecError, match=words):
        check_raw(buffer, datatype, shape)
    data = TensorData.from_raw(buffer, datatype, shape)
    with pytest.raises(CodecError):
        data.to_numpy(datatype, shape)


@given(st.binary(max_size=60))
def test_any_bytes_are_raw_elements_or_refused(buffer: bytes) -> None:
    try:
        elements = TensorData.from_raw(buffer, BYTES, [1]).tolist()
    except CodecError:
        return
    assert TensorData(elements).to_raw(BYTES) == buffer


def test_bytes_that_are_no_utf8_have_no_json_form() -> None:
    data = TensorData.from_raw(TensorData([b"ok", b"\x00\xff"]).to_raw(BYTES), BYTES, [2])
    for one in (data, TensorData([b"\xff"]), TensorData(b"\xff"), TensorData(np.array([b"\xff"]))):
        with pytest.raises(CodecError, match=r"is not UTF-8 .* use base64, binary outputs or gRPC"):
            one.to_json(BYTES)


def test_lone_surrogates_have_neither_json_nor_raw_form() -> None:
    data = TensorData(["\ud800"])
    for convert in (data.to_json, data.to_raw, data.to_contents):
        with pytest.raises(CodecError):
            convert(BYTES)


def test_a_json_text_is_passed_on_only_if_it_is_utf8() -> None:
    for wrong in (b'["\xff"]', memoryview(b'["\xc3"]'), bytearray(b'["\xed\xa0\x80"]')):
        with pytest.raises(CodecError, match="not valid UTF-8"):
            TensorData.from_json(wrong).to_json(BYTES)
    raw = msgspec.json.decode('["é"]'.encode(), type=msgspec.Raw)
    assert TensorData.from_json(raw).to_json(BYTES) == '["é"]'.encode()


def test_json_text_is_passed_on_as_it_stands() -> None:
    text = b" [ [-0.0, 1e-320], [9007199254740993, 0.10] ] "
    data = TensorData.from_json(text)
    data.to_numpy("FP64", [2, 2])
    assert data.to_json("FP64") is text


def test_bytes_elements_are_strings_and_no_numbers() -> None:
    for data in (from_text([1, 234]), TensorData([1, 234]), TensorData(np.array([1, 234]))):
        for convert in (data.to_raw, data.to_contents, lambda name, data=data: data.to_numpy(name, [2])):
            with pytest.raises(CodecError, match=r"data\[0\]: 1 (is no string|has no binary form)|no BYTES tensor"):
                convert(BYTES)


def test_null_among_strings_stays_in_python_and_has_no_binary_form() -> None:
    data = from_text(["a", None])
    assert data.tolist() == ["a", None]
    assert data.to_numpy(BYTES, [2]).tolist() == ["a", None]
    with pytest.raises(CodecError, match=r"data\[1\]: null has no binary form"):
        data.to_raw(BYTES)


def test_numpy_texts_and_bytes_are_elements() -> None:
    for elements in (np.array(["a", "bé"]), np.array([b"a", "bé".encode()]), np.array(["a", "bé"], object)):
        data = TensorData(elements.reshape(2, 1))
        assert json.loads(bytes(data.to_json(BYTES))) == ["a", "bé"]
        assert data.to_raw(BYTES) == b"\1\0\0\0a\3\0\0\0b\xc3\xa9"


def test_arrays_of_another_type_are_taken_if_every_value_fits() -> None:
    assert TensorData(np.array([1.0, 2.0])).to_numpy("INT32", [2]).dtype == np.int32
    assert bytes(TensorData(np.array([1, 0])).to_raw("BOOL")) == b"\1\0"
    assert TensorData(np.array([True])).to_numpy("FP16", [1]).tolist() == [1.0]
    assert TensorData(np.array(["5"])).to_numpy("INT8", [1]).tolist() == [5]
    assert TensorData.from_raw(b"\5", "UINT8", [1]).to_raw("FP32") == b"\0\0\xa0\x40"


@pytest.mark.parametrize(
    ("value", "datatype"),
    [
        (300, "UINT8"),
        (-1, "UINT64"),
        (1.5, "INT32"),
        (2.0**63, "INT64"),
        (2.0**64, "UINT64"),
        (math.nan, "INT8"),
        (math.inf, "INT64"),
        (2, "BOOL"),
        (np.uint64(2**63), "INT64"),
        (np.float32(2**31), "INT32"),
        (1j, "FP32"),
    ],
)
def test_arrays_with_a_value_that_does_not_fit_are_refused(value: Any, datatype: str) -> None:
    with pytest.raises(CodecError, match=r"data\[1\]: .* is no |do not go into"):
        cast(np.array([0, value], dtype=np.asarray(value).dtype), datatype)


def test_every_numpy_type_has_one_datatype_or_none() -> None:
    for name in NUMERIC:
        assert datatype_of(DTYPES[name]) == name
        assert datatype_of(DTYPES[name].newbyteorder(">")) == name
        assert numpy_dtype(name) == DTYPES[name]
    for text in ("U3", "S3", "O"):
        assert datatype_of(np.dtype(text)) is Datatype.BYTES
    for other in ("M8[s]", "m8[s]", "c8", "longdouble"):
        with pytest.raises(CodecError, match="no datatype"):
            datatype_of(np.dtype(other))


def test_a_datatype_is_its_name() -> None:
    assert Datatype.FP32 == "FP32"
    assert f"{Datatype.FP32} {Datatype('FP32')!s} {Datatype.FP32:>6}" == "FP32 FP32   FP32"
    assert {"FP32": 1}[Datatype.FP32] == 1
    assert json.dumps([Datatype.FP32]) == '["FP32"]'


def test_fit_shape_views_what_it_can() -> None:
    values = np.arange(6)
    assert np.shares_memory(fit_shape(values, [2, 3]), values)
    assert fit_shape(values, (6,)).shape == (6,)


@pytest.mark.parametrize("text", ["[0.25,[0.5]]", '["a","b"]', "[]", "null", '"ab"'])
def test_text_that_lies_in_shared_memory_behaves_like_the_list_that_it_says(text):
    """Large payloads arrive as arrays of bytes, which are not the values."""
    here, there = TensorData.from_json(text.encode()), TensorData.from_json(np.frombuffer(text.encode(), np.uint8))
    assert len(there) == len(here) and list(there) == list(here) and there == here
    assert [there[n] for n in range(len(there))] == list(here) and there[:1] == here[:1]


def test_bytes_that_lie_in_shared_memory_behave_like_the_list_that_they_say():
    raw = np.frombuffer(np.array([1.5, 2.5], "<f8").tobytes(), np.uint8)
    data = TensorData.from_raw(raw, "FP64", [2])
    assert len(data) == 2 and data[0] == 1.5 and data[-1:] == [2.5]
