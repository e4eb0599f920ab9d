"""Fields that a subclass of Parameters declares."""

from __future__ import annotations

import copy
import pickle
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import pytest

from mlserve.types import InferenceRequest, Parameters, ResponseOutput, ValidationError


class Options(Parameters):
    """What a client may ask of a model."""

    count: int
    note: str | None = None
    scale: float | None = 1.5
    labels: list[str] = []  # as models of pydantic have it
    LIMIT: ClassVar[int] = 9

    def twice(self) -> int:
        return self.count * 2


class Deeper(Options):
    kind: Literal["a", "b"] = "a"
    inner: Options | None = None


def test_a_declared_field_is_read_from_what_was_given():
    options = Options(count=5, note="x", other=1, content_type="np")
    assert (options.count, options.note, options.scale, options.labels) == (5, "x", 1.5, [])
    assert (options.other, options.content_type, options.LIMIT, options.twice()) == (1, "np", 9, 10)
    assert options.model_dump() == {"count": 5, "note": "x", "other": 1, "content_type": "np"}
    assert repr(options) == "Options(count=5, note='x', other=1, content_type='np')"


def test_values_are_converted_as_pydantic_does():
    assert Options(count="5").count == 5
    assert Options.parse_raw('{"count": 5.0, "labels": ["a"]}').labels == ["a"]
    assert Options.model_validate(Parameters(count="5")).count == 5
    deeper = Deeper(count=1, kind="b", inner={"count": "2"})
    assert type(deeper.inner) is Options
    assert (deeper.kind, deeper.inner.count) == ("b", 2)


def test_none_is_not_the_default_and_defaults_are_no_keys():
    options = Options(count=1, scale=None)
    assert options.scale is None
    assert options.model_dump() == {"count": 1}
    options.labels.append("mine")
    assert options.labels == ["mine"]
    assert Options(count=1).labels == []
    options.scale = 3.0
    assert options.scale == options["scale"] == 3.0
    options.scale = None
    assert options.scale is None
    assert "scale" not in options


def test_every_missing_and_wrong_field_is_told():
    with pytest.raises(ValidationError) as caught:
        Deeper(kind="c", note=7, inner={"note": "x"})
    told = {one["loc"]: one["type"] for one in caught.value.errors()}
    assert told[("count",)] == "missing"
    assert set(told) == {("count",), ("note",), ("kind",), ("inner", "count")}
    assert caught.value.title == "Deeper"
    with pytest.raises(ValidationError, match="count\n  Field required"):
        Options.parse_raw("{}")


def test_a_field_of_a_type_that_is_none_of_jsons():
    class Holding(Parameters):
        array: np.ndarray

    array = np.zeros(2)
    assert Holding(array=array).array is array
    with pytest.raises(ValidationError, match="instance of ndarray"):
        Holding(array=[1])


def test_fields_of_pydantic_are_checked_by_pydantic():
    pydantic = pytest.importorskip("pydantic")

    class Bounded(Parameters):
        low: int = pydantic.Field(3, ge=0)
        many: list[int] = pydantic.Field(default_factory=list)
        other: int = pydantic.Field(1, alias="Other")
        noted: Annotated[int, pydantic.Field(le=5)] = 2

    Bounded.__annotations__.update(low=int, many=list[int], other=int, noted=Annotated[int, pydantic.Field(le=5)])
    bounded = Bounded(Other="4")
    assert (bounded.low, bounded.many, bounded.other, bounded.noted) == (3, [], 4, 2)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Bounded(low=-1)
    with pytest.raises(ValidationError, match="less than or equal to 5"):
        Bounded(noted=6)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one)), Options.copy])
def test_copies_stay_what_they_are(again: Any):
    options = Options(count=1, note=None, scale=None, labels=["a"], z=2)
    made = again(options)
    assert type(made) is Options
    assert (made.count, made.scale, made.labels, made.z) == (1, None, ["a"], 2)
    assert made == options


def test_messages_carry_them_whole():
    options = Options(count=2, note="x")
    request = InferenceRequest(inputs=[], parameters=options)
    assert request.parameters is options
    assert msgspec.json.decode(request.json())["parameters"] == {"count": 2, "note": "x"}
    output = ResponseOutput(name="y", shape=[1], datatype="INT32", data=[1], parameters=options)
    assert output.parameters.count == 2
