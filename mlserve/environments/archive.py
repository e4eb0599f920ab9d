"""Unpacks the archive of a Python environment, and refuses what would write elsewhere or fill the disk.

An environment holds code that is going to run here, so whoever packed it is trusted. What is refused is what no packer
writes: names and links that lead out of the folder, devices, files beyond all measure. The one link that may lead out
is the interpreter of a venv, `bin/python`: a venv has none of its own.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import stat
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from mlserve.errors import ModelLoadError

MOST_BYTES = 64 * 1024**3  # unpacked; environments with every GPU library take some 15 GiB
MOST_MEMBERS = 1_000_000
_SPARE_BYTES = 64 * 1024**2  # of the disk, that stay free
_PIECE = 1 << 20
_INTERPRETER = re.compile(r"([^/]+/)?bin/python[0-9.]*t?")
_SIGNATURES = {
    b"PK": "it is a zip archive",
    b"\x28\xb5\x2f\xfd": "it is packed with zstd",
    b"hsqs": "it is a SquashFS image",
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file itself: run `git lfs pull`",
}


class _Refused(Exception):
    """What an archive has that no environment needs."""


def unpack(archive: BinaryIO, folder: Path, check: Callable[[], None]) -> None:
    """Unpacks a tar archive, compressed or not, into an empty folder. Blocks; calls `check` often, which may raise.

    ModelLoadError, with what to do, if the archive is broken, incomplete, of another kind, or refused.
    """
    place = Path(archive.name)
    try:
        with tarfile.open(fileobj=archive, mode="r:*") as tar:
            _Unpacking(folder, check).run(tar)
    except _Refused as error:
        raise ModelLoadError(f"the environment {place} is refused: {error}") from None
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # not of a decompressor
            raise
        raise ModelLoadError(f"the environment {place} cannot be unpacked: {_reason(archive, error)}") from error


def _reason(archive: BinaryIO, error: Exception) -> str:
    archive.seek(0)
    head = archive.read(64)
    reason = str(error).partition("\n")[0] or type(error).__name__
    size = os.fstat(archive.fileno()).st_size
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return f"{kind}; pack it as .tar.gz, as conda-pack and venv-pack do by themselves"
    return f"it is broken or incomplete ({reason}; {size} bytes); copy or pack it anew"


class _Unpacking:
    """One archive on its way into a folder."""

    def __init__(self, folder: Path, check: Callable[[], None]) -> None:
        self._folder = folder
        self._check = check
        self._free = max(0, shutil.disk_usage(folder).free - _SPARE_BYTES)
        self._room = min(MOST_BYTES, self._free)
        self._links: dict[Path, str] = {}  # by path, as the archive names them: but for the interpreter of a venv
        self._folders = {folder}  # Invariant: real folders below ours, no links

    def run(self, tar: tarfile.TarFile) -> None:
        for number, member in enumerate(tar):
            self._check()
            if number >= MOST_MEMBERS:
                raise _Refused(f"it has more than {MOST_MEMBERS} members")
            path = self._path(member.name)
            if path == self._folder:
                continue
            if member.isdir():
                self._make_folder(path, member.name)
                continue
            self._make_folder(path.parent, member.name)
            self._clear(path, member.name)  # archives may hold a name twice: the last one counts
            if member.isreg():
                self._write(tar, member, path)
            elif member.issym():
                self._link(member, path)
            elif member.islnk():
                self._link_hard(member, path)
            else:
                raise _Refused(f"'{member.name}' is a device or pipe")
        self._read_rest(tar)
        self._check_links()

    def _read_rest(self, tar: tarfile.TarFile) -> None:
        """Reads what follows the last member: the checksums of compressed archives come last of all."""
        assert tar.fileobj is not None, "it is open"
        while piece := tar.fileobj.read(_PIECE):
            self._take(len(piece))

    def _take(self, count: int) -> None:
        self._check()
        self._room -= count
        if self._room < 0:
            raise _Refused(self._too_large())

    def _path(self, name: str) -> Path:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise _Refused(f"its member '{name}' would be written outside of its folder")
        return self._folder.joinpath(*parts)

    def _make_folder(self, path: Path, name: str) -> None:
        if path in self._folders:
            return
        self._make_folder(path.parent, name)
        try:
            path.mkdir()
        except FileExistsError:
            if not stat.S_ISDIR(path.lstat().st_mode):
                raise _Refused(f"its member '{name}' would be written through a link or a file") from None
        self._folders.add(path)

    def _clear(self, path: Path, name: str) -> None:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            raise _Refused(f"its member '{name}' is there as a folder already")

    def _write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        source = tar.extractfile(member)
        assert source is not None, "a regular member has contents"
        with open(path, "xb") as target:
            while piece := source.read(_PIECE):
                self._take(len(piece))
                target.write(piece)
        path.chmod(0o755 if member.mode & 0o111 else 0o644)

    def _too_large(self) -> str:
        if self._free < MOST_BYTES:
            return f"unpacked it takes more than the {self._free >> 20} MiB that are free at {self._folder.parent}"
        return f"unpacked it takes more than {MOST_BYTES >> 30} GiB"

    def _link(self, member: tarfile.TarInfo, path: Path) -> None:
        target = member.linkname
        if not _INTERPRETER.fullmatch(path.relative_to(self._folder).as_posix()):
            self._links[path] = member.name
        path.symlink_to(target)

    def _check_links(self) -> None:
        """Where links lead is known when all of them are there: one may lead through another."""
        root = self._folder.resolve()
        for path, name in self._links.items():
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                raise _Refused(f"its link '{name}' leads out of its folder, to '{os.readlink(path)}'")

    def _link_hard(self, member: tarfile.TarInfo, path: Path) -> None:
        target = self._path(member.linkname)
        if target.parent not in self._folders or not target.exists() or not stat.S_ISREG(target.lstat().st_mode):
            raise _Refused(
                f"its member '{member.name}' is a second name of '{member.linkname}', which is no file of it"
            )
        os.link(target, path)
