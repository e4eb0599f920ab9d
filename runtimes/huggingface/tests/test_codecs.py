"""The runtime's content types, both ways; and the results of pipelines as JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from mlserve.codecs import find_input_codec, find_request_codec
from mlserve.errors import CodecError
from mlserve.types import RequestInput
from mlserve_huggingface import codecs
from mlserve_huggingface.codecs.text import json_text
from runtimes.huggingface.tests.asking import PICTURE, tensor

CHAT = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": "bye"},
]


def test_they_are_known_by_their_content_types() -> None:
    for name in ("hg_json", "hg_jsonlist", "hg_conversation", "pillow_image", "nplist", "raw"):
        assert find_input_codec(name).ContentType == name
    assert find_request_codec("hf") is codecs.HuggingfaceRequestCodec


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (codecs.HuggingfaceSingleJSONCodec, {"a": [1, None, "é"]}),
        (codecs.HuggingfaceListJSONCodec, [{"a": 1}, [2], "x"]),
        (codecs.HuggingfaceConversationCodec, CHAT),
        (codecs.HuggingfaceConversationCodec, [CHAT, CHAT[:1]]),
        (codecs.RawCodec, "text"),
        (codecs.RawCodec, 7),
        (codecs.RawCodec, True),
        (codecs.RawCodec, [0.5, 1.5]),
    ],
    ids=str,
)
def test_values_come_back_as_they_were(codec: Any, value: Any) -> None:
    assert codec.decode_input(codec.encode_input("x", value)) == value
    assert codec.decode_output(codec.encode_output("x", value)) == value


def test_pictures_and_arrays_come_back_as_they_were() -> None:
    (back,) = codecs.PILImageCodec.decode_input(codecs.PILImageCodec.encode_input("x", [PICTURE]))
    assert np.array_equal(np.asarray(back), np.asarray(PICTURE))
    arrays = [np.arange(3.0), np.ones(3)]
    assert np.array_equal(codecs.NumpyListCodec.decode_input(codecs.NumpyListCodec.encode_input("x", arrays)), arrays)
    with pytest.raises(CodecError, match="arrays of one shape"):
        codecs.NumpyListCodec.encode_output("x", [np.ones(2), np.ones(3)])


def test_the_old_form_of_a_conversation_is_a_chat() -> None:
    old = {"uuid": "1", "past_user_inputs": ["hello"], "generated_responses": ["hi"], "text": "bye"}
    asked = RequestInput(**tensor("args", [json.dumps(old)], "hg_conversation"))
    assert codecs.HuggingfaceConversationCodec.decode_input(asked) == CHAT
    with pytest.raises(CodecError, match="a chat is a list of"):
        codecs.HuggingfaceConversationCodec.decode_input(RequestInput(**tensor("args", ["3"])))


def test_a_request_is_a_dict_of_named_values() -> None:
    values = {"args": ["a", "b"], "top_k": 2, "flag": True, "image": PICTURE, "sound": np.ones(3), "more": {"a": [1]}}
    request = codecs.HuggingfaceRequestCodec.encode_request(values)
    found = codecs.HuggingfaceRequestCodec.decode_request(request)
    assert list(found) == list(values)
    assert [found[name] for name in ("args", "top_k", "flag", "more")] == [["a", "b"], 2, True, {"a": [1]}]
    assert np.array_equal(found["sound"].ravel(), np.ones(3)) and found["image"][0].size == (32, 32)
    response = codecs.HuggingfaceRequestCodec.encode_response("m", [{"label": "A"}])
    assert codecs.HuggingfaceRequestCodec.decode_response(response) == [{"label": "A"}]


def test_results_are_json_with_all_their_digits() -> None:
    found = {
        "score": np.float32(0.1),
        "ids": np.arange(2),
        "all": torch.ones(2),
        "depth": PICTURE,
        "raw": b"a",
        3: (1,),
    }
    told = json.loads(json_text(found))
    assert told["score"] == float(np.float32(0.1)) and told["ids"] == [0, 1] and told["all"] == [1.0, 1.0]
    assert told["depth"].startswith("iVBOR") and told["raw"] == "YQ==" and told["3"] == [1]
    assert json_text([float("nan"), np.float32("inf"), {np.int64(1): 2}]) == '[null, null, {"1": 2}]'
    with pytest.raises(TypeError, match="holds a object, which has no JSON form"):
        json_text([object()])
