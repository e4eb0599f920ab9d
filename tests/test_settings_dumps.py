"""Settings with pydantic's method names: dumps, JSON, copies, schemas."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve.errors import SettingsError
from mlserve.settings import (
    CORSSettings,
    ModelParameters,
    ModelSettings,
    Settings,
)
from tests.clean_place import clean_place, write  # noqa: F401  # for every test here


class Runtime:
    """Stands for a runtime class."""


def model() -> ModelSettings:
    return ModelSettings(
        name="x",
        implementation=Runtime,
        inputs=[{"name": "a", "datatype": "FP32", "shape": [2], "parameters": {"content_type": "np", "unit": "m"}}],
        parameters={"version": "1", "own": [1, 2]},
    )


def test_settings_go_through_json_and_back() -> None:
    settings = model()
    again = ModelSettings.model_validate_json(settings.model_dump_json(by_alias=True))
    assert again.implementation == settings.implementation_
    again.implementation = Runtime
    assert again == settings and again.parameters is not None and again.parameters.own == [1, 2]
    assert Settings.parse_raw(Settings(http_port=1).json()) == Settings(http_port=1)


def test_a_full_dump_is_read_back_without_looking_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    text = model().model_dump_json()
    monkeypatch.setenv("MLSERVER_MODEL_NAME", "other")
    monkeypatch.setenv("MLSERVER_MODEL_URI", "other")
    again = ModelSettings.model_validate_json(text)
    assert again.name == "x" and again.parameters is not None and again.parameters.uri is None


def test_dumps_can_leave_things_out() -> None:
    settings = model()
    assert settings.model_dump(include={"name"}) == {"name": "x"}
    assert "name" not in settings.model_dump(exclude={"name"})
    assert set(settings.model_dump(exclude_unset=True)) == {"name", "implementation", "inputs", "parameters"}
    assert settings.model_dump(exclude_none=True, include={"parameters"})["parameters"] == {
        "version": "1",
        "autogenerate_inference_pool_gid": False,
        "extra": {},
        "own": [1, 2],
    }
    assert Settings(http_port=1, grpc_port=8081).model_dump(exclude_defaults=True) == {"http_port": 1}


def test_dumps_are_picked_from_as_those_of_the_types_are() -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1]}
    settings = ModelSettings(name="m", inputs=[tensor], parameters={"uri": "a", "version": "v1"})
    picked = settings.model_dump(exclude={"parameters": {"uri"}, "inputs": {"__all__": {"shape"}}})
    assert "uri" not in picked["parameters"] and picked["parameters"]["version"] == "v1"
    assert picked["inputs"] == [{"name": "x", "datatype": "FP32"}]
    assert settings.model_dump(include={"parameters": {"version"}}) == {"parameters": {"version": "v1"}}
    assert settings.model_dump(exclude_unset=True, round_trip=True)["parameters"] == {"uri": "a", "version": "v1"}


def test_older_names_dump_what_was_given_ready_for_a_file() -> None:
    settings = ModelSettings(name="m", implementation=Runtime, parameters={"uri": "a"})
    settings.max_batch_size = 4
    wanted = {
        "name": "m",
        "implementation": settings.implementation_,
        "max_batch_size": 4,
        "parameters": {"uri": "a"},
    }
    assert settings.dict() == json.loads(json.dumps(settings.dict())) == json.loads(settings.json()) == wanted
    assert Settings(http_port=5).dict() == {"http_port": 5}
    assert "grpc_port" in Settings().dict(exclude_unset=False)


def test_settings_have_the_methods_of_models() -> None:
    settings = ModelSettings(name="m", implementation=Runtime)
    assert dict(settings)["name"] == "m"
    assert dict(ModelParameters(extra_key=1))["extra_key"] == 1
    assert settings.copy(update={"name": "n"}).name == "n"
    assert json.loads(settings.model_dump_json(by_alias=True))["implementation"] == settings.implementation_


@pytest.mark.parametrize("cls", [Settings, ModelSettings, ModelParameters, CORSSettings])
def test_each_class_has_a_schema_of_its_settings(cls: type[Any]) -> None:
    schema = json.loads(json.dumps(cls.model_json_schema()))
    assert schema["title"] == cls.__name__
    assert list(schema["properties"]) == list(cls.__struct_fields__)


def test_validation_takes_objects_and_mappings_and_nothing_else() -> None:
    settings = Settings(http_port=1)
    assert Settings.model_validate(settings) is settings
    assert Settings.parse_obj({"http_port": 1}) == settings
    with pytest.raises(SettingsError, match="expected an object"):
        Settings.model_validate([1])
    with pytest.raises(SettingsError):
        Settings.model_validate_json("{")


def test_files_are_parsed(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", {"http_port": 1})
    assert Settings.parse_file(path).http_port == 1
    assert ModelSettings.parse_file(str(write(path, {"name": "n", "implementation_": "a.B"}))).implementation == "a.B"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_keep_everything_and_read_no_environment(duplicate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = model()
    settings.source_dir = Path("/models/x")
    monkeypatch.setenv("MLSERVER_MODEL_PLATFORM", "other")
    again = duplicate(settings)
    assert again == settings and again.source_dir == Path("/models/x") and again.parameters.own == [1, 2]
    assert again.platform == ""


def test_a_copy_can_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = model()
    other = settings.model_copy(update={"name": "y"}, deep=True)
    assert other.name == "y" and other.parameters is not None
    other.parameters.extra["a"] = 1
    assert settings.name == "x" and settings.parameters is not None and settings.parameters.extra == {}


def test_settings_can_be_set() -> None:
    settings = Settings()
    settings.http_port = 0
    assert settings.http_port == 0 and logging.getLogger("mlserve").name == "mlserve"


@given(
    st.dictionaries(
        st.text(max_size=20),
        st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5),
    )
)
def test_any_json_object_gives_settings_or_a_settings_error(data: dict[str, Any]) -> None:
    for cls in (Settings, ModelSettings):
        names = dict(zip(cls.__struct_fields__, data.values(), strict=False))
        try:
            cls(_env_file=None, **{**names, **{key: value for key, value in data.items() if key != "_env_file"}})
        except SettingsError as error:
            assert "\n" not in str(error)
