"""decode_args: arguments and results by type hints, for plain, async and streaming methods."""

# ruff: noqa: UP006, UP035, UP045
# The spellings of `typing` are what is tested.
# mypy: disable-error-code="arg-type, assignment, union-attr"
# The types take plain lists and dicts where they declare TensorData and Parameters, and tests make use of that.

from __future__ import annotations

import datetime
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Annotated, Any, List, Optional, Tuple, Union

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from mlserve.codecs import Base64Codec, CodecError, NumpyCodec, PandasCodec, StringCodec, decode_args
from mlserve.codecs.hints import read_hint
from mlserve.errors import InvalidRequest, ModelError
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput

pytestmark = pytest.mark.anyio


def tensor(name: str, data: Any, datatype: str = "FP64", content_type: str | None = None) -> RequestInput:
    parameters = {"content_type": content_type} if content_type else None
    return RequestInput(name=name, shape=[len(data)], datatype=datatype, data=data, parameters=parameters)


def request(*inputs: RequestInput, **parameters: Any) -> InferenceRequest:
    return InferenceRequest(id="r", inputs=list(inputs), parameters=parameters or None)


def model(predict: Any, **settings: Any) -> Any:
    """A model with this method as its predict."""
    return type("Model", (MLModel,), {"predict": decode_args(predict)})(ModelSettings(name="m", **settings))


def given(predict: Any, *inputs: RequestInput, **parameters: Any) -> Any:
    """What the method's arguments become for these inputs."""
    seen: dict[str, Any] = {}

    def keep(self: Any, *args: Any, **values: Any) -> InferenceResponse:
        assert not args
        seen.update(values)
        return InferenceResponse(model_name="m", outputs=[])

    keep.__signature__ = __import__("inspect").signature(predict)  # type: ignore[attr-defined]
    keep.__annotations__ = predict.__annotations__
    model(keep).predict(request(*inputs, **parameters))
    return seen


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "data", "datatype", "wanted"),
    [
        (List[str], ["a", "é"], "BYTES", ["a", "é"]),
        (list[str], ["a"], "BYTES", ["a"]),
        (List[bytes], ["YQ=="], "BYTES", [b"a"]),
        (List[datetime.datetime], ["2024-02-29"], "BYTES", [datetime.datetime(2024, 2, 29)]),
        (Optional[List[str]], ["a"], "BYTES", ["a"]),
        (Annotated[Any, Base64Codec], ["YQ=="], "BYTES", [b"a"]),
        (Annotated[Any, "a remark", StringCodec()], ["YQ=="], "BYTES", ["YQ=="]),
        (Annotated[List[str], "a remark"], ["YQ=="], "BYTES", ["YQ=="]),
        (StringCodec, ["a"], "BYTES", ["a"]),
        (Any, ["a"], "BYTES", ["a"]),
        (list, [1.5], "FP64", [1.5]),
    ],
)
def test_a_hint_says_how_its_input_is_decoded(hint: Any, data: Any, datatype: str, wanted: Any) -> None:
    def predict(self: Any, x: Any) -> Any: ...

    predict.__annotations__["x"] = hint
    assert given(predict, tensor("x", data, datatype)) == {"x": wanted}


@pytest.mark.parametrize(
    "hint",
    [np.ndarray, npt.NDArray[np.float32], Union[np.ndarray, List[str]], np.ndarray | None, Annotated[Any, NumpyCodec]],
)
def test_arrays_are_known_by_every_way_to_write_them(hint: Any) -> None:
    def predict(self: Any, x: Any) -> Any: ...

    predict.__annotations__["x"] = hint
    decoded = given(predict, tensor("x", [1, 2], "INT32"))["x"]
    assert decoded.dtype == np.int32
    assert decoded.tolist() == [1, 2]


def test_hints_as_text_are_resolved() -> None:
    """This module has `from __future__ import annotations`: all of its hints are text."""

    def predict(self: Any, x: np.ndarray, words: Optional[List[str]] = None) -> np.ndarray:
        return x

    assert isinstance(predict.__annotations__["x"], str)
    assert list(given(predict, tensor("x", [1.0]))) == ["x"]


def test_an_argument_without_a_hint_goes_by_content_type_and_metadata() -> None:
    class Bare(MLModel):
        @decode_args
        def predict(self, a, b, c):  # type: ignore[no-untyped-def]  # the absence of hints is what is tested
            assert (a, b, c) == ([b"a"], ["b"], [1.5])
            return np.array([1])

    declared = [{"name": "b", "datatype": "BYTES", "shape": [-1], "parameters": {"content_type": "str"}}]
    bare = Bare(ModelSettings(name="m", inputs=declared))
    bare.predict(request(tensor("a", ["YQ=="], "BYTES", "base64"), tensor("b", [b"b"], "BYTES"), tensor("c", [1.5])))


def test_an_absent_optional_argument_keeps_its_default_or_is_none() -> None:
    def predict(self: Any, a: np.ndarray, b: Optional[np.ndarray], c: List[str] = ["d"]) -> Any: ...  # noqa: B006

    assert given(predict, tensor("a", [1.0])) == {"a": np.array([1.0]), "b": None}


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], "model 'm' needs input 'left'; the request has none"),
        ([tensor("right", [1.0])], "model 'm' needs input 'left'; the request has 'right'"),
        ([tensor("left", [1.0]), tensor("y", [1.0])], "takes inputs 'left', 'right'; the request has input 'y' beside"),
        ([tensor("y", [1.0])], "model 'm' needs input 'left'; the request has 'y'"),
        ([tensor("left", [1.0]), tensor("left", [1.0])], "input 'left': a second input of this name"),
        ([tensor("left", ["a"], "FP64")], "input 'left': data"),
    ],
)
def test_an_input_that_is_missing_surplus_or_wrong_is_named_to_the_client(inputs: Any, words: str) -> None:
    def predict(self: Any, left: np.ndarray, right: Optional[np.ndarray] = None) -> Any: ...

    with pytest.raises(InvalidRequest) as caught:
        given(predict, *inputs)
    assert words in str(caught.value)
    assert caught.value.http_status == 400


@pytest.mark.parametrize(
    ("data", "datatype", "content_type", "dtype"),
    [
        (["hello", "hi"], "BYTES", "str", "<U5"),
        ([b"hello", b"hi"], "BYTES", "str", "|S5"),
        (["YQ==", "Yg=="], "BYTES", "base64", "<U4"),
        (["2024-02-29", "2024-03-01"], "BYTES", "datetime", "<U10"),
        ([1, 2], "INT32", "str", "<i4"),
        ([1, 2], "INT32", "unknown", "<i4"),
    ],
)
def test_an_array_holds_what_the_wire_has_whatever_the_content_type(
    data: list[Any], datatype: str, content_type: str, dtype: str
) -> None:
    """As MLServer's does: the hint names the codec. Text for an array arrives as text."""

    def predict(self: Any, x: np.ndarray) -> Any: ...

    array = given(predict, tensor("x", data, datatype, content_type))["x"]
    assert (array.dtype, array.tolist()) == (np.dtype(dtype), data)


def test_arguments_may_take_all_inputs_that_are_left() -> None:
    def predict(self: Any, a: np.ndarray, **rest: np.ndarray) -> Any: ...

    seen = given(predict, tensor("b", [2.0]), tensor("a", [1.0]), tensor("c", [3.0]))
    assert {name: one.tolist() for name, one in seen.items()} == {"a": [1.0], "b": [2.0], "c": [3.0]}


def test_a_frame_takes_the_inputs_that_no_other_argument_names() -> None:
    def predict(self: Any, rows: pd.DataFrame, weights: np.ndarray) -> Any: ...

    seen = given(predict, tensor("age", [20.0]), tensor("weights", [0.5]), tensor("city", ["Oslo"], "BYTES", "str"))
    assert list(seen["rows"].columns) == ["age", "city"]
    assert seen["weights"].tolist() == [0.5]


def test_the_columns_of_a_frame_follow_the_models_metadata() -> None:
    class Dates(MLModel):
        @decode_args
        def predict(self, rows: pd.DataFrame) -> Any:
            assert rows["day"].dtype.kind == "M"
            return rows

    declared = [{"name": "day", "datatype": "BYTES", "shape": [-1], "parameters": {"content_type": "datetime"}}]
    response = Dates(ModelSettings(name="m", inputs=declared)).predict(request(tensor("day", ["2024-02-29"], "BYTES")))
    assert response.outputs[0].parameters.content_type == "datetime"


def test_the_protocols_own_types_arrive_as_they_are() -> None:
    def predict(self: Any, x: RequestInput, whole: InferenceRequest) -> Any: ...

    one = tensor("x", [1.0])
    seen = given(predict, one, tensor("y", [1.0]))
    assert seen["x"] is one
    assert [each.name for each in seen["whole"].inputs] == ["x", "y"]


def test_the_hint_wins_over_a_content_type_that_reads_the_same_data() -> None:
    def predict(self: Any, x: List[str]) -> Any: ...

    assert given(predict, tensor("x", ["a"], "BYTES", "np")) == {"x": ["a"]}


@pytest.mark.parametrize("hint", [dict, List[int], int, "Unheard"])
def test_a_hint_that_nothing_handles_is_told_at_the_first_call_as_the_models_fault(hint: Any) -> None:
    def predict(self: Any, x: Any) -> Any: ...

    predict.__annotations__["x"] = hint
    with pytest.raises(ModelError, match=r"signature of .*predict cannot be used") as caught:
        model(predict).predict(request(tensor("x", [1.0])))
    assert caught.value.http_status == 500


def test_a_hint_may_name_what_exists_only_later() -> None:
    names: dict[str, Any] = {"decode_args": decode_args}
    exec("def predict(self, x: 'Later') -> 'Later':\n    return x", names)
    late = model(names["predict"])
    names["Later"] = List[str]
    assert late.predict(request(tensor("x", ["a"], "BYTES"))).outputs[0].data == [b"a"]


def test_hints_are_not_read_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(self: Any, x: np.ndarray) -> np.ndarray:
        return x

    ready = model(predict)
    monkeypatch.setattr("mlserve.codecs.decorator.get_type_hints", None)
    monkeypatch.setattr("mlserve.codecs.decorator.inspect", None)
    assert ready.predict(request(tensor("x", [1.0]))).outputs[0].shape == [1, 1]


# -- results ----------------------------------------------------------------------------------------------------------


def outputs(predict: Any) -> list[tuple[str, Any]]:
    answer = model(predict).predict(request())
    assert isinstance(answer, InferenceResponse)
    return [(one.name, one.parameters.content_type if one.parameters else None) for one in answer.outputs]


def test_a_single_result_is_output_0_by_its_hint_or_its_value() -> None:
    def hinted(self: Any) -> List[str]:
        return np.array(["a"])  # type: ignore[return-value]  # text all the same

    def bare(self):  # type: ignore[no-untyped-def]  # the absence of hints is what is tested
        return [b"a"]

    assert outputs(hinted) == [("output-0", "str")]
    assert outputs(bare) == [("output-0", "base64")]


def test_a_tuple_is_one_output_for_each_part() -> None:
    def hinted(self: Any) -> Tuple[np.ndarray, List[str], Optional[np.ndarray]]:
        return np.array([1]), ["a"], None

    def bare(self: Any) -> Any:
        return np.array([1]), ["a"]

    def any_number(self: Any) -> tuple[Any, ...]:
        return ["a"], ["b"], ["c"]

    assert outputs(hinted) == outputs(bare) == [("output-0", "np"), ("output-1", "str")]
    assert [name for name, _ in outputs(any_number)] == ["output-0", "output-1", "output-2"]


def test_a_frame_is_an_output_for_each_column() -> None:
    def predict(self: Any) -> pd.DataFrame:
        return pd.DataFrame({"n": [1], "s": ["x"]})

    assert outputs(predict) == [("n", None), ("s", "str")]


def test_results_may_name_a_codec() -> None:
    def predict(self: Any) -> Annotated[Any, Base64Codec]:
        return [b"a"]

    def frame(self: Any) -> PandasCodec:
        return pd.DataFrame({"n": [1]})  # type: ignore[no-any-return]  # the codec is named in place of the type

    assert outputs(predict) == [("output-0", "base64")]
    assert outputs(frame) == [("n", None)]


def test_what_is_a_response_or_output_already_passes() -> None:
    def whole(self: Any) -> InferenceResponse:
        return InferenceResponse(model_name="other", outputs=[])

    def part(self: Any) -> Any:
        return ResponseOutput(name="own", shape=[1], datatype="BOOL", data=[True]), np.array([1])

    assert model(whole).predict(request()).model_name == "other"
    assert outputs(part) == [("own", None), ("output-1", "np")]


@pytest.mark.parametrize(
    ("hint", "value", "words"),
    [
        (np.ndarray, [1, 2], "content type 'np' takes numpy arrays, got list"),
        (List[str], [1], "content type 'str' takes a list of text, got int at 0"),
        (Any, {"a": 1}, "gave a value that no codec takes: dict"),
        (Tuple[np.ndarray, np.ndarray], (np.array([1]),) * 3, "gave 3 outputs, its signature says 2"),
        (Tuple[np.ndarray], [np.array([1])], "content type 'np' takes numpy arrays, got list"),
        (np.ndarray, (np.array([1]),) * 2, "content type 'np' takes numpy arrays, got tuple"),
    ],
)
def test_a_result_that_cannot_be_encoded_is_the_models_fault(hint: Any, value: Any, words: str) -> None:
    def predict(self: Any) -> Any:
        return value

    predict.__annotations__["return"] = hint
    with pytest.raises((CodecError, ModelError), match=words) as caught:
        model(predict).predict(request())
    assert caught.value.http_status == 500


def test_the_response_carries_the_models_name_and_version() -> None:
    def predict(self: Any) -> np.ndarray:
        return np.array(7.5)

    answer = model(predict, parameters={"version": "v1"}).predict(request())
    assert (answer.model_name, answer.model_version, answer.outputs[0].shape) == ("m", "v1", [1])


# -- async and streams ------------------------------------------------------------------------------------------------


class Streamer(MLModel):
    """One of each kind of method."""

    closed = 0

    @decode_args
    async def predict(self, text: List[str]) -> List[str]:
        """Upper case."""
        return [one.upper() for one in text]

    @decode_args
    async def predict_stream(self, text: List[str]) -> AsyncIterator[List[str]]:
        try:
            for word in text[0].split():
                yield [word]
        finally:
            self.closed += 1


class PlainStreamer(MLModel):
    @decode_args
    def predict_stream(self, text: List[str]) -> Iterator[Any]:
        for word in text[0].split():
            yield [word], np.array([len(word)])


async def requests(*texts: str) -> AsyncGenerator[InferenceRequest, None]:
    for text in texts:
        yield request(tensor("text", [text], "BYTES"))


async def test_an_async_method_stays_async_and_keeps_its_name_and_words() -> None:
    streamer = Streamer(ModelSettings(name="m"))
    answer = await streamer.predict(request(tensor("text", ["a"], "BYTES")))
    assert StringCodec.decode_output(answer.outputs[0]) == ["A"]
    assert (Streamer.predict.__name__, Streamer.predict.__doc__) == ("predict", "Upper case.")


async def test_a_stream_answers_each_request_with_encoded_chunks() -> None:
    streamer = Streamer(ModelSettings(name="m"))
    chunks = [StringCodec.decode_output(one.outputs[0]) async for one in streamer.predict_stream(requests("a b", "c"))]
    assert chunks == [["a"], ["b"], ["c"]]
    assert streamer.closed == 2


async def test_a_plain_generator_streams_too() -> None:
    chunks = [one async for one in PlainStreamer(ModelSettings(name="m")).predict_stream(requests("a bc"))]
    assert [[one.name for one in chunk.outputs] for chunk in chunks] == [["output-0", "output-1"]] * 2
    assert NumpyCodec.decode_output(chunks[1].outputs[1]).tolist() == [[2]]


async def test_closing_a_stream_early_closes_the_models_generator() -> None:
    streamer = Streamer(ModelSettings(name="m"))
    async with aclosing(requests("a b c")) as payloads, aclosing(streamer.predict_stream(payloads)) as stream:
        async for _ in stream:
            break
    assert streamer.closed == 1


async def test_a_wrong_request_on_a_stream_is_told_as_on_a_call() -> None:
    streamer = Streamer(ModelSettings(name="m"))

    async def wrong() -> AsyncGenerator[InferenceRequest, None]:
        yield request(tensor("other", ["a"], "BYTES"))

    with pytest.raises(InvalidRequest, match="'other'"):
        async with aclosing(wrong()) as payloads, aclosing(streamer.predict_stream(payloads)) as stream:
            async for _ in stream:
                pass


def test_a_hint_shows_itself_in_messages() -> None:
    assert read_hint(List[str]).text == "List[str]"
    assert read_hint(np.ndarray).text == "numpy.ndarray"
    with pytest.raises(TypeError, match=r"no codec handles the type hint dict"):
        read_hint(dict)


PAIR = Tuple[np.ndarray, np.ndarray]


@pytest.mark.parametrize(
    ("hint", "value", "outputs"),
    [
        (PAIR, np.array([[1.0, 2.0], [3.0, 4.0]]), {"output-0": [[1.0, 2.0], [3.0, 4.0]]}),
        (PAIR, np.array([1, 2]), {"output-0": [[1], [2]]}),
        (PAIR, (np.array([1]), np.array([2])), {"output-0": [[1]], "output-1": [[2]]}),
        (PAIR, (np.array([1]),), {"output-0": [[1]]}),
        (PAIR, (), {}),
        (PAIR, None, {}),
        (Tuple[np.ndarray, List[str]], np.array([[1, 2]]), {"output-0": [[1, 2]]}),
        (Tuple[np.ndarray], np.array([1, 2]), {"output-0": [[1], [2]]}),
        (Tuple[List[str], List[str]], ["a", "b"], {"output-0": [[b"a"], [b"b"]]}),
        (np.ndarray, (np.array([1]),), {"output-0": [[1]]}),
        (np.ndarray, (), {}),
        (np.ndarray, None, {}),
        (Optional[np.ndarray], None, {}),
        (List[str], (), {}),
        (None, None, {}),
        (Any, None, {}),
        (Any, (), {}),
        (Any, (["a"], np.array([1])), {"output-0": [[b"a"]], "output-1": [[1]]}),
    ],
)
def test_only_a_tuple_has_several_outputs_as_on_mlserver(hint: Any, value: Any, outputs: Any) -> None:
    def predict(self: Any) -> Any:
        return value

    predict.__annotations__["return"] = hint
    answer = decode_args(predict)(MLModel(ModelSettings(name="m")), InferenceRequest(inputs=[]))
    assert {one.name: one.data.to_numpy(one.datatype, one.shape).tolist() for one in answer.outputs} == outputs
