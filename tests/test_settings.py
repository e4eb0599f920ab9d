"""Settings: defaults, sources and their order, conversions, messages."""

from __future__ import annotations

import json
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
from mlserve.settings.environment import parse_dotenv
from mlserve.types import MetadataTensor
from tests.clean_place import clean_place  # noqa: F401  # for every test here

DOCS = Path(__file__).parent.parent / "docs" / "settings.md"


class Runtime:
    """Stands for a runtime class."""


def test_defaults_are_mlservers_except_for_debug_and_name(tmp_path: Path) -> None:
    settings = Settings()
    assert (settings.host, settings.http_port, settings.grpc_port, settings.metrics_port) == (
        "0.0.0.0",
        8080,
        8081,
        8082,
    )
    assert settings.debug is False and settings.server_name == "mlserve"
    assert settings.metrics_endpoint == "/metrics" and settings.metrics_rest_server_prefix == "rest_server"
    assert settings.parallel_workers == 1 and settings.parallel_workers_timeout == 5
    assert settings.environments_dir == str(tmp_path / ".envs") and settings.metrics_dir == str(tmp_path / ".metrics")
    assert settings.kafka_servers == "localhost:9092" and settings.kafka_topic_output == "mlserver-output"
    assert settings.cors_settings is None and settings.cache_size == 100


def test_defaults_of_a_model_are_mlservers() -> None:
    settings = ModelSettings(name="x", implementation=Runtime)
    assert settings.parameters is None and settings.version is None and settings.source_dir is None
    assert (settings.max_batch_size, settings.max_batch_time, settings.warm_workers) == (0, 0.0, False)
    assert settings.inputs == [] and settings.versions == [] and settings.platform == ""
    assert settings.implementation is Runtime and settings.implementation_.endswith("test_settings.Runtime")


def test_mutable_defaults_are_not_shared() -> None:
    Settings().extensions.append("x")
    CORSSettings().allow_methods.append("POST")
    assert Settings().extensions == [] and CORSSettings().allow_methods == ["GET"]


@pytest.mark.parametrize("cls", [Settings, ModelSettings, ModelParameters, CORSSettings])
def test_every_setting_is_in_the_documentation(cls: type[Any]) -> None:
    text = DOCS.read_text("utf-8")
    missing = [name for name in cls.__struct_fields__ if f"`{name}`" not in text]
    assert not missing


def test_the_documentation_knows_no_setting_that_is_gone() -> None:
    rows = [line.split("`")[1] for line in DOCS.read_text("utf-8").splitlines() if line.startswith("| `")]
    known = {name for cls in (Settings, ModelSettings, ModelParameters, CORSSettings) for name in cls.__struct_fields__}
    assert rows and set(rows) <= known


def test_what_the_caller_gives_wins_over_variables_those_over_dotenv_that_over_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(".env").write_text("MLSERVER_HTTP_PORT=1\nMLSERVER_GRPC_PORT=2\nMLSERVER_METRICS_PORT=3\n")
    monkeypatch.setenv("MLSERVER_HTTP_PORT", "11")
    monkeypatch.setenv("MLSERVER_GRPC_PORT", "12")
    settings = Settings(http_port=21)
    assert (settings.http_port, settings.grpc_port, settings.metrics_port) == (21, 12, 3)
    assert settings.parallel_workers == 1


def test_another_env_file_or_none_can_be_named() -> None:
    Path(".env").write_text("MLSERVER_HTTP_PORT=1\n")
    Path("other.env").write_text("MLSERVER_HTTP_PORT=2\n")
    assert Settings(_env_file="other.env").http_port == 2
    assert Settings(_env_file=None).http_port == 8080
    assert Settings(_env_file="not-there").http_port == 8080


@pytest.mark.parametrize("name", ["MLSERVER_HTTP_PORT", "mlserver_http_port", "MLServe_Http_Port", "MLSERVE_HTTP_PORT"])
def test_variables_have_either_prefix_in_any_case(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "9000")
    assert Settings().http_port == 9000


def test_our_prefix_wins_over_mlservers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVE_HTTP_PORT", "1")
    monkeypatch.setenv("MLSERVER_HTTP_PORT", "2")
    assert Settings().http_port == 1


def test_structured_variables_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER_EXTENSIONS", '["a", "b"]')
    monkeypatch.setenv("MLSERVER_CORS_SETTINGS", '{"allow_origins": ["*"], "allow_credentials": "true"}')
    monkeypatch.setenv("MLSERVER_LOGGING_SETTINGS", "logging.ini")
    settings = Settings()
    assert settings.extensions == ["a", "b"] and settings.logging_settings == "logging.ini"
    assert settings.cors_settings == CORSSettings(allow_origins=["*"], allow_credentials=True)
    monkeypatch.setenv("MLSERVER_LOGGING_SETTINGS", '{"version": 1}')
    assert Settings().logging_settings == {"version": 1}


def test_a_variable_can_say_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER_METRICS_ENDPOINT", "null")
    monkeypatch.setenv("MLSERVE_REQUEST_TIMEOUT_SECONDS", "")
    settings = Settings()
    assert settings.metrics_endpoint is None and settings.request_timeout_seconds is None


def test_model_variables_fill_what_is_left_open_flat_parameters_included(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER_MODEL_MAX_BATCH_SIZE", "8")
    monkeypatch.setenv("MLSERVER_MODEL_URI", "./m.joblib")
    monkeypatch.setenv("MLSERVER_MODEL_VERSION", "3")
    monkeypatch.setenv("MLSERVER_MODEL_INPUTS", '[{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]')
    settings = ModelSettings(name="x", implementation="a.B", parameters={"version": "1"})
    assert settings.max_batch_size == 8 and settings.parameters is not None
    assert settings.parameters.uri == "./m.joblib" and settings.version == "1"
    assert settings.inputs[0].shape == [-1, 4]
    assert ModelSettings(implementation="a.B").version == "3"


def test_parameters_that_are_given_as_an_object_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER_MODEL_URI", "./m.joblib")
    parameters = ModelParameters.model_construct(version="1")
    assert ModelSettings(parameters=parameters).parameters is parameters
    assert parameters.uri is None


def test_dotenv_knows_quotes_comments_export_references_and_long_values() -> None:
    text = """
    # a comment
    export A=plain value # not this
    B="with \\"quotes\\" # and a sign\\n"
    C='{"json": "as it is \\n"}'
    D=${A}/${MISSING:-none}
    E=
    F="over
two lines"
    not an assignment
    G = spaced
    H=a#b
    """
    values = parse_dotenv(text.replace("    ", ""))
    assert values["A"] == "plain value" and values["B"] == 'with "quotes" # and a sign\n'
    assert json.loads(values["C"]) == {"json": "as it is \n"}
    assert values["D"] == "plain value/none" and values["E"] == ""
    assert values["F"] == "over\ntwo lines" and values["G"] == "spaced" and values["H"] == "a#b"
    assert len(values) == 8


@given(st.text(alphabet=st.characters(exclude_characters="'\r\0", exclude_categories=["Cs"])))
def test_single_quotes_in_dotenv_keep_any_text(value: str) -> None:
    assert parse_dotenv(f"A=1\nKEY='{value}'\nZ=2\n") == {"A": "1", "KEY": value, "Z": "2"}


@given(st.text())
def test_any_dotenv_file_can_be_read(text: str) -> None:
    parse_dotenv(text)


@pytest.mark.parametrize(
    ("given_value", "kept"),
    [("true", True), ("True", True), ("1", True), ("on", True), (1, True), ("false", False), ("no", False), (0, False)],
)
def test_words_for_booleans_are_understood(given_value: Any, kept: bool) -> None:
    assert Settings(debug=given_value).debug is kept


def test_numbers_may_be_text_or_whole_floats() -> None:
    settings = Settings(http_port="9000", grpc_port=9001.0, request_timeout_seconds="0.5")
    assert (settings.http_port, settings.grpc_port, settings.request_timeout_seconds) == (9000, 9001, 0.5)
    assert ModelSettings(max_batch_time="auto", target_latency_seconds=0.1).max_batch_time == "auto"
    assert ModelSettings(max_batch_time="0.5").max_batch_time == 0.5


def test_a_version_may_be_written_as_a_number() -> None:
    assert ModelSettings(parameters={"version": 2}).version == "2"


def test_tensors_become_objects() -> None:
    tensor: dict[str, Any] = {"name": "x", "datatype": "BYTES", "shape": [-1], "parameters": {"content_type": "str"}}
    settings = ModelSettings(inputs=[tensor], outputs=[MetadataTensor(**tensor)])
    assert settings.inputs == settings.outputs
    assert settings.inputs[0].parameters is not None and settings.inputs[0].parameters.content_type == "str"


def test_unknown_keys_of_parameters_are_kept_as_attributes_and_dumped() -> None:
    parameters = ModelParameters(uri="x", threshold=0.5, extra={"a": 1})
    assert parameters.threshold == 0.5 and parameters.model_extra == {"threshold": 0.5}
    assert parameters.extra == {"a": 1} and parameters.model_dump()["threshold"] == 0.5
    assert parameters != ModelParameters(uri="x", extra={"a": 1})
    with pytest.raises(AttributeError, match="no 'missing'"):
        _ = parameters.missing


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"http_port": "x"}, "'http_port': expected a whole number, got \"x\""),
        ({"http_port": 70000}, "'http_port': expected a whole number <= 65535, got 70000"),
        ({"http_port": True}, "'http_port': expected a whole number, got true"),
        ({"debug": "maybe"}, "'debug': expected true or false, got \"maybe\""),
        ({"backend": "curio"}, "'backend': expected 'asyncio' or 'trio', got \"curio\""),
        ({"host": 3}, "'host': expected text, got 3"),
        ({"extensions": [1]}, "'extensions': expected text for each member, got [1]"),
        ({"cors_settings": {"max_age": "x"}}, "'cors_settings.max_age': expected a whole number"),
        ({"cors_settings": []}, "'cors_settings': expected an object {...} or null, got []"),
        ({"shutdown_pause_seconds": float("nan")}, "'shutdown_pause_seconds': expected a number >= 0"),
        ({"request_timeout_seconds": float("inf")}, "'request_timeout_seconds': expected a finite number"),
        ({"max_body_bytes": 0}, "'max_body_bytes': expected a whole number >= 1, got 0"),
        ({"logging_settings": []}, "'logging_settings': expected text or an object {...} or null, got []"),
    ],
)
def test_a_wrong_value_names_its_key_and_what_was_expected(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(**wrong)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_batch_time": "soon"}, "'max_batch_time': expected a number or 'auto', got \"soon\""),
        ({"max_batch_time": -1}, "'max_batch_time': expected a number >= 0, got -1"),
        ({"devices": [-1]}, "'devices.0': expected a number from 0 on, or a UUID such as \"GPU-…\", got -1"),
        ({"devices": [0, ""]}, '\'devices.1\': expected a number from 0 on, or a UUID such as "GPU-…", got ""'),
        ({"devices": ["0,-1"]}, "'devices.0': expected a number from 0 on"),
        ({"devices": ["0,"]}, "'devices.0': expected a number from 0 on"),
        ({"devices": [0.5]}, "'devices': expected a whole number or text for each member"),
        ({"inputs": {}}, "'inputs': expected a list of {name, datatype, shape}, got {}"),
        ({"inputs": [{"name": "x"}]}, "'inputs.0': has no 'datatype'"),
        ({"inputs": [{"name": "x", "datatype": "FP33", "shape": [1]}]}, "'inputs.0.datatype': "),
        ({"outputs": ["x"]}, "'outputs.0': expected {name, datatype, shape}, got \"x\""),
        ({"parameters": 3}, "'parameters': expected an object {...}, got 3"),
        ({"parameters": {"extra": []}}, "'parameters.extra': expected an object {...}, got []"),
        ({"implementation": 3}, "'implementation': expected an import path such as"),
    ],
)
def test_a_wrong_value_of_a_model_names_its_key_too(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        ModelSettings(**wrong)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("mlserver_extensions", "a,b")
    with pytest.raises(SettingsError, match=r'variable mlserver_extensions: expected JSON such as \["a", "b"\]'):
        Settings()
    monkeypatch.setenv("mlserver_extensions", "3")
    with pytest.raises(SettingsError, match="variable mlserver_extensions: expected a list, got 3"):
        Settings()
    monkeypatch.delenv("mlserver_extensions")
    monkeypatch.setenv("MLSERVE_CORS_SETTINGS", '{"max_age": "x"}')
    with pytest.raises(SettingsError, match="variable MLSERVE_CORS_SETTINGS: 'max_age': expected a whole number"):
        Settings()
    monkeypatch.delenv("MLSERVE_CORS_SETTINGS")
    monkeypatch.setenv("MLSERVER_HTTP_PORT", "tcp://10.0.0.1:8080")
    with pytest.raises(SettingsError, match="enableServiceLinks"):
        Settings()


def test_an_unknown_key_is_ignored_with_a_remark_on_the_nearest_one(caplog: pytest.LogCaptureFixture) -> None:
    assert Settings(http_prot=1).http_port == 8080
    ModelSettings(uri="x")
    Settings(_comment="fine", **{"$schema": "fine"})
    assert [record.getMessage() for record in caplog.records] == [
        "unknown key 'http_prot' is ignored; did you mean 'http_port'?",
        "unknown key 'uri' is ignored; did you mean 'parameters.uri'?",
    ]
