"""Settings files: reads them, finds the place of a mistake, completes what they leave open."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlserve.errors import SettingsError
from mlserve.settings.base import Sources, build, field_types, nearest
from mlserve.settings.convert import BadValue, parse_text
from mlserve.settings.environment import Variables, read_variables
from mlserve.settings.model import ModelParameters, ModelSettings
from mlserve.settings.server import Settings

SETTINGS_FILE = "settings.json"
MODEL_SETTINGS_FILE = "model-settings.json"

Report = Callable[[str], None]

_logger = logging.getLogger("mlserve.settings")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters at least: C: is a drive
_TRAILING_COMMA = re.compile(r",\s*[}\]]")


def load_settings(folder: Path | str | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The server's settings: overrides (those not None), then the folder's settings.json, variables, .env, defaults.

    The folder is the model repository unless its file names another (relative to it). Raises SettingsError.
    """
    place = Path(folder) if folder is not None else None
    if place is not None and not place.is_dir():
        place = place.parent
    variables = read_variables()
    _warn_of_misspelt(variables)
    path = place / SETTINGS_FILE if place is not None else None
    data, text = read_json_object(path) if path is not None and path.is_file() else ({}, "")
    if place is not None:
        data["model_repository_root"] = str(place / str(data.get("model_repository_root") or ""))
        if isinstance(data.get("logging_settings"), str):
            data["logging_settings"] = resolve_path(data["logging_settings"], place)
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    try:
        settings: Settings = build(Settings, {**data, **given}, Sources(variables, _reporter(path)))
    except BadValue as error:
        if error.path[0] in given:
            raise SettingsError(f"{error} (given on the command line)") from None
        raise SettingsError(_place(path, text, error)) from None
    return settings


def setting_from_text(name: str, text: str) -> Any:
    """A server setting's value from text such as a command line gives. SettingsError if there is no such setting."""
    types = field_types(Settings)
    if name not in types:
        raise SettingsError(f"there is no setting '{name}'{nearest(name, Settings)}")
    try:
        return parse_text(text, types[name])
    except ValueError as error:
        raise SettingsError(f"'{name}': {error}") from None


def parse_model_settings(path: Path | str, report: Report | None = None) -> ModelSettings:
    """One model's settings from its file, completed from MLSERVER_MODEL_* variables and the file's place.

    The name defaults to the folder's, the artifact to the folder itself; `parameters.uri` stays as it is written.
    Remarks on unknown keys go to `report` (else to the log). Raises SettingsError.
    """
    path = Path(path)
    data, text = read_json_object(path)
    sources = Sources(read_variables(), report or _reporter(path))
    try:
        settings: ModelSettings = build(ModelSettings, data, sources)
    except BadValue as error:
        raise SettingsError(_place(path, text, error)) from None
    if not settings.implementation:
        raise SettingsError(
            f"{path}: 'implementation' is missing: give the import path of the runtime, "
            f'such as "mlserve_sklearn.SKLearnModel", or its short name'
        )
    place_in(settings, path.parent)
    settings._source = str(path.absolute())
    return settings


def model_settings_from_variables(folder: Path, **given: Any) -> ModelSettings:
    """A model from MLSERVER_MODEL_* variables alone, with `given` before them. Raises SettingsError."""
    try:
        settings: ModelSettings = build(ModelSettings, given, Sources(read_variables()))
    except BadValue as error:
        raise SettingsError(str(error)) from None
    return place_in(settings, folder)


def place_in(settings: ModelSettings, folder: Path) -> ModelSettings:
    """Fills in what the model's folder decides: its name, its artifact, where its environment is."""
    folder = folder.absolute()
    settings.source_dir = folder
    settings.name = settings.name or folder.name
    parameters = settings.parameters
    if parameters is None:
        settings.parameters = parameters = ModelParameters.model_construct()
    parameters.uri = parameters.uri or str(folder)
    for name in ("environment_path", "environment_tarball"):
        value = getattr(parameters, name)
        if value:
            setattr(parameters, name, resolve_path(value, folder))
    return settings


def resolve_path(path: str, folder: Path) -> str:
    """An absolute path: relative ones belong to the folder, or, if only that exists, to the working directory.

    Addresses such as s3://bucket/model stay as they are.
    """
    if is_address(path):
        return path
    inside = (folder / os.path.expanduser(path)).absolute()
    beside = Path(path).absolute()
    # os.path takes also what no path can be, as one that is not there: the model's load says it.
    return str(beside if path and not os.path.exists(inside) and os.path.exists(beside) else inside)


def is_address(text: str) -> bool:
    """Whether a text begins with a scheme, as s3://bucket/model and models:/wine/1 do."""
    return _SCHEME.match(text) is not None


def read_json_object(path: Path) -> tuple[dict[str, Any], str]:
    """The object in a JSON file, and the file's text. SettingsError with line and column if there is none."""
    try:
        text = path.read_text("utf-8-sig")
        data = json.loads(text)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        problem = f"{error.msg[:1].lower()}{error.msg[1:]}{_advice(text, error.pos)}"
        raise SettingsError(f"{path}: line {error.lineno}, column {error.colno}: broken JSON: {problem}") from None
    except RecursionError:
        raise SettingsError(f"{path}: is nested too deeply") from None
    if not isinstance(data, dict):
        raise SettingsError(f"{path}: expected a JSON object {{...}}, got {type(data).__name__}")
    return data, text


def _advice(text: str, position: int) -> str:
    """What most likely went wrong at a place where JSON does not parse."""
    rest = text[position:].lstrip()
    if not text.strip():
        return " (the file is empty)"
    if rest.startswith(("//", "#", "/*")):
        return " (JSON has no comments)"
    if rest.startswith("'"):
        return " (JSON wants double quotes)"
    if _TRAILING_COMMA.match(text, max(0, text.rfind(",", 0, position + 1))):
        return " (a comma too many before the closing bracket)"
    if re.match(r"(True|False|None)\b", rest):
        return " (JSON writes true, false, null)"
    if not rest:
        return " (the file ends too early)"
    return ""


def _place(path: Path | None, text: str, error: BadValue) -> str:
    """The error with the file and line that it stands on."""
    line = line_of(text, error.path)
    return f"{path}{f', line {line}' if line else ''}: {error}" if path is not None else str(error)


def line_of(text: str, path: tuple[str, ...]) -> int | None:
    """The line on which a key stands, as good as a search can tell; None if it is not found."""
    position = found = 0
    for key in path:
        match = re.compile(re.escape(json.dumps(key)) + r"\s*:").search(text, position)
        if match is not None:
            position, found = match.end(), match.start() + 1
    return text.count("\n", 0, found) + 1 if found else None


def _reporter(path: Path | None) -> Report:
    def report(remark: str) -> None:
        _logger.warning("%s%s", f"{path}: " if path is not None else "", remark)

    return report


def _warn_of_misspelt(variables: Variables) -> None:
    """Remarks on variables that are nearly the name of a setting; others belong to other programs."""
    for cls in (Settings, ModelSettings):
        for name, (variable, _) in variables.of(cls._prefix).items():
            known = {*cls.__struct_fields__, *(ModelParameters.__struct_fields__ if cls is ModelSettings else ())}
            if name in known or (cls is Settings and name.startswith("model_") and name != "model_repository_root"):
                continue
            hint = nearest(name, cls, cutoff=0.85)
            if hint:
                _logger.warning("variable %s is no setting and is ignored%s", variable, hint)
