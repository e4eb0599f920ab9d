"""Numbers from JSON text: the traps of the quick reader, and what both readers take or refuse."""

from __future__ import annotations

import json
import math
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlserve.datatypes import BYTES, DTYPES, INT_RANGES
from mlserve.errors import CodecError
from mlserve.tensors import TensorData
from mlserve.wire import json_data

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
