"""What pydantic does with the classes of its users, ours do with theirs: each case runs on a base of both."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, List, Union  # noqa: UP035

import pydantic
import pytest

from mlserve.errors import SettingsError
from mlserve.settings import ModelParameters
from mlserve.types import InferenceRequest, Parameters, RequestInput, ValidationError

TENSOR: dict[str, Any] = {"name": "a", "shape": [1], "datatype": "FP32", "data": [1]}


class Message(RequestInput):
    """One that needs nothing to be given."""

    name: str = "a"
    shape: list[int] = [1]
    datatype: str = "FP32"
    data: list[float] = [1.0]


BASES = (Message, Parameters, ModelParameters)


def same_as_pydantic(case: Callable[[Any], Any]) -> Any:
    def test(base: Any) -> None:
        assert case(base) == case(pydantic.BaseModel)

    test.__name__ = case.__name__
    return pytest.mark.parametrize("base", BASES, ids=lambda one: one.__name__)(test)


@same_as_pydantic
def test_private_attributes_are_those_of_one_object(base: Any) -> Any:
    class Logged(base):  # type: ignore[misc]
        _log: List[str] = []  # noqa: UP006
        _by_name = {}
        _made: dict[str, int] = pydantic.PrivateAttr(default_factory=dict)
        _count: int = pydantic.PrivateAttr(default=3)
        _later: int = pydantic.PrivateAttr()
        _never: int

        def _method(self) -> str:
            return "a method"

    one, other = Logged(), Logged()
    one._log.append("a")
    one._by_name["b"] = 1
    one._made["c"] = 1
    one._count += 1
    missing = [hasattr(one, "_later"), hasattr(one, "_never")]
    one._later = 5
    again = one.model_copy()
    return (
        [other._log, other._by_name, other._made, other._count, one._log, one._count, one._later],
        [
            missing,
            hasattr(other, "_later"),
            again._log,
            again._later,
            one._method(),
            one.model_dump(exclude_unset=True),
        ],
    )


@same_as_pydantic
def test_validators_see_the_fields_before_with_their_values(base: Any) -> Any:
    class Range(base):  # type: ignore[misc]
        low: int = 5
        high: int
        names: list[str] = pydantic.Field(default_factory=list)
        step: int = 1

        @pydantic.field_validator("high", "step")
        @classmethod
        def check(cls, value: int, info: pydantic.ValidationInfo) -> Any:
            return value, {name: info.data[name] for name in info.data if name in ("low", "high", "names", "step")}

    class More(Range):
        step: int = 2
        last: int = 0

        @pydantic.field_validator("last")
        @classmethod
        def check_last(cls, value: int, info: pydantic.ValidationInfo) -> Any:
            return value + info.data["low"], info.data["high"][0]

    one = More(high="9", step="3", last="4")
    return one.high, one.step, one.last, Range(high=1, low="2").high


@same_as_pydantic
def test_model_post_init_runs_once_after_making_and_before_validators_of_the_whole(base: Any) -> Any:
    log = []

    class Prepared(base):  # type: ignore[misc]
        level: int = 1
        _twice: int = pydantic.PrivateAttr()

        def model_post_init(self, context: Any) -> None:
            log.append("made")
            self._twice = 2 * self.level

        @pydantic.model_validator(mode="after")
        def check(self) -> Any:
            log.append(f"checked {self._twice}")
            return self

    class Below(Prepared):
        def model_post_init(self, context: Any) -> None:
            super().model_post_init(context)
            log.append("below")

    made = [Prepared(level="3"), Prepared.model_validate({}), Prepared.model_validate_json("{}"), Below(level=2)]
    return [one._twice for one in made], log


@same_as_pydantic
def test_validators_are_replaced_by_name_and_run_in_order(base: Any) -> Any:
    class Mixin:
        @pydantic.field_validator("b", check_fields=False)
        @classmethod
        def of_mixin(cls, value: int) -> int:
            return value + 1000

    class First(base):  # type: ignore[misc]
        log: Any = []
        a: int = 1
        b: int = 1

        @pydantic.field_validator("a")
        @classmethod
        def one(cls, value: int) -> int:
            return value + 1

        @pydantic.field_validator("a")
        @classmethod
        def two(cls, value: int) -> int:
            return value * 2

        @pydantic.field_validator("b", mode="before")
        @classmethod
        def first(cls, value: Any) -> Any:
            return f"{value}1"

        @pydantic.field_validator("b", mode="before")
        @classmethod
        def second(cls, value: Any) -> Any:
            return f"{value}2"

        @pydantic.model_validator(mode="before")
        @classmethod
        def before_one(cls, given: Any) -> Any:
            return {**given, "log": [*given.get("log", []), "one"]}

        @pydantic.model_validator(mode="before")
        @classmethod
        def before_two(cls, given: Any) -> Any:
            return {**given, "log": [*given.get("log", []), "two"]}

    class Decorated(First):
        @pydantic.field_validator("a")
        @classmethod
        def one(cls, value: int) -> int:
            return value + 100

    class Plain(First):
        @classmethod
        def one(cls, value: int) -> int:
            return value

    class Again(Mixin, First):
        a: float = 1.0

    made = [kind(a="3", b="4") for kind in (First, Decorated, Plain, Again)]
    return [(one.a, one.b, one.log) for one in made]


@same_as_pydantic
def test_bounds_hold_and_pydantics_types_are_made(base: Any) -> Any:
    from pathlib import Path
    from typing import Annotated, Optional

    class Inner(pydantic.BaseModel):
        size: int = 1

    class Typed(base):  # type: ignore[misc]
        top_k: int = pydantic.Field(3, ge=1, le=10)
        positive: pydantic.PositiveInt = 1
        above: Annotated[int, pydantic.Field(gt=0)] = 1
        text: str = pydantic.Field("a", pattern="^a")
        folder: Optional[Path] = None  # noqa: UP045
        token: pydantic.SecretStr = pydantic.SecretStr("t")
        inner: Inner = Inner()
        inners: dict[str, list[Inner]] = {}

    refused = []
    for given in ({"top_k": 11}, {"positive": 0}, {"above": 0}, {"text": "b"}, {"inner": {"size": "x"}}):
        with pytest.raises((ValueError, SettingsError)):
            Typed(**given)
        refused.append(next(iter(given)))
    one = Typed(top_k="4", folder="/a", token="s", inner={"size": "2"}, inners={"a": [{"size": 3}]})
    return [one.top_k, one.folder, one.token, one.inner.size, one.inners["a"][0].size, refused]


@same_as_pydantic
def test_a_default_is_validated_where_that_is_asked_for(base: Any) -> Any:
    class Upper(base):  # type: ignore[misc]
        unit: str = pydantic.Field("mm", validate_default=True)

        @pydantic.field_validator("unit")
        @classmethod
        def upper(cls, unit: str) -> str:
            return unit.upper()

    return Upper().unit, Upper(unit="cm").unit


def test_validators_of_a_message_see_our_fields() -> None:
    class Scan(RequestInput):
        unit: str = "mm"

        @pydantic.field_validator("unit")
        @classmethod
        def check(cls, unit: str, info: pydantic.ValidationInfo) -> str:
            assert list(info.data) == ["name", "shape", "datatype", "parameters", "data"]
            if info.data["datatype"] == "INT32" and unit != "px":
                raise ValueError(f"{info.data['name']} {info.data['shape']}: integers are pixels")
            return unit

    assert Scan(**TENSOR).unit == "mm"
    with pytest.raises(ValidationError, match=r"a \[2\]: integers are pixels"):
        Scan(**{**TENSOR, "datatype": "INT32", "shape": ["2"]}, unit="mm")
    assert Scan(**TENSOR, unit="cm").model_dump() == {**TENSOR, "unit": "cm"}


class Tagged(Parameters):
    tags: list[str] = []
    _seen: list[str] = []


class Counting(ModelParameters):
    _made: list[int] = []

    def model_post_init(self, context: Any) -> None:
        self._made.append(1)


def test_settings_of_exact_values_are_made_whole_too() -> None:
    made = [Counting.model_construct(uri="u"), Counting(uri="u"), Counting.parse_raw("{}")]
    assert [one._made for one in made] == [[1]] * 3


def test_private_attributes_go_with_copies() -> None:
    one = Tagged(tags=["a"])
    one._seen.append("b")
    for again in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert (type(again), again._seen, again.tags) == (Tagged, ["b"], ["a"])
    assert "_seen" not in InferenceRequest(inputs=[], parameters=one).model_dump_json()


# -- lists and unions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "given"),
    [
        (list[float], [1, 2.5, "3", True]),
        (list[int], ["1", 2.0, True]),
        (list[list[float]], [[1, 2], [3.0, "4"]]),
        (dict[str, float], {"a": 1, "b": "2"}),
        (dict[int, list[int]], {"1": ["2"]}),
        (list[Union[int, float]], [1, 2.5, 3]),
        (list[Union[str, None]], ["a", None]),
        (tuple[int, str], ["1", "a"]),
        (set[int], [1, "2", 2]),
        (list[Any], [1, "a", None]),
        (list[bool], [1, "yes", False]),
    ],
)
def test_lists_and_dicts_become_what_pydantic_makes_of_them(hint: Any, given: Any) -> None:
    class Listed(Parameters):
        values_: hint

    made = Listed(values_=given).values_
    expected = pydantic.TypeAdapter(hint).validate_python(given)
    assert (made, repr(made)) == (expected, repr(expected))


def test_the_fault_in_a_long_list_is_told_with_its_place() -> None:
    class Listed(Parameters):
        rows: list[list[float]]

    with pytest.raises(ValidationError) as caught:
        Listed(rows=[[1.0, 2], [3, "x"], [4, 5]])
    assert [one["loc"] for one in caught.value.errors()] == [("rows", 1, 1)]


class Left(Parameters):
    child: Left | Right | None = None
    level: int = 0


class Right(Parameters):
    child: Left | Right | None = None
    level: int = 0

    @pydantic.field_validator("level")
    @classmethod
    def count(cls, level: int) -> int:
        COUNTED.append(level)
        return level


COUNTED: list[int] = []


def test_what_is_deep_inside_of_unions_is_converted_once_for_each_member() -> None:
    given: dict[str, Any] = {"level": 0}
    for level in range(1, 20):
        given = {"child": given, "level": level}
    one = Right(**given)
    assert len(COUNTED) == 20
    assert one.child.child.level == 17
    given["child"]["child"]["child"]["child"]["level"] = "x"
    with pytest.raises(ValidationError) as caught:
        Left(**given)
    assert caught.value.errors()[0]["loc"][-1] == "level"
    assert caught.value.error_count() <= 100
