"""TensorData as a list: what it is to who reads it, copies, pickles and words."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlserve.datatypes import BYTES, DTYPES, INT_RANGES
from mlserve.errors import CodecError
from mlserve.tensors import TensorData

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


def test_a_list_of_octets_is_bytes_to_who_asks_for_them() -> None:
    octets = np.array([137, 80, 78, 71], np.uint8)
    for data in (TensorData([137, 80, 78, 71]), TensorData(octets), TensorData.from_raw(octets, "UINT8", [4])):
        assert bytes(data) == b"\x89PNG"
    with pytest.raises(TypeError):
        bytes(TensorData(["a"]))


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


def test_conversions_for_reading_happen_once() -> None:
    data = from_text([1.5, 2.5])
    first, again = (data.to_numpy("FP32", shape, writable=False) for shape in ([2], [1, 2]))
    assert np.shares_memory(first, again)
    assert not np.shares_memory(first, data.to_numpy("FP32", [2]))
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
