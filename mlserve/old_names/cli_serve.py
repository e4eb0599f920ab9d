"""`mlserver.cli.serve`: the settings of a folder, as programs with a server of their own read them."""

from __future__ import annotations

from contextlib import closing

from mlserve.repository import open_repository
from mlserve.settings import ModelSettings, Settings
from mlserve.settings import load_settings as _load
from mlserve.settings.files import SETTINGS_FILE

DEFAULT_SETTINGS_FILENAME = SETTINGS_FILE

__all__ = ["DEFAULT_SETTINGS_FILENAME", "load_settings"]


async def load_settings(folder: str | None = None) -> tuple[Settings, list[ModelSettings]]:
    """The settings of the server, and those of the models below the folder."""
    settings = _load(folder)
    if folder is None:
        return settings, []
    with closing(open_repository(folder, settings)) as repository:
        return settings, repository.list()
