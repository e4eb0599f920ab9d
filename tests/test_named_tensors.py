"""Named tensors of a model: the outputs that a request asks for."""

from __future__ import annotations

import pytest

from mlserve import MLModel
from mlserve.errors import InferenceError
from mlserve.named_tensors import outputs_asked
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest, RequestOutput

MODEL = MLModel(ModelSettings(name="m", implementation="mlserve.MLModel"))


def asked(*wanted: str, of: list[str]) -> list[str]:
    outputs = [RequestOutput(name=name) for name in wanted] or None
    return [one.name for one in outputs_asked(MODEL, InferenceRequest(inputs=[], outputs=outputs), of)]


def test_outputs_come_in_the_order_of_the_request_or_all_of_them() -> None:
    assert asked(of=["a", "b"]) == ["a", "b"]
    assert asked("b", "a", "b", of=["a", "b"]) == ["b", "a", "b"]
    many = [str(at) for at in range(300)]
    assert asked(*many, of=many) == many


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (["c"], "'m' has no output 'c': it has 'a', 'b'"),
        (["a", "b", "a", "a"], "output 'a' is asked for 3 times, 2 times at most can be"),
    ],
)
def test_an_output_that_is_none_or_comes_too_often_is_refused(wanted: list[str], words: str) -> None:
    with pytest.raises(InferenceError, match=words):
        asked(*wanted, of=["a", "b"])
