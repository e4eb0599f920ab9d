"""Options of pydantic's fields and classes hold in subclasses of ours, or are refused with the class."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest

from mlserve.errors import SettingsError
from mlserve.settings import ModelParameters
from mlserve.types import InferenceRequest, Parameters, RequestInput

BASES = (InferenceRequest, Parameters, ModelParameters)


@pytest.mark.parametrize("base", BASES, ids=lambda one: one.__name__)
def test_aliases_are_read_and_written(base: Any) -> None:
    def made(base: Any) -> Any:
        class Named(base):  # type: ignore[misc]
            one: int = pydantic.Field(1, alias="the-one")
            two: int = pydantic.Field(2, validation_alias=pydantic.AliasChoices("zwei", "deux"))
            three: int = pydantic.Field(3, serialization_alias="drei")

        more = {"inputs": []} if base is InferenceRequest else {}
        named = Named(**{"the-one": "11", "deux": "22", "three": "33"}, **more)
        dumps = [named.model_dump(exclude_unset=True, by_alias=how) for how in (False, True)]
        for dump in dumps:
            dump.pop("inputs", None)
        return named.one, named.two, named.three, dumps

    assert made(base) == made(pydantic.BaseModel)


@pytest.mark.parametrize("base", (Parameters, ModelParameters), ids=lambda one: one.__name__)
def test_names_may_be_given_beside_aliases(base: Any) -> None:
    class Named(base):  # type: ignore[misc]
        model_config = pydantic.ConfigDict(populate_by_name=True, extra="allow")
        one: int = pydantic.Field(1, alias="the-one")

    class Below(Named):
        two: int = pydantic.Field(2, alias="the-two")

    assert (Below(one="3").one, Below(**{"the-one": "4"}).one, Below(two="5").two) == (3, 4, 5)


class FirstVersion:
    class Config:
        frozen = True


@pytest.mark.parametrize(
    ("said", "instead"),
    [
        ({"a": pydantic.Field(1, frozen=True)}, r"a: Field\(frozen=…\) does not run here; leave it out"),
        ({"a": pydantic.Field(1, validation_alias=pydantic.AliasPath("b", 0))}, "AliasPath does not run here"),
        ({"model_config": {"alias_generator": str.upper}}, "alias_generator of model_config.* its alias"),
        ({"model_config": {"extra": "allow"}}, "parameters and the settings of models keep all that come"),
        ({"model_config": {"validate_assignment": True}}, "make a new object"),
        ({"Config": FirstVersion.Config}, "frozen of model_config"),
        ({"s": pydantic.field_serializer("a")(lambda self, a: str(a))}, "s: serializers do not run here; use a type"),
        ({"c": pydantic.computed_field(property(lambda self: 1))}, "c: a computed_field does not run here; use a"),
    ],
    ids=str,
)
def test_what_does_not_run_is_refused_with_its_class(said: dict[str, Any], instead: str) -> None:
    with pytest.raises(TypeError, match=instead):
        type("Asking", (RequestInput,), {"__module__": __name__, "__annotations__": {"a": int}, "a": 1, **said})


@pytest.mark.parametrize("base", (InferenceRequest, Parameters, pydantic.BaseModel), ids=lambda one: one.__name__)
def test_keys_that_are_no_fields_are_refused_where_a_class_says_so(base: Any) -> None:
    class Closed(base):  # type: ignore[misc]
        model_config = pydantic.ConfigDict(extra="forbid", populate_by_name=True)
        level: int = pydantic.Field(1, alias="the-level")

    class Below(Closed):
        name: str = ""

    class Open(Closed):
        model_config = pydantic.ConfigDict(extra="ignore") if base is not Parameters else {"extra": "allow"}

    known = {"inputs": []} if base is InferenceRequest else {}
    assert Closed(**known, level="2").level == 2
    assert Below(**known, name="a", **{"the-level": 3}).level == 3
    assert Open(**known, more=1).level == 1
    with pytest.raises(ValueError, match="Extra inputs are not permitted") as told:
        Below(**known, levle=1)
    assert [(one["loc"], one["type"], one["input"]) for one in told.value.errors()] == [
        (("levle",), "extra_forbidden", 1)
    ]


def test_settings_that_are_none_are_refused_where_a_class_says_so() -> None:
    class Closed(ModelParameters):
        model_config = {"extra": "forbid"}
        level: int = 1

    assert Closed(level="2", uri="here").level == 2
    with pytest.raises(SettingsError, match=r"levle.* is no setting of Closed, which takes no others; .*'level'"):
        Closed(levle=1)


def test_a_config_that_changes_nothing_is_taken() -> None:
    class Open(Parameters):
        model_config = pydantic.ConfigDict(protected_namespaces=(), arbitrary_types_allowed=True, extra="allow")
        model_size: int = 1

    assert Open(model_size="2", more=3).model_dump() == {"model_size": 2, "more": 3}


def test_settings_read_the_variables_that_their_prefix_names(monkeypatch: pytest.MonkeyPatch) -> None:
    class Prefixed(ModelParameters):
        model_config = {"env_prefix": "MY_RUNTIME_"}
        level: int = 1
        names: list[str] = []

    class FirstVersion(ModelParameters):
        level: int = 1

        class Config:
            env_prefix = "my_runtime_"

    monkeypatch.setenv("MY_RUNTIME_LEVEL", "3")
    monkeypatch.setenv("MY_RUNTIME_NAMES", '["a"]')
    monkeypatch.setenv("MLSERVER_MODEL_LEVEL", "4")
    assert (Prefixed().level, Prefixed().names, Prefixed(level=5).level, FirstVersion().level) == (3, ["a"], 5, 3)
    monkeypatch.setenv("MY_RUNTIME_LEVEL", "x")
    with pytest.raises(SettingsError, match="variable MY_RUNTIME_LEVEL: expected a whole number"):
        Prefixed()
