"""Answers that cannot be cut by rows are found at the first merged requests, which then run one by one."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from mlserve.by_rows import ByRows
from mlserve.codecs import NumpyCodec
from mlserve.errors import ModelError
from mlserve.merging import merge
from mlserve.types import InferenceRequest, InferenceResponse, ResponseOutput
from tests.runtime_trial import arrays, named_request

FORMS = {
    "rows": lambda x: {"y": x},
    "turned": lambda x: {"y": x.T},  # as long as the batch has rows, where that is 3
    "list": lambda x: {f"y_{at}": np.repeat(row[None], len(x), 0) for at, row in enumerate(x)},  # each with a row a row
    "found": lambda x: {"y": x[x.any(1)]},
    "repeated": lambda x: {"y": np.repeat(x, x[:, 0].astype(int), 0)},  # as many rows as the values say
    "sum": lambda x: {"y": x.sum()},
    "other": lambda x: {"y": x, "sum": x.sum(0)},
    "products": lambda x: {"y": x @ x.T},  # each row with all others
    "price and share": lambda x: {"y": np.stack([x[:, 0] * 1e4 + 1e4, np.full(len(x), 1 / len(x))], 1)},
    "near zero": lambda x: {"y": np.append(np.ones((len(x), 99)), np.full((len(x), 1), len(x) * 1e-4), 1)},
    "running sum": lambda x: {"y": np.cumsum(x + 1, 0)},
    "sum of the rest": lambda x: {"y": np.cumsum((x + 1)[::-1], 0)[::-1]},
    "numbered": lambda x: {"y": x + np.arange(len(x))[:, None]},
    "typed": lambda x: {"y": x if len(x) == 1 else x.astype("f8")},
    "flat": lambda x: {"y": x[:, 0]},
    "shares": lambda x: {"y": (x + 1) / (x + 1).sum()},
    "rounded": lambda x: {"y": x + 1 + np.float32(len(x) * 1e-6)},
    "texts": lambda x: {"y": np.array([[f"{one:g} of {len(x)}"] for one in x[:, 0]], object)},
}


class Model:
    """Counts what it is asked."""

    def __init__(self, form: str) -> None:
        self.form, self.asked = form, 0

    def answer(self, request: InferenceRequest) -> InferenceResponse:
        self.asked += 1
        found = FORMS[self.form](NumpyCodec.decode_input(request.inputs[0]))
        wanted = [one.name for one in request.outputs or ()] or list(found)
        return InferenceResponse(model_name="m", outputs=[_output(name, found[name]) for name in wanted])


def _output(name: str, array: Any) -> ResponseOutput:
    output = NumpyCodec.encode_output(name, np.asarray(array))
    output.shape = list(np.shape(array))
    return output


def batch(*rows: int, outputs: tuple[str, ...] = ()) -> InferenceRequest:
    return merge([named_request(outputs, x=np.full((count, 3), at, "f4")) for at, count in enumerate(rows)])


def valued(*values: float) -> InferenceRequest:
    return merge([named_request(x=np.full((1, 3), one, "f4")) for one in values])


def test_answers_by_rows_are_given_as_they_are_after_a_look_now_and_then() -> None:
    rows, model, looks = ByRows("m"), Model("rows"), []
    for at in range(20):
        before = model.asked
        found = arrays(rows.answer(batch(1, 2, 1), model.answer))["y"]
        np.testing.assert_array_equal(found[:, 0], [0, 1, 1, 2])
        looks += [at + 1] if model.asked - before > 1 else []
    assert looks == [1, 2, 4, 8, 16]
    assert arrays(rows.answer(named_request(x=np.ones((2, 3), "f4")), model.answer))["y"].shape == (2, 3)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("turned", "its output 'y' has the shape [3, 1] for 1 rows"),
        ("list", "it has 1 outputs for 1 rows and 3 for 3"),
        ("sum", "its output 'y' has the shape [] for 3 rows"),
        ("other", "its output 'sum' has the shape [3] for 1 rows"),
        ("products", "its output 'y' has rows of the shape [1] alone, [3] not"),
        ("typed", "its output 'y' is FP32 alone, FP64 beside others"),
        ("shares", "its output 'y' has other values for the same rows beside others"),
        ("price and share", "its output 'y' has other values for the same rows beside others"),
        ("texts", "its output 'y' has other values for the same rows beside others"),
        ("running sum", "its output 'y' has other values for the same rows beside others"),
        ("sum of the rest", "its output 'y' has other values for the same rows beside others"),
        ("numbered", "its output 'y' has other values for the same rows beside others"),
    ],
)
def test_other_answers_are_refused_together_and_given_alone(
    form: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows, model = ByRows("m"), Model(form)
    for _ in range(3):
        with pytest.raises(ModelError, match="cannot be cut by rows"):
            rows.answer(batch(1, 2), model.answer)
    (told,) = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert told.startswith(f"model 'm': {words}, so requests for it cannot run together")
    assert model.asked <= 3
    assert rows.answer(named_request(x=np.ones((1, 3), "f4")), model.answer).outputs


def test_rows_that_hang_on_the_values_are_found_later() -> None:
    rows, model = ByRows("m"), Model("found")
    assert arrays(rows.answer(valued(1, 1), model.answer))["y"].shape == (2, 3)
    for _ in range(2):
        with pytest.raises(ModelError, match="cannot be cut by rows"):
            rows.answer(batch(1, 2), model.answer)  # the first of zeros
    with pytest.raises(ModelError):
        rows.answer(valued(1, 1), model.answer)


def test_as_many_rows_in_all_are_not_enough() -> None:
    rows, model = ByRows("m"), Model("repeated")
    assert arrays(rows.answer(valued(1, 1), model.answer))["y"].shape == (2, 3)
    with pytest.raises(ModelError, match="cannot be cut by rows"):
        rows.answer(valued(2, 0), model.answer)  # the second caller would get a row of the first


def test_values_may_be_rounded_in_another_order() -> None:
    rows, model = ByRows("m"), Model("rounded")
    assert arrays(rows.answer(batch(1, 2), model.answer))["y"].shape == (3, 3)
    assert arrays(ByRows("m").answer(batch(1, 2), Model("near zero").answer))["y"].shape == (3, 100)
    assert arrays(ByRows("m").answer(batch(1, 2), Model("flat").answer))["y"].shape == (3,)
    odd = merge([named_request(x=np.full((1, 3), at, "f4")) for at in (np.nan, np.inf)])
    assert arrays(ByRows("m").answer(odd, Model("rows").answer))["y"].shape == (2, 3)


def test_each_choice_of_outputs_is_looked_at() -> None:
    rows, model = ByRows("m"), Model("other")
    with pytest.raises(ModelError):
        rows.answer(batch(1, 2), model.answer)
    assert list(arrays(rows.answer(batch(1, 2, outputs=("y",)), model.answer))) == ["y"]
    for at in range(300):
        rows.answer(batch(1, 2, outputs=("y",) * (at + 1)), model.answer)
    assert len(rows._answered) <= 256
