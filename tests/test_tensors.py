"""TensorData: each form into each other, what is lenient, what is refused and with which words."""

from __future__ import annotations

import array
import copy
import json
import math
import os
import pickle
import subprocess
import sys
import threading
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


# -- there and back ---------------------------------------------------------------------------------------------------


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


# -- the traps of the quick reader ------------------------------------------------------------------------------------

LONG = json_data._SMALL_BYTES  # Longer texts go through simdjson.


@pytest.mark.parametrize("count", [0, LONG])
@pytest.mark.parametrize("datatype", ["FP32", "INT64", "UINT8", "BOOL", "BYTES"])
@pytest.mark.parametrize(
    "rows",
    [
        [[1, 0, 1], [1]],
        [[1], [1, 0, 1]],
        [[1, [0]], [1, 0]],
        [[1, 0], 1, 0],
        [1, [0, 1], 0],
        [[[1, 0]], [1, 0]],
        [[], [1, 0]],
        [[1, 0], []],
        [[[1], [0]], [[1, 0]]],
    ],
)
def test_ragged_lists_are_refused_however_their_values_add_up(rows: list[Any], datatype: str, count: int) -> None:
    if datatype == BYTES:
        rows = json.loads(json.dumps(rows).replace("1", '"a"').replace("0", '"b"'))
    text = json.dumps(rows).encode() + b" " * count
    with pytest.raises(CodecError, match=r"ragged|no string"):
        TensorData.from_json(text).to_numpy(datatype, [-1])


def test_many_ragged_rows_are_found_among_even_ones() -> None:
    rows: list[Any] = [[1.5, 2.5]] * 1000
    for bad in ([1.5], [1.5, 2.5, 3.5], [1.5, [2.5]], 1.5):
        for at in (0, 500, 999):
            with pytest.raises(CodecError, match="ragged"):
                from_text([*rows[:at], bad, *rows[at + 1 :]]).to_numpy("FP64", [-1])


def test_few_wide_rows_are_checked_too() -> None:
    row = [0.25] * 500
    assert from_text([row, row]).to_numpy("FP32", [2, 500]).sum() == 250
    for bad in ([row, row[1:]], [row[:-1], [*row, 1]], [row, [[one] for one in row]], [[*row[:-1], [1]], row]):
        with pytest.raises(CodecError, match="ragged"):
            from_text(bad).to_numpy("FP32", [-1])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 3))
def test_rows_are_taken_exactly_if_their_lengths_are_equal(lengths: list[int], depth: int) -> None:
    value: Any = [[0.5] * length for length in lengths]
    for _ in range(depth - 1):
        value = [value, value]
    text = json.dumps(value).encode() + b" " * LONG
    if len(set(lengths)) == 1:
        found = TensorData.from_json(text).to_numpy("FP32", [-1])
        assert found.size == sum(lengths) * 2 ** (depth - 1)
    else:
        with pytest.raises(CodecError, match="ragged"):
            TensorData.from_json(text).to_numpy("FP32", [-1])


def test_rows_are_taken_exactly_if_all_are_empty() -> None:
    assert from_text([[], []]).to_numpy("FP32", [2, 0]).shape == (2, 0)
    assert TensorData.from_json(b"[[],[]]" + b" " * LONG).to_numpy("FP32", [2, 0]).shape == (2, 0)


@pytest.mark.parametrize("repeat", [1, 200])
def test_integers_beyond_two_to_the_53rd_stay_exact(repeat: int) -> None:
    for datatype, value in (("INT64", 2**53 + 1), ("INT64", -(2**63)), ("UINT64", 2**64 - 1), ("UINT64", 2**63 + 1)):
        assert from_text([value] * repeat).to_numpy(datatype, [-1]).tolist() == [value] * repeat


@pytest.mark.parametrize("repeat", [1, 200])
def test_null_is_nan_among_floats_and_an_error_among_the_rest(repeat: int) -> None:
    data = from_text([1.5, None] * repeat)
    for datatype in FLOATS:
        found = data.to_numpy(datatype, [2 * repeat])
        assert found[0] == 1.5
        assert np.isnan(found[1])
    for datatype in [*INTEGERS, "BOOL"]:
        with pytest.raises(CodecError, match=rf"data\[1\]: null is no {datatype}"):
            from_text([1, None] * repeat).to_numpy(datatype, [-1])


@pytest.mark.parametrize("repeat", [1, 200])
def test_whole_floats_booleans_and_texts_count_as_integers(repeat: int) -> None:
    for datatype in INTEGERS:
        found = from_text([2.0, True, "5", False, 1e1] * repeat).to_numpy(datatype, [-1])
        assert found.tolist() == [2, 1, 5, 0, 10] * repeat
        assert found.dtype == DTYPES[datatype]


@pytest.mark.parametrize("repeat", [1, 200])
def test_booleans_and_texts_count_as_floats(repeat: int) -> None:
    for datatype in FLOATS:
        assert from_text([1, True, "2.5"] * repeat).to_numpy(datatype, [-1]).tolist() == [1, 1, 2.5] * repeat


@pytest.mark.parametrize("repeat", [1, 200])
def test_zero_and_one_count_as_booleans_and_nothing_else_does(repeat: int) -> None:
    assert from_text([True, False, 1, 0, 1.0] * repeat).to_numpy("BOOL", [-1]).tolist() == [1, 0, 1, 0, 1] * repeat
    for wrong in (7, -1, 0.5, "true", "", None, {}):
        with pytest.raises(CodecError, match=r"data\[1\]: .* is no BOOL \(true or false\)"):
            from_text([True, wrong] * repeat).to_numpy("BOOL", [-1])


@pytest.mark.parametrize("repeat", [1, 200])
@pytest.mark.parametrize("datatype", INTEGERS)
def test_integers_that_do_not_fit_are_named_with_their_place(datatype: str, repeat: int) -> None:
    low, high = INT_RANGES[datatype]
    for wrong in (low - 1, high + 1, 2**64, -(2**70), 1.5, "five", "1.0", "", {"a": 1}, 1e300):
        with pytest.raises(CodecError) as caught:
            from_text([*[1] * repeat, wrong, 1]).to_numpy(datatype, [-1])
        assert str(caught.value).startswith(f"data[{repeat}]: {wrong!r} is no {datatype} (a whole number from {low}")


@pytest.mark.parametrize("repeat", [1, 200])
def test_what_is_no_float_is_named_with_its_place(repeat: int) -> None:
    for wrong in ("five", {"a": 1}, ""):
        with pytest.raises(CodecError, match=rf"data\[{repeat}\]: .* is no FP32"):
            from_text([*[1] * repeat, wrong, 1]).to_numpy("FP32", [-1])


@pytest.mark.parametrize("repeat", [1, 200])
def test_floats_beyond_their_type_become_infinite_without_a_warning(repeat: int) -> None:
    assert from_text([1e39] * repeat).to_numpy("FP32", [-1]).tolist() == [math.inf] * repeat
    assert from_text([-70000] * repeat).to_numpy("FP16", [-1]).tolist() == [-math.inf] * repeat
    assert from_text([0.1] * repeat).to_numpy("FP16", [-1]).tolist() == [0.0999755859375] * repeat
    assert from_text([10**30] * repeat).to_numpy("FP64", [-1]).tolist() == [1e30] * repeat


@pytest.mark.parametrize("text", [b"[1,", b"", b"[1]]", b"{", b"[01]", b"[NaN]", b"[1e999]", b'["\xff"]', b"[" * 5000])
@pytest.mark.parametrize("padding", [0, LONG])
def test_what_is_no_json_is_refused(text: bytes, padding: int) -> None:
    for datatype in ("FP32", "INT8", "BOOL", BYTES):
        with pytest.raises(CodecError):
            TensorData.from_json(text + b" " * padding).to_numpy(datatype, [1])


def test_negative_zero_and_subnormal_numbers_keep_their_value() -> None:
    found = from_text(b"[-0.0, 1e-320, 0.1]").to_numpy("FP64", [3])
    assert found.tobytes() == np.array([-0.0, 1e-320, 0.1]).tobytes()
    found = from_text(b"[-0.0, 1e-320, 0.1]" + b" " * LONG).to_numpy("FP64", [3])
    assert found.tobytes() == np.array([-0.0, 1e-320, 0.1]).tobytes()


NUMBERS = st.integers(-(2**66), 2**66) | st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 3)
ODD = st.none() | st.booleans() | st.sampled_from(["1", "x", "2.5"]) | NUMBERS
NESTED = st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=4), max_leaves=30)
EVEN = hnp.arrays(np.int8, hnp.array_shapes(max_dims=4, max_side=5)).map(lambda found: found.tolist())


@given(EVEN | NESTED | st.lists(ODD), st.sampled_from(NUMERIC))
def test_both_readers_agree_on_every_text(value: Any, datatype: str) -> None:
    def read(text: bytes) -> Any:
        try:
            found = json_data.numbers_from_json(text, datatype)
        except CodecError as error:
            return str(error)
        return found.dtype, found.tobytes()

    short = json.dumps(value).encode()
    slow: Any
    try:
        values = json_data.numbers_from_values(json_data.values_from_json(short), datatype)
        slow = (values.dtype, values.tobytes())
    except CodecError as error:
        slow = str(error)
    assert read(short) == read(short + b" " * LONG) == slow


def test_the_parser_is_good_again_after_a_text_that_it_refused() -> None:
    good = from_text([1.5] * 500)
    for bad in (["x"] * 500, [[1.5] * 300, [1.5] * 299], [None] * 500):
        with pytest.raises(CodecError):
            from_text(bad).to_numpy("INT32", [-1])
        assert TensorData(good.payload).form == "object"
        assert from_text([1.5] * 500).to_numpy("FP32", [500]).sum() == 750


def test_arrays_outlive_the_parser_and_do_not_share_memory() -> None:
    one, other = from_text([1.5] * 500).to_numpy("FP64", [500]), from_text([2.5] * 500).to_numpy("FP64", [500])
    assert one.sum() == 750
    assert other.sum() == 1250


def test_threads_have_parsers_of_their_own() -> None:
    results: dict[int, bool] = {}
    texts = {number: json.dumps([number + 0.5] * 3000).encode() for number in range(4)}

    def work(number: int) -> None:
        results[number] = all(
            TensorData.from_json(texts[number]).to_numpy("FP64", [3000]).sum() == 3000 * (number + 0.5)
            for _ in range(20)
        )

    threads = [threading.Thread(target=work, args=(number,)) for number in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(texts, True)


def test_a_large_text_does_not_leave_its_parser_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_data, "_KEPT_PARSER_BYTES", 1000)
    from_text([1.5] * 500).to_numpy("FP32", [500])
    assert not hasattr(json_data._local, "parser")
    from_text([1.5] * 150).to_numpy("FP32", [150])
    assert hasattr(json_data._local, "parser")


# -- shapes -----------------------------------------------------------------------------------------------------------


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


# -- raw and BYTES ----------------------------------------------------------------------------------------------------


def test_a_raw_payload_is_viewed_and_not_copied() -> None:
    buffer = np.zeros(16, np.uint8)  # As shared memory comes.
    found = TensorData.from_raw(buffer, "FP32", [4]).to_numpy("FP32", [2, 2])
    assert np.shares_memory(found, buffer)
    found[0, 0] = 1.5
    assert buffer.tobytes()[:4] == b"\0\0\xc0\x3f"


def test_a_read_only_payload_is_copied_unless_reading_is_enough() -> None:
    payload = np.arange(4, dtype="<f4").tobytes()
    data = TensorData.from_raw(payload, "FP32", [4])
    view = data.to_numpy("FP32", [4], writable=False)
    assert np.shares_memory(view, np.frombuffer(payload, np.uint8))
    found = data.to_numpy("FP32", [4])
    found[0] = 9
    assert payload[:4] == b"\0\0\0\0"


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
            with pytest.raises(CodecError, match=r"data\[0\]: 1 is no string|no BYTES tensor"):
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


# -- numbers between datatypes ----------------------------------------------------------------------------------------


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


# -- as a list --------------------------------------------------------------------------------------------------------


def test_it_is_a_list_to_who_reads_it() -> None:
    for data in (from_text([1, 2, 3]), TensorData([1, 2, 3]), TensorData(np.array([[1, 2, 3]])), TensorData((1, 2, 3))):
        assert len(data) == 3
        assert data[0] == 1
        assert data[-1] == 3
        assert data[:2] == [1, 2]
        assert [*data] == [1, 2, 3]
        assert data == [1, 2, 3]
        assert data == (1, 2, 3)
        assert data == TensorData([1, 2, 3])
        assert data != [1, 2]
        assert 2 in data
        assert data
        assert np.asarray(data).size == 3
        assert np.array(data, "f4").dtype == np.float32


def test_nested_json_is_nested_in_python_too() -> None:
    data = from_text([[1, 2], [3, 4]])
    assert data.root == [[1, 2], [3, 4]]
    assert data[1] == [3, 4]
    assert len(data) == 2


def test_reading_it_as_a_list_leaves_its_form_alone() -> None:
    data = from_text([1, 2])
    assert (data[0], len(data), data.tolist(), data == [1]) == (1, 2, [1, 2], False)
    assert data.form == "json"


def test_a_list_taken_from_root_is_the_tensor() -> None:
    data = from_text([1, 2])
    data.root[0] = 5
    data.root.append(6)
    assert bytes(data.to_json()) == b"[5,2,6]"
    assert data.to_numpy("INT8", [3]).tolist() == [5, 2, 6]


def test_changes_to_an_object_are_seen_by_every_later_conversion() -> None:
    data = TensorData([1, 2])
    assert data.to_numpy("INT8", [2]).tolist() == data.tolist() == [1, 2]
    data.root.append(3)
    assert data.to_numpy("INT8", [3]).tolist() == data.tolist() == [1, 2, 3]
    values = np.zeros(2)
    data = TensorData(values)
    assert [*data] == [0, 0]
    values[1] = 5
    assert [*data] == [data[0], data[1]] == [0, 5]


def test_root_may_be_set() -> None:
    data = from_text([1, 2])
    data.to_numpy("INT8", [2])
    data.root = [7]
    assert data.to_numpy("INT8", [1]).tolist() == [7]


@pytest.mark.parametrize("scalar", ["hello", 5, 1.5, True])
def test_a_bare_scalar_is_one_element(scalar: Any) -> None:
    for data in (from_text(scalar), TensorData(scalar)):
        assert data.root == scalar
        assert len(data) == 1
        assert [*data] == [scalar]
        assert data == scalar
        assert bytes(data.to_json()) == json.dumps(scalar).encode()
    datatype = BYTES if isinstance(scalar, str) else "FP64"
    assert from_text(scalar).to_numpy(datatype, [1]).tolist() == [scalar]


def test_a_bare_string_passes_for_a_string() -> None:
    for data in (from_text("10101"), TensorData("10101")):
        assert isinstance(data, str)
        assert isinstance(data, TensorData)
        assert data.encode() == b"10101"
        assert str(data) == "10101"
    for data in (from_text(["a"]), TensorData(["a"]), from_text(5), TensorData(None)):
        assert not isinstance(data, str)
        assert not hasattr(data, "encode")
    assert isinstance(TensorData(b"x"), bytes)


def test_null_is_no_element() -> None:
    data = from_text(None)
    assert data.root is None
    assert not data
    assert len(data) == 0
    assert bytes(data.to_json()) == b"null"


def test_nan_in_an_array_reads_as_none_so_that_equal_tensors_compare_equal() -> None:
    values = np.array([1.0, np.nan], np.float32)
    assert TensorData(values).root == TensorData(values)[:] == [1.0, None]
    assert TensorData(values)[1] is None
    assert TensorData(values) == TensorData(values.copy())
    assert TensorData(values) == values
    assert math.isnan(TensorData.from_raw(values.tobytes(), "FP32", [2])[1])


def test_conversions_to_numpy_and_python_happen_once() -> None:
    data = from_text([1.5, 2.5])
    assert np.shares_memory(data.to_numpy("FP32", [2]), data.to_numpy("FP32", [1, 2]))
    assert data.tolist() is data.tolist()


def test_other_sequences_and_scalars_become_plain() -> None:
    class Torch:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            return np.array([1.5, 2.5])

    assert TensorData(Torch()).to_numpy("FP32", [2]).tolist() == [1.5, 2.5]
    assert TensorData(range(3)) == [0, 1, 2]
    generator = TensorData(one for one in (1, 2))
    assert generator.to_numpy("INT8", [2]).tolist() == [1, 2]
    assert bytes(generator.to_json()) == b"[1,2]"
    assert TensorData(np.float32(0.5)).root == 0.5
    assert TensorData([np.int64(3), np.float64(4)]).to_numpy("INT8", [2]).tolist() == [3, 4]
    assert TensorData([np.array([1, 2]), np.array([3, 4])]).to_numpy("INT8", [4]).tolist() == [1, 2, 3, 4]
    assert TensorData(bytearray(b"x")).to_raw(BYTES) == b"\1\0\0\0x"


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(CodecError, match="cannot be written as JSON"):
        TensorData([object()]).to_json()
    assert bytes(TensorData([2**70]).to_json()) == b"[1180591620717411303424]"


def test_wrapping_it_again_shares_what_it_holds() -> None:
    data = from_text([1, 2])
    again = TensorData(root=data)
    assert again.payload is data.payload
    assert again == data


@pytest.mark.parametrize(
    "data",
    [
        TensorData.from_json(memoryview(b"[1, 2]")),
        TensorData.from_raw(memoryview(b"\1\0\2\0"), "INT16", [2]),
        TensorData.from_contents(memoryview(b"\x12\x02\x01\x02"), "INT16", [2]),
        TensorData([1, 2]),
        TensorData(np.array([1, 2])),
    ],
    ids=["json", "raw", "contents", "list", "array"],
)
def test_copies_and_pickles_are_equal_and_of_the_same_form(data: TensorData) -> None:
    for again in (copy.copy(data), copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert again == data
        assert again.form == data.form
        assert again.to_numpy("INT16", [2]).tolist() == [1, 2]


def test_a_deep_copy_shares_no_list() -> None:
    data = TensorData([1, 2])
    again = copy.deepcopy(data)
    again.root[0] = 9
    assert data == [1, 2]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (from_text([1, 2]), "TensorData([1, 2])"),
        (from_text(list(range(100))), f"TensorData({json.dumps(list(range(100)))[:60]}... 390 bytes of JSON)"),
        (TensorData.from_raw(b"\0" * 8, "FP32", [2]), "TensorData(<FP32 [2], 8 bytes, raw>)"),
        (TensorData(np.zeros((2, 5))), "TensorData(<float64 [2, 5]: 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, ...>)"),
        (TensorData(list(range(100))), "TensorData([0, 1, 2, 3, 4, 5, ... 100 values])"),
        (TensorData("hello"), "TensorData('hello')"),
    ],
)
def test_its_repr_is_short(data: TensorData, text: str) -> None:
    assert repr(data) == text


def test_it_is_unhashable_like_a_list() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(TensorData([1]))
