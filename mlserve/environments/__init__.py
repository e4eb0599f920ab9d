"""Python environments of models: from the settings to an interpreter that can run a worker.

A packed one is unpacked once, into a folder of `environments_dir` whose name is made of the archive's content; a folder
is used where it is. What mlserve's worker needs beside it lies in an overlay.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import anyio.from_thread
import anyio.to_thread
from msgspec import Struct

from mlserve.environments.archive import unpack
from mlserve.environments.interpreter import find_python, last_lines, run_python, variables_of
from mlserve.environments.once import make_once
from mlserve.environments.overlay import overlay_of
from mlserve.errors import MLServeError, ModelLoadError, StartupError
from mlserve.settings import ModelSettings

__all__ = ["Environment", "Environments"]

_logger = logging.getLogger("mlserve.environments")
_IMAGE_VARIABLES = ("MLSERVE_ENV_TARBALL", "MLSERVER_ENV_TARBALL")
_PIECE = 1 << 20
_UNPACK_SECONDS = 600.0


class Environment(Struct, frozen=True):
    """A Python that can run workers."""

    name: str  # for people; another one whenever workers have to be started anew
    python: str
    overlay: str  # leads its import path
    variables: Mapping[str, str]


class Environments:
    """All environments of one server."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder).absolute()
        self._names: dict[str, str] = {}  # by overlay
        self._digests: dict[tuple[object, ...], str] = {}  # of archives that were read, by what tells a changed file

    async def of_model(self, settings: ModelSettings) -> Environment | None:
        """The environment that a model asks for, ready to be used; None if it asks for none. ModelLoadError."""
        parameters = settings.parameters
        if parameters is None:
            return None
        if parameters.environment_path:
            return await self._ready(self._from_folder, parameters.environment_path)
        if parameters.environment_tarball:
            return await self._ready(self._from_archive, parameters.environment_tarball)
        return None

    async def of_image(self) -> Environment | None:
        """The environment for all models that ask for none, as images name it by variable. StartupError."""
        for variable in _IMAGE_VARIABLES:
            if os.environ.get(variable):
                try:
                    return await self._ready(self._from_archive, os.environ[variable])
                except ModelLoadError as error:
                    raise StartupError(f"variable {variable}: {error.message}") from error
        return None

    async def _ready(self, make: Callable[[Path], Awaitable[Environment]], place: str) -> Environment:
        path = Path(os.path.abspath(place))
        try:
            return await make(path)
        except MLServeError:
            raise
        except OSError as error:
            reason = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
            raise ModelLoadError(
                f"the environment {path} cannot be prepared: {reason} (environments_dir is {self._folder})"
            ) from error

    async def _from_folder(self, path: Path) -> Environment:
        if not path.is_dir():
            what = "is a file; is it meant as environment_tarball?" if path.is_file() else "is not there"
            raise ModelLoadError(f"the environment {path} {what}")
        return await self._complete(path, path.name, f"the environment {path}", str(path.resolve()))

    async def _from_archive(self, path: Path) -> Environment:
        if not path.is_file():
            what = "is a folder; is it meant as environment_path?" if path.is_dir() else "is not there"
            raise ModelLoadError(f"the environment {path} {what}")
        with open(path, "rb") as archive:
            digest = await self._digest(archive)
            folder = self._folder / f"environment-{digest}"

            async def make(lock: int) -> None:
                _logger.info("unpacking %s into %s", path, folder)
                before = os.fstat(archive.fileno())
                archive.seek(0)
                await anyio.to_thread.run_sync(unpack, archive, folder, anyio.from_thread.check_cancelled)
                after = os.fstat(archive.fileno())
                if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                    raise ModelLoadError(f"the environment {path} was changed while it was unpacked; load it again")
                await self._settle(folder, f"the environment {path}", lock)

            await make_once(folder, make)
        return await self._complete(folder, path.name, f"the environment {path}", digest)

    async def _settle(self, folder: Path, title: str, lock: int) -> None:
        """Lets an environment of conda-pack write the place where it is now into its files."""
        python = find_python(folder, title)
        script = python.parent / "conda-unpack"
        if script.exists():
            done = await run_python(python, [str(script)], title, lock, _UNPACK_SECONDS)
            if done.returncode:
                raise ModelLoadError(f"{title}: its bin/conda-unpack failed: {last_lines(done)}")

    async def _complete(self, root: Path, name: str, title: str, identity: str) -> Environment:
        python = find_python(root, title)
        overlay, overlay_name = await overlay_of(python, title, identity, self._folder)
        short = overlay_name.rpartition("-")[2][:8]
        name = self._names.setdefault(overlay_name, f"{name} ({short})")  # two files of one content are one environment
        return Environment(name, str(python), overlay, variables_of(python))

    async def _digest(self, archive: BinaryIO) -> str:
        status = os.fstat(archive.fileno())
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            self._digests[key] = await anyio.to_thread.run_sync(_digest_of, archive)
        return self._digests[key]


def _digest_of(archive: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := archive.read(_PIECE):
        anyio.from_thread.check_cancelled()
        digest.update(piece)
    return digest.hexdigest()[:32]
