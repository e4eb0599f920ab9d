"""Whatever a model gives becomes outputs: names, datatypes and content types of each kind of prediction."""

from __future__ import annotations

import datetime
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from mlflow.types import ColSpec, Schema
from pydantic import BaseModel

from mlserve import ModelSettings
from mlserve.codecs import NumpyCodec, PandasCodec
from mlserve.errors import CodecError, InferenceError, ModelError
from mlserve.types import InferenceResponse, MetadataTensor, RequestOutput
from mlserve.written_out import WrittenOut
from mlserve_mlflow import TensorDictCodec
from mlserve_mlflow.outputs import encode_prediction
from mlserve_mlflow.signature import outputs_of

DAY = datetime.datetime(2026, 1, 2)
LIMIT = WrittenOut(ModelSettings(name="m", implementation="mlflow", parameters={"extra": {"max_answer_numbers": 12}}))


class Reply(BaseModel):
    role: str
    count: int


def outline(prediction: Any, asked: Any = None, declared: Any = ()) -> tuple[str, list[tuple[Any, ...]]]:
    content_type, outputs = encode_prediction(prediction, asked, declared, LIMIT)
    plain = [json.loads(one.model_dump_json()) for one in outputs]
    return content_type, [
        (one["name"], one["datatype"], one["shape"], one.get("parameters", {}).get("content_type"), one["data"])
        for one in plain
    ]


ONE = "output-1"


@pytest.mark.parametrize(
    ("prediction", "content_type", "outputs"),
    [
        (np.array([1.0, 2.0]), "np", [(ONE, "FP64", [2, 1], "np", [1.0, 2.0])]),
        (np.ones((2, 3), np.float32), "np", [(ONE, "FP32", [2, 3], "np", [1.0] * 6)]),
        (np.array(["a", "b"]), "np", [(ONE, "BYTES", [2, 1], "np", ["a", "b"])]),
        (np.array([{"a": 1}], object), "np", [(ONE, "BYTES", [1, 1], "pd_json", ['{"a":1}'])]),
        (np.array([DAY], "M8[s]"), "np", [(ONE, "BYTES", [1, 1], "datetime", [DAY.isoformat()])]),
        (np.float32(0.5), "np", [(ONE, "FP32", [1, 1], "np", [0.5])]),
        (1.5, "np", [(ONE, "FP64", [1, 1], "np", [1.5])]),
        (True, "np", [(ONE, "BOOL", [1, 1], "np", [True])]),
        ("whole", "str", [(ONE, "BYTES", [1, 1], "str", ["whole"])]),
        (["a", "b"], "str", [(ONE, "BYTES", [2, 1], "str", ["a", "b"])]),
        ([1, 2], "np", [(ONE, "INT64", [2, 1], "np", [1, 2])]),
        ([[1.0, 2.0], [3.0, 4.0]], "np", [(ONE, "FP64", [2, 2], "np", [1.0, 2.0, 3.0, 4.0])]),
        ([np.float32(1), np.float32(2)], "np", [(ONE, "FP32", [2, 1], "np", [1.0, 2.0])]),
        ((np.ones(2), np.zeros(2)), "np", [(ONE, "FP64", [2, 2], "np", [1.0, 1.0, 0.0, 0.0])]),
        ([[1], [2, 3]], "np", [(ONE, "BYTES", [2, 1], "pd_json", ["[1]", "[2,3]"])]),
        (["a", 1], "np", [(ONE, "BYTES", [2, 1], "pd_json", ['"a"', "1"])]),
        (["a", None], "np", [(ONE, "BYTES", [2, 1], "str", ["a", None])]),
        ([b"ab", b"\xff"], "np", [(ONE, "BYTES", [2, 1], "base64", ["YWI=", "/w=="])]),
        ([b"ab", None, "c"], "np", [(ONE, "BYTES", [3, 1], "base64", ["YWI=", None, "Yw=="])]),
        (b"ab", "np", [(ONE, "BYTES", [1, 1], "base64", ["YWI="])]),
        (np.array([[b"ab"], [b"c"]], object), "np", [(ONE, "BYTES", [2, 1], "base64", ["YWI=", "Yw=="])]),
        (np.array([b"ab"]), "np", [(ONE, "BYTES", [1, 1], "np", ["ab"])]),
        (pd.DataFrame({"r": [b"ab", np.nan]}), "pd", [("r", "BYTES", [2, 1], "base64", ["YWI=", None])]),
        ({"r": [b"ab"]}, "dict", [("r", "BYTES", [1, 1], "base64", ["YWI="])]),
        (scipy.sparse.csr_matrix([[1.0, 0.0]]), "np", [(ONE, "FP64", [1, 2], "np", [1.0, 0.0])]),
        ({"s": scipy.sparse.coo_array([0, 2])}, "dict", [("s", "INT64", [2, 1], "np", [0, 2])]),
        ([DAY], "np", [(ONE, "BYTES", [1, 1], "datetime", [DAY.isoformat()])]),
        (pd.Series([1, 2], name="s"), "pd", [("s", "INT64", [2, 1], None, [1, 2])]),
        (pd.Series(["a"]), "pd", [(ONE, "BYTES", [1, 1], "str", ["a"])]),
        (
            pd.DataFrame({"p": [1.0], 0: ["x"], "d": pd.to_datetime([DAY])}),
            "pd",
            [
                ("p", "FP64", [1, 1], None, [1.0]),
                ("0", "BYTES", [1, 1], "str", ["x"]),
                ("d", "BYTES", [1, 1], "datetime", [DAY.isoformat()]),
            ],
        ),
        (
            [{"u": 1, "v": "a"}, {"u": 2, "v": "b"}],
            "pd",
            [("u", "INT64", [2, 1], None, [1, 2]), ("v", "BYTES", [2, 1], "str", ["a", "b"])],
        ),
        (
            {"u": np.ones((2, 2)), "v": ["a"], "w": 3, "x": {"deep": [1]}},
            "dict",
            [
                ("u", "FP64", [2, 2], "np", [1.0] * 4),
                ("v", "BYTES", [1, 1], "str", ["a"]),
                ("w", "INT64", [1, 1], "np", [3]),
                ("x", "BYTES", [1, 1], "pd_json", ['{"deep":[1]}']),
            ],
        ),
        (
            Reply(role="r", count=1),
            "dict",
            [("role", "BYTES", [1, 1], "str", ["r"]), ("count", "INT64", [1, 1], "np", [1])],
        ),
        (
            [Reply(role="r", count=1)],
            "pd",
            [("role", "BYTES", [1, 1], "str", ["r"]), ("count", "INT64", [1, 1], None, [1])],
        ),
    ],
    ids=lambda one: f"{type(one).__name__}" if not isinstance(one, str) else one[:8],
)
def test_every_kind_of_prediction(prediction: Any, content_type: str, outputs: Any) -> None:
    assert outline(prediction) == (content_type, outputs)


def test_no_rows_are_no_trouble() -> None:
    assert outline([])[1][0][2] == [0, 1]
    assert outline(np.zeros((0, 3)))[1][0][2] == [0, 3]
    assert outline(pd.DataFrame({"a": []}))[1][0][:3] == ("a", "FP64", [0, 1])


def test_what_cannot_travel_is_the_models_fault() -> None:
    with pytest.raises(ModelError, match="gave None"):
        encode_prediction(None, None, (), LIMIT)
    for odd in (np.array([1j]), [object()], {"a": object()}):
        with pytest.raises(CodecError) as caught:
            encode_prediction(odd, None, (), LIMIT)
        assert caught.value.http_status == 500


def test_what_the_signature_calls_bytes_is_base64_whatever_the_model_gives() -> None:
    declared = outputs_of(Schema([ColSpec("binary", "raw")]), ())
    wanted = [("raw", "BYTES", [2, 1], "base64", ["YWI=", None])]
    for asked in (None, [RequestOutput(name="raw")]):
        for column in ([b"ab", None], ["ab", None]):
            assert outline(pd.DataFrame({"raw": column}), asked, declared)[1] == wanted
    assert outline(pd.DataFrame({"raw": [None]}), None, declared)[1] == [("raw", "BYTES", [1, 1], "base64", [None])]
    unnamed = outputs_of(Schema([ColSpec("binary")]), ())
    assert outline(np.array([b"ab"]), None, unnamed)[1] == [(ONE, "BYTES", [1, 1], "base64", ["YWI="])]
    assert outline(["ab"], [RequestOutput(name="raw")], declared)[1] == [("raw", "BYTES", [1, 1], "base64", ["YWI="])]
    asked = [RequestOutput(name="raw", parameters={"content_type": "str"})]
    assert outline(pd.DataFrame({"raw": ["ab"]}), asked, declared)[1] == [("raw", "BYTES", [1, 1], "str", ["ab"])]


def test_a_sparse_answer_that_would_be_too_large_written_out_is_refused() -> None:
    parts = {"wide": scipy.sparse.csr_matrix((2, 7)), "small": scipy.sparse.csr_matrix((2, 2))}
    with pytest.raises(InferenceError, match="'wide' is sparse, and would be 2 rows of 7 numbers each"):
        outline(parts)
    assert [one[0] for one in outline(parts, [RequestOutput(name="small")])[1]] == ["small"]


def test_outputs_asked_for_come_in_that_order() -> None:
    frame = pd.DataFrame({"a": [1], "b": ["x"], "c": [2.0]})
    _, outputs = outline(frame, [RequestOutput(name="c"), RequestOutput(name="a")])
    assert [one[0] for one in outputs] == ["c", "a"]
    with pytest.raises(InferenceError, match="no output 'd'; it gives a, b, c"):
        outline(frame, [RequestOutput(name="d")])
    with pytest.raises(InferenceError, match="output 'a' is asked for 3 times, 2 times at most can be"):
        outline(frame, [RequestOutput(name="a")] * 3)


def test_a_lone_output_answers_to_its_declared_name() -> None:
    declared = [MetadataTensor(name="quality", datatype="FP64", shape=[-1, 1])]
    asked = [RequestOutput(name="quality")]
    assert outline(np.array([1.0]), asked, declared)[1][0][0] == "quality"
    named = {"quality": np.array([1.0])}
    assert outline(named, [RequestOutput(name=ONE)], declared)[1][0][0] == ONE
    with pytest.raises(InferenceError, match="it gives output-1"):
        outline(np.array([1.0]), asked)


def test_the_content_type_asked_for_is_used() -> None:
    asked = [RequestOutput(name=ONE, parameters={"content_type": "str"})]
    assert outline(np.array(["a"]), asked)[1] == [(ONE, "BYTES", [1, 1], "str", ["a"])]
    asked = [RequestOutput(name="a", parameters={"content_type": "np"})]
    assert outline(pd.DataFrame({"a": [1.0]}), asked)[1] == [("a", "FP64", [1, 1], "np", [1.0])]
    with pytest.raises(CodecError, match="there is no content type 'nope'"):
        outline(np.array(["a"]), [RequestOutput(name=ONE, parameters={"content_type": "nope"})])


def test_an_answer_decodes_to_what_the_model_gave() -> None:
    frame = pd.DataFrame({"p": [1.5, 2.5], "q": ["x", "y"]})
    for prediction, decode in (
        (frame, PandasCodec.decode_response),
        ({"u": np.ones((2, 2)), "v": np.array([[1], [2]])}, TensorDictCodec.decode_response),
        (np.arange(6).reshape(2, 3), lambda response: NumpyCodec.decode_output(response.outputs[0])),
    ):
        _, outputs = encode_prediction(prediction, None, (), LIMIT)
        sent = InferenceResponse(model_name="m", outputs=outputs).model_dump_json()
        decoded: Any = decode(InferenceResponse.model_validate_json(sent))
        if isinstance(prediction, pd.DataFrame):
            pd.testing.assert_frame_equal(decoded, prediction)
        elif isinstance(prediction, dict):
            assert all(np.array_equal(decoded[name], value) for name, value in prediction.items())
        else:
            assert np.array_equal(decoded, prediction)


def test_the_dict_codec_is_found_and_keeps_to_names() -> None:
    from mlserve.codecs import find_request_codec
    from mlserve.types import InferenceRequest

    assert find_request_codec("dict") is TensorDictCodec
    assert find_request_codec(payload={"a": np.ones(2)}) is TensorDictCodec
    assert find_request_codec(type_hint=dict[str, np.ndarray]) is TensorDictCodec
    one = TensorDictCodec.encode_request({"a": np.ones(2)}).inputs[0]
    with pytest.raises(CodecError, match="two are called 'a'"):
        TensorDictCodec.decode_request(InferenceRequest(inputs=[one, one]))
