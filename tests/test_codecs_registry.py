"""Finding codecs by type, value and hint, codecs of people's own, and codecs for single tensors."""

# mypy: disable-error-code="arg-type, assignment, union-attr"
# The types take plain lists and dicts where they declare TensorData and Parameters, and tests make use of that.

from __future__ import annotations

import datetime
from typing import Any, ClassVar, List, Union  # noqa: UP035

import numpy as np
import pandas as pd
import pytest

from mlserve import codecs
from mlserve.codecs import registry, utils
from mlserve.codecs.errors import CodecError
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput
from tests.forms import made


def test_single_tensor_codecs_name_their_only_tensor() -> None:
    request = codecs.NumpyRequestCodec.encode_request(np.array([1]))
    assert (request.inputs[0].name, request.parameters) == ("input-1", {"content_type": "np"})
    response = codecs.StringRequestCodec.encode_response("m", ["a"], "v1", use_bytes=False)
    assert (response.outputs[0].name, response.model_version) == ("output-1", "v1")
    assert codecs.StringRequestCodec.decode_response(response) == ["a"]


@pytest.mark.parametrize("count", [0, 2])
def test_single_tensor_codecs_refuse_other_numbers_of_tensors(count: int) -> None:
    with pytest.raises(CodecError, match=f"single input, got {count} inputs"):
        codecs.NumpyRequestCodec.decode_request(InferenceRequest(inputs=[made([1])] * count))
    with pytest.raises(CodecError, match=f"single output, got {count} outputs"):
        outputs = [ResponseOutput(name="y", shape=[1], datatype="FP32", data=[1])] * count
        codecs.NumpyRequestCodec.decode_response(InferenceResponse(model_name="m", outputs=outputs))


def test_what_an_inputs_own_content_type_has_made_goes_before_the_requests() -> None:
    request = InferenceRequest(parameters={"content_type": "np"}, inputs=[made(["a"], "BYTES", content_type="str")])
    assert codecs.decode_inference_request(request) == ["a"]


def test_a_codec_that_is_called_by_name_makes_what_it_is_for() -> None:
    request = InferenceRequest(inputs=[made(["a"], "BYTES", content_type="str")])
    assert codecs.NumpyRequestCodec.decode_request(request).tolist() == ["a"]
    output = ResponseOutput(name="y", shape=[1], datatype="BYTES", data=["a"], parameters={"content_type": "np"})
    assert codecs.StringRequestCodec.decode_response(InferenceResponse(model_name="m", outputs=[output])) == ["a"]


@pytest.fixture
def registered() -> Any:
    """Puts the registry back as it was."""
    before = dict(registry._input_codecs), dict(registry._request_codecs)
    yield
    registry._input_codecs.clear()
    registry._input_codecs.update(before[0])
    registry._request_codecs.clear()
    registry._request_codecs.update(before[1])


@pytest.mark.parametrize(
    ("value", "content_type"),
    [
        (np.zeros(1), "np"),
        (["a"], "str"),
        ([], "str"),
        ([b"a"], "base64"),
        ([datetime.datetime(2024, 1, 1)], "datetime"),
        ([1, 2], None),
        (["a", b"b"], None),
        ([None], None),
        (5, None),
        (None, None),
        ("plain", None),
        ({"x": np.zeros(1)}, None),
        (pd.DataFrame(), None),
    ],
)
def test_input_codecs_are_found_by_value(value: Any, content_type: str | None) -> None:
    found = codecs.find_input_codec(payload=value)
    assert (found.ContentType if found else None) == content_type


def test_every_list_codec_can_encode_an_empty_list_and_text_comes_first() -> None:
    for codec in (codecs.StringCodec, codecs.Base64Codec, codecs.DatetimeCodec):
        assert codec.can_encode([])
    assert codecs.find_input_codec(payload=[]) is codecs.StringCodec


@pytest.mark.parametrize("hint", [list[datetime.datetime], List[Union[str, datetime.datetime]]])  # noqa: UP006
def test_both_hints_for_dates_name_their_codec(hint: Any) -> None:
    assert codecs.find_input_codec(type_hint=hint) is codecs.DatetimeCodec


def test_our_codecs_answer_about_any_value_without_failing() -> None:
    for codec in [*registry._input_codecs.values(), *registry._request_codecs.values()]:
        for value in (np.zeros(2), pd.DataFrame({"a": [1, 2]}), pd.Series([1, 2]), None, object(), {}, [object()]):
            assert codec.can_encode(value) in (True, False)


@pytest.mark.parametrize(
    ("value", "content_type"),
    [(np.zeros(1), "np"), (["a"], "str"), (pd.DataFrame(), "pd"), ([b"a"], None), ({}, None), ("plain", None)],
)
def test_request_codecs_are_found_by_value(value: Any, content_type: str | None) -> None:
    found = codecs.find_request_codec(payload=value)
    assert (found.ContentType if found else None) == content_type


class Reversed(codecs.InputCodec):
    """Text written backwards: a codec with the two methods that every codec needs."""

    ContentType: ClassVar[str] = "reversed"

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        return [text[::-1] for text in codecs.StringCodec.decode_input(request_input)]

    @classmethod
    def encode_output(cls, name: str, payload: Any, **kwargs: Any) -> ResponseOutput:
        return codecs.StringCodec.encode_output(name, [text[::-1] for text in payload], **kwargs)


def test_a_codec_of_ones_own_needs_two_methods_and_a_content_type(registered: None) -> None:
    assert codecs.register_input_codec(Reversed) is Reversed
    assert codecs.find_input_codec("reversed") is Reversed
    tensor = Reversed.encode_input("x", ["ab"], use_bytes=False)
    assert isinstance(tensor, RequestInput)
    assert tensor.data == ["ba"]
    assert Reversed.decode_output(Reversed.encode_output("x", ["ab"])) == ["ab"]
    with pytest.raises(ValueError, match="ContentType"):
        codecs.register_input_codec(type("Nameless", (codecs.InputCodec,), {}))


def test_an_object_with_a_codecs_methods_is_a_codec_too(registered: None) -> None:
    codec = codecs.register_input_codec(Reversed())
    assert codecs.decode_request_input(made(["ab"], "BYTES", content_type="reversed")) == ["ba"]
    assert codecs.find_input_codec("reversed") is codec


def test_a_request_codec_of_ones_own_needs_two_methods(registered: None) -> None:
    @codecs.register_request_codec
    class Names(codecs.RequestCodec):
        ContentType: ClassVar[str] = "names"

        @classmethod
        def decode_request(cls, request: InferenceRequest) -> Any:
            return [one.name for one in request.inputs]

        @classmethod
        def encode_response(
            cls, model_name: str, payload: Any, model_version: str | None = None, **kwargs: Any
        ) -> InferenceResponse:
            outputs = [ResponseOutput(name=name, shape=[0], datatype="BOOL", data=[]) for name in payload]
            return InferenceResponse(model_name=model_name, outputs=outputs)

    request = Names.encode_request(["a", "b"])
    request.parameters = {"content_type": "names"}
    assert codecs.decode_inference_request(request) == ["a", "b"]
    assert Names.decode_response(Names.encode_response("m", ["c"])) == ["c"]


def test_a_strangers_codec_that_fails_on_a_value_is_passed_over(registered: None) -> None:
    @codecs.register_input_codec
    class Broken(codecs.InputCodec):
        ContentType: ClassVar[str] = "broken"

        @classmethod
        def can_encode(cls, payload: Any) -> bool:
            return isinstance(payload, codecs)  # a module is no type: TypeError

    assert codecs.find_input_codec(payload=5) is None


def test_a_subclass_may_have_private_methods_named_like_ours(registered: None) -> None:
    """The document's example: a codec for images that extends NumpyCodec, with a `_decode` of its own."""

    @codecs.register_input_codec
    class Image(codecs.NumpyCodec):
        ContentType: ClassVar[str] = "img"

        @classmethod
        def _decode(cls, input_or_output: utils.InputOrOutput) -> Any:
            return ("image", super().decode_input(input_or_output).sum())

        @classmethod
        def decode_input(cls, request_input: RequestInput) -> Any:
            return cls._decode(request_input)

    assert codecs.decode_request_input(made([1, 2], "INT32", content_type="img")) == ("image", 3)
    assert Image.encode_output("y", np.zeros(1)).parameters.content_type == "img"
    assert codecs.find_input_codec(type_hint=np.ndarray) is codecs.NumpyCodec


def test_old_names_answer_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="NumpyCodec.decode is the old name of decode_input"):
        assert codecs.NumpyCodec.decode(made([1, 2])).tolist() == [1.0, 2.0]
    with pytest.warns(DeprecationWarning, match="encode_output"):
        assert codecs.StringCodec.encode("y", ["a"]).data == [b"a"]
    request = codecs.NumpyRequestCodec.encode_request(np.array([1]))
    with pytest.warns(DeprecationWarning, match="decode_request"):
        assert codecs.NumpyRequestCodec.decode(request).tolist() == [[1]]
    with pytest.warns(DeprecationWarning, match="encode_response"):
        assert codecs.NumpyRequestCodec.encode("m", np.array([1])).model_name == "m"
