"""What subclasses hold of pydantic's models and types is written as pydantic writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pydantic
import pytest

from mlserve.settings import ModelParameters
from mlserve.types import InferenceRequest, InferenceResponse, Parameters


class Inner(pydantic.BaseModel):
    size: int = 1
    secret: str = "s"
    none: str | None = None


def fields(base: Any) -> Any:
    class Holder(base):  # type: ignore[misc]
        inner: Inner
        inners: dict[str, list[Inner]] = {}
        folder: Path = Path("/")
        token: pydantic.SecretStr = pydantic.SecretStr("t")
        url: pydantic.HttpUrl | None = None
        hidden: int = pydantic.Field(1, exclude=True)

    return Holder


GIVEN: dict[str, Any] = {
    "inner": {"size": "2"},
    "inners": {"a": [{"secret": "x"}]},
    "folder": "/a",
    "token": "abc",
    "url": "http://a/b",
    "hidden": 3,
}
PICKED: list[dict[str, Any]] = [
    {},
    {"exclude": {"inner": {"size"}}},
    {"include": {"inner": {"size"}, "folder": True}},
    {"exclude": {"inners": {"a": {"__all__": {"secret"}}}}},
    {"include": {"hidden"}},
    {"mode": "json"},
]


@pytest.mark.parametrize("base", [Parameters, InferenceRequest, ModelParameters])
@pytest.mark.parametrize("picked", PICKED, ids=str)
def test_models_inside_are_dicts_and_picked_from(base: Any, picked: dict[str, Any]) -> None:
    ours, theirs = fields(base)(**GIVEN, inputs=[]), fields(pydantic.BaseModel)(**GIVEN)
    assert ours.hidden == 3
    expected = theirs.model_dump(exclude_unset=True, **picked)
    dumped = ours.model_dump(exclude_unset=True, **picked)
    dumped.pop("inputs", None)
    assert dumped == expected
    if "mode" not in picked:
        written = json.loads(ours.model_dump_json(exclude_unset=True, **picked))
        written.pop("inputs", None)
        assert written == json.loads(theirs.model_dump_json(exclude_unset=True, **picked))
    json.dumps(ours.model_dump(mode="json"))


def test_they_are_written_into_answers() -> None:
    class Told(Parameters):
        folder: Path
        token: pydantic.SecretStr
        inner: Inner
        hidden: int = pydantic.Field(1, exclude=True)

    told = Told(folder="/a", token="abc", inner={"size": 2}, hidden="3")
    assert (told.hidden, told.model_copy().hidden, "hidden" in told) == (3, 3, False)
    text = InferenceResponse(model_name="m", outputs=[], parameters=told).model_dump_json()
    assert json.loads(text)["parameters"] == {"folder": "/a", "token": "**********", "inner": {"size": 2}}
    assert "abc" not in repr(told)


@pytest.mark.parametrize(
    ("hint", "given", "written"),
    [
        (pydantic.Secret[int], 1, "**********"),
        (pydantic.SecretBytes, b"x", "**********"),
        (pydantic.IPvAnyAddress, "1.2.3.4", "1.2.3.4"),
        (pydantic.PostgresDsn, "postgres://a:b@c/d", "postgres://a:b@c/d"),
        (pydantic.Json, '{"a": 1}', {"a": 1}),
        (pydantic.ByteSize, "3MB", 3000000),
    ],
    ids=str,
)
def test_pydantics_types_have_their_json_form(hint: Any, given: Any, written: Any) -> None:
    class Holder(Parameters):
        a: hint

    assert json.loads(Holder(a=given).model_dump_json()) == {"a": written}
    assert Holder(a=given).model_dump(mode="json") == {"a": written}


def test_settings_with_a_required_field_have_a_dump() -> None:
    class Needed(ModelParameters):
        level: int

    assert Needed(level="2").model_dump(exclude_unset=True) == {"level": 2}
