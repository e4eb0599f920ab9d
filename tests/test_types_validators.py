"""pydantic's validators in subclasses of our types run as they do in pydantic's own."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest

from mlserve.errors import SettingsError
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest, Parameters, RequestInput, TensorData, ValidationError

TENSOR: dict[str, Any] = {"name": "a", "shape": [1], "datatype": "FP32", "data": [1]}


class Options(Parameters):
    threshold: float = 0.5

    @pydantic.field_validator("threshold")
    @classmethod
    def check_threshold(cls, value: float) -> float:
        if not 0 <= value <= 1:
            raise ValueError(f"{value} is not from 0 to 1")
        return value

    @pydantic.model_validator(mode="before")
    @classmethod
    def spell(cls, given: Any) -> Any:
        return {("threshold" if key == "treshold" else key): value for key, value in given.items()}


class Scan(RequestInput):
    parameters: Options | None = None
    unit: str = "mm"
    low: int = 0
    high: int = 10
    words: list[str] = []

    @pydantic.field_validator("unit")
    @classmethod
    def lower(cls, unit: str) -> str:
        return unit.lower()

    @pydantic.field_validator("words", mode="before")
    @classmethod
    def split(cls, words: Any) -> Any:
        return words.split() if isinstance(words, str) else words

    @pydantic.field_validator("shape", "datatype")
    @classmethod
    def check_ours(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        if info.field_name == "shape":
            assert len(value) == 1, "one dimension"
        return value

    @pydantic.field_validator("high", mode="wrap")
    @classmethod
    def at_most(cls, value: Any, handler: Any, info: pydantic.ValidationInfo) -> int:
        return 0 if value == "none" else max(handler(value), info.data.get("low", 0))

    @pydantic.model_validator(mode="after")
    def check_order(self) -> Scan:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class Scans(InferenceRequest):
    inputs: list[Scan]

    @pydantic.field_validator("inputs")
    @classmethod
    def at_most_two(cls, inputs: list[Scan]) -> list[Scan]:
        if len(inputs) > 2:
            raise ValueError("at most two")
        return inputs


def test_validators_change_what_is_given() -> None:
    scan = Scan(**TENSOR, unit="CM", words="a b", high="none", parameters={"treshold": "1"})
    assert (scan.unit, scan.words, scan.high, scan.parameters.threshold) == ("cm", ["a", "b"], 0, 1.0)
    assert Scan(**TENSOR, low="20", high="15").high == 20
    assert (scan.datatype, scan.shape, type(scan.data)) == ("FP32", [1], TensorData)
    assert scan.model_dump() == {
        **TENSOR,
        "unit": "cm",
        "words": ["a", "b"],
        "high": 0,
        "parameters": {"threshold": 1.0},
    }
    assert Scan(**TENSOR).unit == "mm"  # defaults are not validated


@pytest.mark.parametrize("make", [Scans.model_validate, lambda given: Scans(**given)])
def test_what_they_refuse_is_told_with_its_place(make: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        make({"inputs": [{**TENSOR, "shape": [1, 1]}, {**TENSOR, "parameters": {"threshold": 2}}]})
    assert {one["loc"]: (one["type"], one["msg"].split("\n")[0]) for one in caught.value.errors()} == {
        ("inputs", 0, "shape"): ("assertion_error", "Assertion failed, one dimension"),
        ("inputs", 1, "parameters", "threshold"): ("value_error", "Value error, 2.0 is not from 0 to 1"),
    }
    with pytest.raises(ValidationError) as caught:
        make({"inputs": [{**TENSOR, "low": 5, "high": "none"}]})
    assert [(one["loc"], one["msg"]) for one in caught.value.errors()] == [
        (("inputs", 0), "Value error, low is above high")
    ]
    with pytest.raises(ValidationError, match="at most two"):
        make({"inputs": [TENSOR] * 3})


def test_validators_are_inherited_and_may_be_for_ours_alone() -> None:
    class Narrow(Scan):
        unit: str = "m"

        @pydantic.field_validator("name")
        @classmethod
        def check_name(cls, name: str) -> str:
            return name.strip()

    one = Narrow.model_validate_json('{"name": " a ", "shape": [1], "datatype": "FP32", "data": [1], "high": "none"}')
    assert (one.name, one.high, one.unit) == ("a", 0, "m")

    class Whole(RequestInput):
        @pydantic.model_validator(mode="after")
        def check(self) -> Whole:
            raise ValueError("never")

    for make in (lambda: Whole(**TENSOR), lambda: Whole.model_validate_json(RequestInput(**TENSOR).json())):
        with pytest.raises(ValidationError, match="never"):
            make()


def test_a_validator_that_cannot_run_is_refused_with_its_class() -> None:
    with pytest.raises(TypeError, match="the field 'colour', which is not there"):

        class Missing(RequestInput):
            @pydantic.field_validator("colour")
            @classmethod
            def check(cls, value: Any) -> Any:
                return value

    with pytest.raises(TypeError, match="check: of pydantic's validators field_validator and model_validator run here"):

        class Wrapped(RequestInput):
            @pydantic.model_validator(mode="wrap")
            @classmethod
            def check(cls, value: Any, handler: Any) -> Any:
                return handler(value)


class Bounded(ModelSettings):
    level: int = 0

    @pydantic.field_validator("level")
    @classmethod
    def check_level(cls, level: int) -> int:
        if level > 3:
            raise ValueError("at most 3")
        return level

    @pydantic.model_validator(mode="after")
    def check_name(self) -> Bounded:
        if self.name == "reserved":
            raise ValueError("the name is reserved")
        return self


def test_settings_have_validators_too() -> None:
    assert Bounded(name="m", implementation="a.B", level="3").level == 3
    with pytest.raises(SettingsError, match="'level': value error, at most 3, got 4"):
        Bounded(name="m", implementation="a.B", level=4)
    with pytest.raises(SettingsError, match="the name is reserved"):
        Bounded(name="reserved", implementation="a.B")
