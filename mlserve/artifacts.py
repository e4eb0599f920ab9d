"""Where a model's artifact lies: a file or folder, from its settings."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlserve.errors import InvalidModelURI
from mlserve.settings import ModelSettings

__all__ = ["get_model_uri"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: C:\ is a path


async def get_model_uri(settings: ModelSettings, wellknown_filenames: Iterable[str] = ()) -> str:
    """The path of the artifact: what `parameters.uri` names, or the model's folder if it names nothing.

    Relative paths start at the folder of the settings file. In a folder, the first of the well-known file names that
    is there is the artifact; with no such names given, the folder itself is. InvalidModelURI says what was looked for.
    """
    path = _path_of(settings)
    if path.is_file():
        return str(path)
    if not path.is_dir():
        raise InvalidModelURI(settings.name, f"{path} does not exist")
    names = list(wellknown_filenames)
    for name in names:
        if (path / name).is_file():
            return str(path / name)
    if not names:
        return str(path)
    raise InvalidModelURI(settings.name, f"{path} has none of {', '.join(names)}; name the file in parameters.uri")


def _path_of(settings: ModelSettings) -> Path:
    uri = settings.parameters.uri if settings.parameters is not None else None
    folder = settings.source_dir
    if not uri:
        if folder is None:
            raise InvalidModelURI(settings.name, "parameters.uri is not set")
        return Path(folder)
    if _SCHEME.match(uri):
        parts = urlsplit(uri)
        if parts.scheme != "file":
            raise InvalidModelURI(settings.name, f"{uri}: only local files can be loaded; download it first")
        uri = unquote(parts.path)
    path = Path(uri).expanduser()
    return path if path.is_absolute() or folder is None else Path(folder) / path
