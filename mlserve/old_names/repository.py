"""`mlserver.repository`: what repositories of people's own (`model_repository_implementation`) are derived from."""

from __future__ import annotations

from mlserve.repository import ModelRepository as _Folder
from mlserve.settings import ModelSettings, parse_model_settings
from mlserve.settings.files import MODEL_SETTINGS_FILE

DEFAULT_MODEL_SETTINGS_FILENAME = MODEL_SETTINGS_FILE

__all__ = ["DEFAULT_MODEL_SETTINGS_FILENAME", "ModelRepository", "SchemalessModelRepository", "load_model_settings"]

load_model_settings = parse_model_settings
_Models = list[ModelSettings]


class ModelRepository:
    """The base of repositories of one's own. Override both methods."""

    async def list(self) -> _Models:
        """All models."""
        raise NotImplementedError(f"{type(self).__name__} has no list()")

    async def find(self, name: str) -> _Models:
        """All versions of a model."""
        raise NotImplementedError(f"{type(self).__name__} has no find()")


class SchemalessModelRepository(ModelRepository):
    """The models below a folder, for classes that change something about them."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._folder = _Folder(root)

    async def list(self) -> _Models:
        """All models of the folder."""
        return self._folder.list()

    async def find(self, name: str) -> _Models:
        """All versions of a model in the folder; an empty list if there is none."""
        return self._folder.find(name)
