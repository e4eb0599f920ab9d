"""Settings from files and the command line: where a mistake is, and what the folder decides."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from mlserve.errors import SettingsError
from mlserve.settings import (
    ModelSettings,
    load_settings,
    model_settings_from_variables,
    parse_model_settings,
    setting_from_text,
)
from mlserve.settings.files import resolve_path
from tests.clean_place import clean_place, write  # noqa: F401  # for every test here


def test_the_order_is_command_line_file_variables_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "models" / "settings.json", {"http_port": 1, "grpc_port": 2})
    monkeypatch.setenv("MLSERVER_GRPC_PORT", "12")
    monkeypatch.setenv("MLSERVER_METRICS_PORT", "13")
    settings = load_settings(tmp_path / "models", {"http_port": 21, "host": None})
    assert (settings.http_port, settings.grpc_port, settings.metrics_port) == (21, 2, 13)
    assert settings.host == "0.0.0.0"


def test_the_folder_is_the_repository_unless_its_file_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLSERVER_MODEL_REPOSITORY_ROOT", "/elsewhere")
    folder = tmp_path / "a"
    folder.mkdir()
    assert load_settings(folder, {}).model_repository_root == str(folder)
    write(folder / "settings.json", {"model_repository_root": "./models"})
    assert Path(load_settings(folder, {}).model_repository_root) == folder / "models"
    assert load_settings(None, {}).model_repository_root == "/elsewhere"


def test_a_saved_model_takes_the_settings_of_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "m" / "settings.json", {"http_port": 1})
    assert load_settings(write(tmp_path / "m" / "model.joblib", ""), {}).http_port == 1


def test_a_logging_file_belongs_to_the_folder_or_else_to_the_working_directory(tmp_path: Path) -> None:
    write(tmp_path / "m" / "settings.json", {"logging_settings": "./logging.ini"})
    write(tmp_path / "logging.ini", "")
    assert load_settings(tmp_path / "m", {}).logging_settings == str(tmp_path / "logging.ini")
    inside = write(tmp_path / "m" / "logging.ini", "")
    assert load_settings(tmp_path / "m", {}).logging_settings == str(inside)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{not json", "line 1, column 2: broken JSON: expecting property name"),
        ('{"a": 1,\n}', "(a comma too many before the closing bracket)"),
        ('{"a": 1 // x\n}', "line 1, column 9: broken JSON: expecting ',' delimiter (JSON has no comments)"),
        ("{'a': 1}", "(JSON wants double quotes)"),
        ('{"a": True}', "(JSON writes true, false, null)"),
        ('{"a": [1,', "(the file ends too early)"),
        ("", "(the file is empty)"),
        ("[]", "expected a JSON object {...}, got list"),
        ("[" * 200000, "is nested too deeply"),
    ],
)
def test_broken_json_is_told_with_file_line_column_and_advice(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "settings.json", text)
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path, {})
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


def test_a_file_that_is_not_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(SettingsError, match="is not UTF-8 text"):
        load_settings(tmp_path, {})


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_bytes(b'\xef\xbb\xbf{"http_port": 1}')
    assert load_settings(tmp_path, {}).http_port == 1


def test_a_wrong_value_in_a_file_is_told_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "settings.json", '{\n "host": "http_port",\n "http_port": "x"}')
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path, {})
    assert str(caught.value) == f"{path}, line 3: 'http_port': expected a whole number, got \"x\""
    assert load_settings(tmp_path, {"http_port": 5}).http_port == 5
    with pytest.raises(SettingsError, match=r"'grpc_port': .* \(given on the command line\)"):
        load_settings(tmp_path, {"http_port": 5, "grpc_port": -1})


def test_a_misspelt_variable_is_remarked_on_but_not_those_of_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("MLSERVER_HTTP_PROT", "MLSERVER_SERVICE_HOST", "MLSERVER_ENV_TARBALL", "MLSERVER_MODEL_NAME"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("MLSERVER_MODEL_HUGGINGFACE_TASK", "fill-mask")
    load_settings(None, {})
    assert [record.getMessage() for record in caplog.records] == [
        "variable MLSERVER_HTTP_PROT is no setting and is ignored; did you mean 'http_port'?"
    ]


def test_a_model_takes_name_artifact_and_environment_from_its_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "iris" / "model-settings.json", {"implementation": "a.B"})
    settings = parse_model_settings(path)
    assert settings.name == "iris" and settings.source_dir == tmp_path / "iris"
    assert settings.parameters is not None and settings.parameters.uri == str(tmp_path / "iris")

    parameters = {"uri": "./m.joblib", "environment_tarball": "env.tar.gz"}
    write(path, {"name": "other", "implementation": "a.B", "parameters": parameters})
    settings = parse_model_settings(path)
    assert settings.name == "other" and settings.parameters is not None
    assert settings.parameters.uri == "./m.joblib"
    assert settings.parameters.environment_tarball == str(tmp_path / "iris" / "env.tar.gz")


@pytest.mark.parametrize("path", ["a" * 5000, "a\0b", "~nobody-of-this-name/x", "\ud800"])
def test_what_can_be_no_path_is_left_to_the_load_of_the_model(tmp_path: Path, path: str) -> None:
    assert resolve_path(path, tmp_path) == str(tmp_path / path)


def test_an_environment_that_only_exists_from_the_working_directory_is_found_there(tmp_path: Path) -> None:
    write(tmp_path / "data" / "env.tar.gz", "")
    parameters = {"environment_tarball": "data/env.tar.gz"}
    path = write(tmp_path / "iris" / "model-settings.json", {"implementation": "a.B", "parameters": parameters})
    settings = parse_model_settings(path)
    assert settings.parameters is not None
    assert settings.parameters.environment_tarball == str(tmp_path / "data" / "env.tar.gz")


@pytest.mark.parametrize(
    "uri", ["m.bin", "art/", "hf-org/model", "./nothing", "../x", "~/x", "s3://b/m", "models:/iris/1", "/a/m.joblib"]
)
def test_the_artifact_is_named_as_it_is_written(tmp_path: Path, uri: str) -> None:
    """Code of models gives it to whoever knows such names: `from_pretrained("hf-org/model")`."""
    (tmp_path / "iris" / "art").mkdir(parents=True)
    (tmp_path / "iris" / "m.bin").touch()
    path = write(tmp_path / "iris" / "model-settings.json", {"implementation": "a.B", "parameters": {"uri": uri}})
    settings = parse_model_settings(path)
    assert settings.parameters is not None and settings.parameters.uri == uri


@pytest.mark.parametrize("parameters", [{}, {"parameters": {"uri": ""}}, {"parameters": {"uri": None}}], ids=str)
def test_no_artifact_is_the_models_folder(tmp_path: Path, parameters: dict[str, Any]) -> None:
    path = write(tmp_path / "iris" / "model-settings.json", {"implementation": "a.B", **parameters})
    settings = parse_model_settings(path)
    assert settings.parameters is not None and settings.parameters.uri == str(tmp_path / "iris")


def test_settings_know_the_file_that_they_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "iris" / "model-settings.json", {"name": "iris", "implementation": "a.B"})
    monkeypatch.chdir(tmp_path)
    relative = Path("iris/model-settings.json")
    for settings in (parse_model_settings(path), parse_model_settings(relative)):
        for one in (settings, settings.model_copy(), copy.deepcopy(settings), pickle.loads(pickle.dumps(settings))):
            assert one._source == str(path) and one.source_dir == tmp_path / "iris"
        assert "_source" not in settings.model_dump()
    read = ModelSettings.parse_file(relative)
    assert read._source == str(relative) and read.source_dir == relative.parent


def test_settings_made_in_code_came_from_no_file_until_they_are_told(tmp_path: Path) -> None:
    settings = ModelSettings(name="iris", implementation="a.B")
    assert settings._source is None and settings.source_dir is None
    settings._source = str(tmp_path / "model-settings.json")
    assert settings.source_dir == tmp_path
    settings._source = None
    assert settings._source is None and settings.source_dir is None
    assert model_settings_from_variables(tmp_path, implementation="a.B")._source is None


def test_a_model_without_implementation_is_refused_unless_a_variable_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "iris" / "model-settings.json", {"name": "iris"})
    with pytest.raises(SettingsError, match="'implementation' is missing"):
        parse_model_settings(path)
    monkeypatch.setenv("MLSERVER_MODEL_IMPLEMENTATION", "a.B")
    assert parse_model_settings(path).implementation == "a.B"


def test_command_line_text_becomes_a_settings_value() -> None:
    assert setting_from_text("extensions", '["a"]') == ["a"]
    assert setting_from_text("metrics_endpoint", "null") is None
    with pytest.raises(SettingsError, match="no setting 'metric_endpoint'; did you mean 'metrics_endpoint'"):
        setting_from_text("metric_endpoint", "x")
