"""Temporary folders that outlive no process for long: what a killed one has left, the next to make one removes."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlserve.errors import ModelLoadError

__all__ = ["held_folder"]


@contextmanager
def held_folder(prefix: str) -> Iterator[str]:
    """A new folder where the system has temporary files, removed at the end.

    Folders of that prefix whose process has died without removing them are removed first. A lock tells which these
    are: the system lets it go when its process ends, however that is, and its number cannot be another's by then.
    ModelLoadError where none can be made.
    """
    try:
        _remove_left(prefix)
        folder, descriptor = _make(prefix)
    except OSError as error:
        raise ModelLoadError(
            f"no folder for temporary files can be made, which this model needs ({error}): set TMPDIR to a folder that "
            f"can be written, such as a volume of the container"
        ) from error
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _make(prefix: str) -> tuple[Path, int]:
    """A folder, and the open file that its lock hangs on."""
    made = Path(tempfile.mkdtemp(prefix=f"new-{prefix}"))
    descriptor = os.open(made, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: nobody can take it for left then, either
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return made.rename(made.with_name(made.name.removeprefix("new-"))), descriptor  # it is seen only when locked
    except BaseException:
        os.close(descriptor)
        raise


def _remove_left(prefix: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # somebody else's, in use, or just removed by another process
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
