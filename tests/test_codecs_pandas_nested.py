"""Columns of nested data: each list is a row, as MLServer has it; flat data is a row a value, whatever its shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlserve.codecs import CodecError, PandasCodec, decode_inference_request
from mlserve.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput, TensorData
from mlserve.wire.v2json import decode_request


def _frame(data: Any, shape: list[int], datatype: str = "INT32", content_type: str | None = None) -> list[Any]:
    """The column on every way to it: a request as made and as sent, decoded with and without its inputs, a response."""
    parameters = Parameters(content_type=content_type) if content_type else None
    one = RequestInput(name="x", shape=shape, datatype=datatype, data=data, parameters=parameters)
    request = InferenceRequest(inputs=[one], parameters=Parameters(content_type="pd"))
    sent = decode_request(request.model_dump_json().encode())
    output = ResponseOutput(name="x", shape=shape, datatype=datatype, data=data, parameters=parameters)
    frames = [
        PandasCodec.decode_request(request),
        PandasCodec.decode_request(sent),
        decode_inference_request(decode_request(request.model_dump_json().encode())),
        PandasCodec.decode_response(InferenceResponse(model_name="m", outputs=[output])),
    ]
    found = [frame["x"].tolist() for frame in frames]
    assert all(one == found[0] for one in found), found
    return found[0]


@pytest.mark.parametrize(
    ("data", "shape", "rows"),
    [
        ([[1, 2], [3, 4]], [2, 2], [[1, 2], [3, 4]]),
        ([[1, 2, 3, 4]], [1, 4], [[1, 2, 3, 4]]),
        ([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], [2, 2, 2], [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]),
        ([[[1], [2]]], [1, 2, 1], [[[1], [2]]]),
        ([[1, 2], [3, 4]], [4], [[1, 2], [3, 4]]),
        ([[], []], [2, 0], [[], []]),
        ([[1], [2]], [2, 1], [1, 2]),  # MLServer: tuples of one
        ([[1]], [1, 1], [1]),
        ([[[1]], [[2]]], [2, 1, 1], [1, 2]),
        ([1, 2, 3, 4], [2, 2], [1, 2, 3, 4]),
        ([1, 2, 3, 4], [1, 4], [1, 2, 3, 4]),
        ([1, 2, 3, 4], [1, 2, 2], [1, 2, 3, 4]),
        ([], [0, 2], []),
    ],
    ids=str,
)
def test_rows_are_counted_as_mlserver_counts_them(data: Any, shape: list[int], rows: list[Any]) -> None:
    assert _frame(data, shape) == rows
    assert _frame(data, shape, "FP32") == rows

    def texts(value: Any) -> Any:
        return [texts(one) for one in value] if isinstance(value, list) else str(value)

    assert _frame(texts(data), shape, "BYTES") == texts(rows)
    assert _frame(texts(data), shape, "BYTES", "str") == texts(rows)
    assert _frame(texts(data), shape, "BYTES", "pd_json") == rows


def test_lists_of_json_texts_are_rows_whatever_the_texts_say() -> None:
    assert _frame([["[1]", "2"], ['{"a": [3]}', "null"]], [2, 2], "BYTES", "pd_json") == [[[1], 2], [{"a": [3]}, None]]
    assert _frame([["[1]", "[2]"]], [1, 2], "BYTES", "pd_json") == [[[1], [2]]]
    assert _frame([["[1]"], ["[2]"]], [2, 1], "BYTES", "pd_json") == [[1], [2]]


def test_binary_and_raw_data_are_flat() -> None:
    raw = np.arange(4, dtype="<i4")
    request = InferenceRequest(inputs=[RequestInput(name="x", shape=[2, 2], datatype="INT32", data=raw.reshape(2, 2))])
    assert PandasCodec.decode_request(request)["x"].tolist() == [0, 1, 2, 3]
    one = RequestInput(
        name="x", shape=[2, 2], datatype="INT32", data=TensorData.from_raw(raw.tobytes(), "INT32", [2, 2])
    )
    assert PandasCodec.decode_request(InferenceRequest(inputs=[one]))["x"].tolist() == [0, 1, 2, 3]


def test_content_type_np_counts_by_the_shape() -> None:
    for data in ([1, 2, 3, 4], [[1, 2], [3, 4]]):
        one = RequestInput(
            name="x", shape=[2, 2], datatype="INT32", data=data, parameters=Parameters(content_type="np")
        )
        frame = PandasCodec.decode_request(InferenceRequest(inputs=[one]))
        assert [row.tolist() for row in frame["x"]] == [[1, 2], [3, 4]]


def test_a_nested_column_goes_beside_a_flat_one_and_ragged_data_is_refused() -> None:
    pairs = RequestInput(name="x", shape=[2, 2], datatype="INT32", data=[[1, 2], [3, 4]])
    names = RequestInput(name="y", shape=[2], datatype="BYTES", data=["a", "b"])
    frame = PandasCodec.decode_request(InferenceRequest(inputs=[pairs, names]))
    assert frame.to_dict("list") == {"x": [[1, 2], [3, 4]], "y": ["a", "b"]}
    for datatype, data in (("INT32", [[1, 2], [3]]), ("BYTES", [["a", "b"], ["c"]])):
        ragged = RequestInput(name="x", shape=[3], datatype=datatype, data=data)
        with pytest.raises(CodecError, match="ragged"):
            PandasCodec.decode_request(InferenceRequest(inputs=[ragged]))


def test_what_was_decoded_survives_encoding_and_decoding() -> None:
    for data, datatype in (([[1, 2], [3, 4]], "INT32"), ([["a", "b"], ["c", "d"]], "BYTES")):
        one = RequestInput(name="x", shape=[2, 2], datatype=datatype, data=data)
        frame = PandasCodec.decode_request(InferenceRequest(inputs=[one]))
        for use_bytes in (True, False):
            again = PandasCodec.decode_request(PandasCodec.encode_request(frame, use_bytes=use_bytes))
            pd.testing.assert_frame_equal(again, frame)
            answer = PandasCodec.decode_response(PandasCodec.encode_response("m", frame, use_bytes=use_bytes))
            pd.testing.assert_frame_equal(answer, frame)
