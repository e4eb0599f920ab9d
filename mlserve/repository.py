"""Model folders on disk: which models there are, with which settings, as they are at this moment.

Every `model-settings.json` at or below the root is one version of one model. A root without any may be a single saved
model (its kind says the runtime), or is filled in by MLSERVER_MODEL_* variables. Nothing is kept between two calls but
what was said in the log, so that a reload sees every edit, and no remark comes twice.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mlserve.errors import SettingsError, StartupError
from mlserve.runtime_names import explain_import_error, runtime_of_artifact
from mlserve.settings import (
    MODEL_SETTINGS_FILE,
    SETTINGS_FILE,
    ModelSettings,
    Settings,
    model_settings_from_variables,
    parse_model_settings,
    resolve_path,
)

__all__ = ["CustomRepository", "GivenModels", "ModelRepository", "open_repository", "version_key"]

_logger = logging.getLogger("mlserve.repository")
_DIGITS = re.compile(r"(\d+)")
_LEADING_V = re.compile(r"^v(?=\d)")
_PRERELEASE = re.compile(r"[-._]?(a|alpha|b|beta|c|rc|dev|pre|preview)[-._]?$")
_ENVIRONMENT_MARKS = ("pyvenv.cfg", "conda-meta")  # an unpacked Python environment, not models

Found = list[ModelSettings]


def version_key(version: str) -> tuple[Any, ...]:
    """Sorts versions as people count: "10" after "2", "v0.10.0" after "v0.9.0", "1.0" after "1.0-rc1"."""
    parts: list[tuple[int, int, str]] = []
    for part in _DIGITS.split(_LEADING_V.sub("", version.strip().lower())):
        if part.isdecimal():
            digits = part.lstrip("0")
            parts.append((2, len(digits), digits))  # as numbers, however long
        elif part:
            parts.append((0 if _PRERELEASE.match(part) and parts else 2, -1, part))
    return (bool(version), [*parts, (1, 0, "")], version)


class ModelRepository:
    """The models below a folder, or the one saved model that a path is.

    Reading blocks, for as long as files take; a server does it in a thread. Whoever opened it closes it.
    """

    readers = 1  # threads that may read at once: more of them would take the processor from the event loop

    def __init__(self, root: Path | str) -> None:
        self.root = Path(os.path.abspath(root))
        self.broken: dict[Path, SettingsError] = {}  # settings files that could not be read, the last time
        self._told: set[str] = set()  # remarks that are in the log already

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.root}>"

    def find(self, name: str) -> Found:
        """All versions of a model, as they are on disk now. SettingsError if its settings cannot be read."""
        found, broken = self._read()
        versions = [settings for settings in found if settings.name == name]
        if not versions:
            for path, error in broken.items():
                if path.parent.name == name:
                    raise error
        return versions

    def list(self) -> Found:
        """All versions of all models. Broken settings files are told in the log, once, and left out."""
        return self._read()[0]

    def close(self) -> None:
        """Lets go of what is kept between two calls."""

    def _read(self) -> tuple[Found, dict[Path, SettingsError]]:
        found: dict[tuple[str, str | None], ModelSettings] = {}
        broken: dict[Path, SettingsError] = {}
        paths = (
            [] if self.root.is_file() else sorted(settings_files(self.root), key=lambda path: version_key(str(path)))
        )
        for path in paths:
            try:
                settings = parse_model_settings(path, report=partial(self._tell_of, path))
            except SettingsError as error:
                broken[path] = error
                self._tell(f"{error} (the server goes on without this model)", logging.ERROR)
                continue
            first = found.setdefault((settings.name, settings.version), settings)
            if first is not settings:
                self._tell(f"{path}: ignored, since {first.source_dir} has the same model and version already")
        self.broken = broken
        if paths:
            return list(found.values()), broken
        single = self._single()
        return [single] if single is not None else [], broken

    def _single(self) -> ModelSettings | None:
        """The one model of a root without settings files: what variables say, or the saved model that lies there."""
        folder = self.root.parent if self.root.is_file() else self.root
        artifact = self.root if self.root.is_file() else None
        settings = model_settings_from_variables(folder, **({"parameters": {"uri": str(artifact)}} if artifact else {}))
        if artifact is None and settings.parameters is not None:
            uri = settings.parameters.uri or str(folder)
            artifact = Path(resolve_path(uri, folder)) if uri != str(folder) else _only_artifact(folder)
        guessed = self.root.is_file() or not settings.implementation  # else variables describe the folder's model
        if artifact is not None and guessed and "name" not in settings.model_fields_set:
            settings.name = _name_of(artifact)
        if not settings.implementation:
            runtime = runtime_of_artifact(artifact) if artifact is not None else None
            if artifact is None or runtime is None or settings.parameters is None:
                self._tell(
                    f"no model at {self.root}: no {MODEL_SETTINGS_FILE} at or below it, no saved model of a known "
                    f"kind, and MLSERVER_MODEL_IMPLEMENTATION is not set"
                )
                return None
            settings.implementation = runtime.implementation
            if settings.parameters.uri == str(folder):
                settings.parameters.uri = str(artifact)
        return settings

    def _tell_of(self, path: Path, remark: str) -> None:
        self._tell(f"{path}: {remark}")

    def _tell(self, remark: str, level: int = logging.WARNING) -> None:
        if remark not in self._told:
            self._told.add(remark)
            _logger.log(level, "%s", remark)


def settings_files(root: Path) -> Iterator[Path]:
    """Every model-settings.json at or below a folder; hidden folders, environments and loops of links left out."""
    yield from _walk(root, frozenset())


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    place = os.path.realpath(folder)
    if place in above:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        _logger.debug("%s cannot be read: %s", folder, error)
        return
    if any(entry.name in _ENVIRONMENT_MARKS for entry in entries):
        return
    for entry in entries:
        if entry.name == MODEL_SETTINGS_FILE and _is(entry.is_file):
            yield Path(entry.path)
        elif not entry.name.startswith((".", "__pycache__")) and _is(entry.is_dir):
            yield from _walk(Path(entry.path), above | {place})


def _is(kind: Callable[[], bool]) -> bool:
    """What an entry says that it is; one that cannot be looked at, such as a link to itself, is nothing."""
    try:
        return kind()
    except OSError:
        return False


def _only_artifact(folder: Path) -> Path | None:
    """The saved model that a folder is, or the only one in it."""
    if runtime_of_artifact(folder) is not None:
        return folder
    artifacts = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.is_file()]
    known = [path for path in artifacts if runtime_of_artifact(path) is not None]
    return known[0] if len(known) == 1 else None


def _name_of(artifact: Path) -> str:
    """A model's name from its artifact's: "model.joblib" says nothing, its folder does."""
    return artifact.parent.name or "model" if artifact.stem == "model" else artifact.stem or artifact.name


class GivenModels(ModelRepository):
    """Models that are given as settings instead of files."""

    def __init__(self, models: Iterable[ModelSettings]) -> None:
        super().__init__(".")
        self._models = [*models]

    def find(self, name: str) -> Found:
        """All versions of a model."""
        return [one for one in self._models if one.name == name]

    def list(self) -> Found:
        """All that was given."""
        return self._models


class CustomRepository(ModelRepository):
    """A repository of someone else's class, whose `list` and `find` may be coroutine functions.

    All of it, its constructor too, runs on one event loop of asyncio in a thread of its own, so that what it keeps
    between two calls, as the session of a client, works whenever it is used. Each call waits for that thread.
    """

    readers = 16  # they only wait

    def __init__(self, make: Callable[[], Any], root: Path | str) -> None:
        from mlserve.loop_thread import LoopThread  # asyncio: workers read settings too

        super().__init__(root)
        self._place = LoopThread("mlserve repository")
        try:
            self.implementation = self._place.call(make)
        except BaseException:
            self._place.close()
            raise

    def find(self, name: str) -> Found:
        """What the class finds; nothing where it returns None."""
        return _as_list(self._place.call(self.implementation.find, name))

    def list(self) -> Found:
        """What the class lists."""
        return _as_list(self._place.call(self.implementation.list))

    def close(self) -> None:
        """Ends the thread, and what the class still runs there."""
        self._place.close()


def _as_list(found: Any) -> Found:
    return [] if found is None else [ModelSettings.model_validate(settings) for settings in found]


def open_repository(folder: Path | str, settings: Settings) -> ModelRepository:
    """The repository that the settings ask for; close it. StartupError if there is no such folder or class."""
    folder = Path(folder)
    if folder.name in (MODEL_SETTINGS_FILE, SETTINGS_FILE) and folder.is_file():
        folder = folder.parent
    root = folder if folder.is_file() else Path(settings.model_repository_root)
    if settings.model_repository_implementation is not None:
        return _open_custom(settings, folder, root)
    if not root.exists():
        raise StartupError(f"there is no folder {root}: give the folder of your models to `mlserve start`")
    repository = ModelRepository(root)
    if root.is_file() and not repository.list():
        raise StartupError(f"{root}: what kind of model is it? Write a {MODEL_SETTINGS_FILE} that names its runtime")
    return repository


def _open_custom(settings: Settings, folder: Path, root: Path) -> CustomRepository:
    implementation = settings.model_repository_implementation
    place = folder if folder.is_dir() else folder.parent
    try:
        if isinstance(implementation, str):
            implementation = _import(implementation, place)
        make = partial(implementation, **settings.model_repository_implementation_args)
        return CustomRepository(make, root)
    except Exception as error:
        name = settings.model_repository_implementation
        raise StartupError(
            f"model_repository_implementation: {explain_import_error(str(name), place, error)}"
        ) from error


def _import(path: str, folder: Path) -> Any:
    """The object at an import path, with a folder's own modules in reach."""
    module, _, name = path.rpartition(".")
    sys.path.insert(0, str(folder))
    try:
        return getattr(importlib.import_module(module), name)
    finally:
        sys.path.remove(str(folder))
