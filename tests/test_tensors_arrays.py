"""numpy and pandas on tensor data: what they make of the list, whatever form the values are held in."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pickle import dumps, loads
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve.codecs import NumpyCodec
from mlserve.datatypes import BYTES, DTYPES
from mlserve.merging import merge
from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, RequestInput
from mlserve.wire import json_data

Array = np.ndarray[Any, Any]

# How the bytes of a payload are held: as they came, and as shared memory has them.
HOLDERS: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "memoryview": memoryview,
    "array of bytes": lambda octets: np.frombuffer(octets, np.uint8),
}
holders = pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
NUMBERS: dict[str, list[Any]] = {
    "FP16": [0.5, -2.0],
    "FP32": [0.1, 3.0],
    "FP64": [0.1, 1e30],
    "BOOL": [True, False],
    "INT8": [-128, 127],
    "INT64": [-(2**63), 2**63 - 1],
    "UINT8": [200, 100],
    "UINT32": [2**32 - 1, 0],
    "UINT64": [2**63 - 1, 0],
}


def forms_of(values: list[Any], datatype: str, hold: Callable[[bytes], Any]) -> list[TensorData]:
    """The values as data in each form of bytes that can have them."""
    array = np.array(values, DTYPES[datatype])
    shape = [len(values)]
    made = [TensorData.from_raw(hold(array.tobytes()), datatype, shape)]
    if datatype != "FP16":
        made.append(TensorData.from_contents(hold(TensorData(array).to_contents(datatype)), datatype, shape))
    return made


def in_json(value: Any, hold: Callable[[bytes], Any] = bytes) -> TensorData:
    return TensorData.from_json(hold(json.dumps(value).encode()))


def assert_as_list(data: TensorData, **options: Any) -> None:
    """numpy makes the same of untouched data and of its list."""
    root = copy.copy(data).root
    for make in (np.array, np.asarray):
        found, wanted = make(copy.copy(data), **options), make(root, **options)
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_array_equal(found, wanted)


@holders
@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize("datatype", NUMBERS)
def test_numbers_of_the_wire_are_int64_and_float64_as_those_of_lists(
    datatype: str, count: int, hold: Callable[[bytes], Any]
) -> None:
    for data in forms_of((NUMBERS[datatype] * count)[:count], datatype, hold):
        assert_as_list(data)
        assert_as_list(data, dtype=np.float32)
        assert_as_list(data, dtype=object)


@holders
@pytest.mark.parametrize("values", [[2**63], [2**64 - 1, 2**63], [2**63, 1], [2**63 - 1, 5]])
def test_integers_beyond_int64_are_what_numpy_makes_of_them(values: list[int], hold: Callable[[bytes], Any]) -> None:
    for data in forms_of(values * 200, "UINT64", hold):
        assert_as_list(data)
    assert_as_list(in_json(values * 200, hold))


@holders
@pytest.mark.parametrize("times", [1, 300])
@pytest.mark.parametrize(
    "values",
    [
        [1, -2],
        [1.5, 2],
        [1e3, 2],
        [1, 2.5],
        [True, False],
        [True, 2],
        [None, 1.5],
        ["a", ""],
        [2**64, 1],
        [{"a": 1}, 1],
    ],
)
def test_json_is_what_numpy_makes_of_the_list(values: list[Any], times: int, hold: Callable[[bytes], Any]) -> None:
    assert_as_list(in_json(values * times, hold))
    assert_as_list(in_json([values] * times, hold))
    assert_as_list(in_json([[values]] * times, hold))


@given(
    st.lists(
        st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans(), max_size=40
    )
    | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=200)
    | st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=100)
)
@settings(deadline=None)
def test_any_list_of_numbers_is_what_numpy_makes_of_it(values: list[Any]) -> None:
    text = json.dumps(values).encode()
    assert_as_list(TensorData.from_json(text + b" " * 400))  # so long that no list is made of it, if it can be


def test_the_fast_ways_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of flat numbers are not made: at a million of them they take a hundred times as long."""
    monkeypatch.setattr(TensorData, "tolist", lambda self: pytest.fail("a list was made"))
    monkeypatch.setattr(json_data, "values_from_json", lambda text: pytest.fail("a list was made"))
    for values in ([1, 2], [1.5, 2.0]):
        assert np.array(in_json(values * 300)).tolist() == values * 300
    for datatype, numbers in NUMBERS.items():
        for data in forms_of(numbers, datatype, bytes):
            np.array(data)
            np.asarray(data, dtype=np.float64)


@pytest.mark.parametrize(
    ("datatype", "values", "dtype"),
    [
        ("INT64", [1, 300], "u1"),
        ("INT64", [-1, 3], "u8"),
        ("INT64", [-1, 3], "i1"),
        ("FP64", [1.5, 255.9], "u1"),
        ("FP64", [1.5, 256.0], "u1"),
        ("FP64", [float("nan"), 1.0], "i8"),
        ("FP64", [2.0**63, 1.0], "i8"),
        ("FP64", [1e300, 1.0], "?"),
        ("BOOL", [True, False], "i1"),
        ("INT64", [1, 22], "U5"),
        ("FP32", [1.5, 22.0], "S5"),
    ],
)
@pytest.mark.filterwarnings("ignore:NumPy will stop allowing conversion of out-of-bound:DeprecationWarning")
def test_a_type_that_is_asked_for_is_taken_or_refused_as_for_lists(
    datatype: str, values: list[Any], dtype: str
) -> None:
    for data in forms_of(values, datatype, bytes):
        try:
            np.array(values, dtype=dtype)
        except (ValueError, OverflowError) as error:
            with pytest.raises(type(error)):
                np.asarray(data, dtype=dtype)
        else:
            assert_as_list(data, dtype=dtype)


@pytest.mark.parametrize("ragged", [[[1, 2], [3]], [1, [2]]])
def test_ragged_lists_are_refused_as_numpy_refuses_them(ragged: list[Any]) -> None:
    for data in (in_json(ragged), in_json(ragged * 300)):
        with pytest.raises(ValueError, match="inhomogeneous"):
            np.array(data)


@pytest.mark.parametrize("datatype", ["FP64", "INT64", "BOOL"])
def test_an_array_of_data_is_its_callers_own(datatype: str) -> None:
    """Also where the wire has the very type of the list, so that a view would do."""
    values = NUMBERS[datatype]
    for data in (*forms_of(values, datatype, bytes), *forms_of(values, datatype, bytearray), in_json(values * 200)):
        array = np.asarray(data)
        before = data.tolist()
        array[:] = 1
        assert data.tolist() == before
        assert np.asarray(data).tolist() == before


def test_no_array_is_had_without_a_copy() -> None:
    """numpy 2 hands `copy=False` on; numpy 1 does not."""
    with pytest.raises(ValueError, match="copy=False"):
        forms_of([1.5], "FP64", bytes)[0].__array__(copy=False)
    array = np.arange(3)
    assert TensorData(array).__array__(copy=False) is array


def test_texts_are_what_the_list_has() -> None:
    texts = [b"a", b"bcd"]
    raw = TensorData.from_raw(TensorData(texts).to_raw(BYTES), BYTES, [2])
    contents = TensorData.from_contents(TensorData(texts).to_contents(BYTES), BYTES, [2])
    for data in (raw, contents, TensorData(texts)):
        assert_as_list(data)
        assert np.array(data).tolist() == texts
    assert np.array(in_json(["a", "bcd"])).tolist() == ["a", "bcd"]


def test_arithmetics_with_arrays_stay_arrays() -> None:
    for data in (*forms_of([1.5, 2.0], "FP32", bytes), in_json([1.5, 2.0]), in_json([1.5, 2.0] * 200)):
        ones = np.ones(len(data))
        assert isinstance(data - ones, np.ndarray)
        np.testing.assert_array_equal(data - ones, np.array(data.root) - 1)
        np.testing.assert_array_equal(ones * data, np.array(data.root))
        np.testing.assert_array_equal(np.stack([data, data]), [data.root] * 2)


def test_data_may_be_encoded_and_stand_in_lists() -> None:
    for data in (*forms_of([1.5, 2.0], "FP32", bytes), in_json([1.5, 2.0]), in_json([1.5] * 200), TensorData([1, 2])):
        output = NumpyCodec.encode_output("y", data)
        assert output.shape == [len(data), 1]
        assert output.datatype == ("INT64" if data[0] == 1 else "FP64")
        assert json.loads(bytes(TensorData([data]).to_json())) == [data.root]


@pytest.mark.parametrize("datatype", NUMBERS)
@pytest.mark.parametrize("through", [lambda data: data, copy.copy, copy.deepcopy, lambda data: loads(dumps(data))])
def test_what_a_codec_encodes_reads_as_the_list_that_it_stands_for(datatype: str, through: Any) -> None:
    """As it will at the other end of the wire."""
    array = np.array([NUMBERS[datatype]] * 2, DTYPES[datatype])
    for made in (NumpyCodec.encode_output("y", array), NumpyCodec.encode_input("x", array)):
        assert_as_list(through(made.data))
        decode: Any = NumpyCodec.decode_output if made.name == "y" else NumpyCodec.decode_input
        assert decode(made).dtype == array.dtype
    wrapping = NumpyCodec.encode_output("y", np.array([200, 100], np.uint8))
    assert (np.array(wrapping.data) * 2).tolist() == [400, 200]
    assert np.array(NumpyCodec.encode_output("y", np.array([np.nan, 0.5], np.float32)).data).dtype == np.float64


def test_what_is_changed_in_the_list_of_encoded_data_is_sent() -> None:
    made = NumpyCodec.encode_output("y", np.array([5.0, 499.5]))
    values = made.data.root
    values[1] = 10.0
    values.append(7.0)
    assert made.data.root is values
    assert bytes(made.data.to_json()) == b"[5.0,10.0,7.0]"
    assert made.data.to_numpy("FP64", [3]).tolist() == [5.0, 10.0, 7.0]


def test_an_array_that_was_put_in_stays_what_it_is() -> None:
    for array in (np.array([[1, 2]], "i1"), np.array([[0.5]], "f4"), np.array([["a"]]), np.array(["a", None])):
        assert np.asarray(TensorData(array)) is array


@pytest.mark.parametrize("times", [1, 300])
@pytest.mark.parametrize(
    "values", [[1, 2], [1.5, None], ["a", None], [[1, 2], [3, 4]], [[1], [2, 3]], [{"a": 1}], [True, False]]
)
def test_pandas_reads_data_as_the_list(values: list[Any], times: int) -> None:
    data, root = in_json(values * times), values * times
    pd.testing.assert_series_equal(pd.Series(data), pd.Series(root))
    pd.testing.assert_frame_equal(pd.DataFrame({"a": in_json(root)}), pd.DataFrame({"a": root}))
    if len({np.size(one) for one in values}) == 1:
        pd.testing.assert_frame_equal(pd.DataFrame(in_json(root)), pd.DataFrame(root))


@pytest.mark.parametrize("datatype", [*NUMBERS, BYTES])
def test_pandas_reads_the_wires_values_as_the_list(datatype: str) -> None:
    texts = [b"a", b"bc"]
    forms = (
        forms_of(NUMBERS[datatype], datatype, bytes)
        if datatype != BYTES
        else [TensorData.from_raw(TensorData(texts).to_raw(BYTES), BYTES, [2])]
    )
    for data in forms:
        root = copy.copy(data).root
        pd.testing.assert_series_equal(pd.Series(data), pd.Series(root))
        pd.testing.assert_frame_equal(pd.DataFrame({"a": data}), pd.DataFrame({"a": root}))


@pytest.mark.parametrize("times", [1, 300])
@pytest.mark.parametrize(
    "members",
    [
        [[1, 2], [3]],
        [[1, 2], [1.5]],
        [[0.5], [1.5, 2.5]],
        [[[1, 2]], [[3, 4]]],
        [[[1, 2]], [3, 4]],
    ],
)
def test_the_data_of_a_batch_is_that_of_its_members_one_after_the_other(members: list[Any], times: int) -> None:
    width = 2 if any(isinstance(one[0], list) for one in members) else 1
    requests = []
    for values in members:
        data = in_json(values * times)
        shape = [np.size(values) * times // width, width]
        requests.append(InferenceRequest(inputs=[RequestInput(name="x", shape=shape, datatype="FP32", data=data)]))
    joined = merge(requests).inputs[0].data
    flat = len({isinstance(one[0], list) for one in members}) > 1
    lists = [np.ravel(one).tolist() * times if flat else one * times for one in members]
    assert_as_list(joined)
    assert np.array(joined).tolist() == [one for values in lists for one in values]


@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_the_data_of_a_batch_from_grpc_is_of_the_lists_types(datatype: str) -> None:
    requests = []
    for data in forms_of(NUMBERS[datatype], datatype, HOLDERS["array of bytes"]):
        requests.append(InferenceRequest(inputs=[RequestInput(name="x", shape=[2], datatype=datatype, data=data)]))
    joined = merge(requests).inputs[0].data
    found, wanted = np.array(joined), np.array(np.array(NUMBERS[datatype] * 2, DTYPES[datatype]).tolist())
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
