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
from typing import IO, BinaryIO, cast

from mlserve.environments.contents import Contents, Refused, unpacked
from mlserve.errors import ModelLoadError

MOST_BYTES = 64 * 1024**3  # unpacked; environments with every GPU library take some 15 GiB
MOST_MEMBERS = 1_000_000
_SPARE_BYTES = 64 * 1024**2  # of the disk, that stay free
_MOST_GLOBAL_HEADERS = 100
_PIECE = 1 << 20
_BROKEN = (
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    OSError,
    ArithmeticError,  # these and the rest are what tarfile makes of odd headers
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_INTERPRETER = re.compile(r"([^/]+/)?bin/python[0-9.]*t?")
_SIGNATURES = {
    b"PK": "it is a zip archive",
    b"\x28\xb5\x2f\xfd": "it is packed with zstd",
    b"hsqs": "it is a SquashFS image",
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file itself: run `git lfs pull`",
}


def unpack(archive: BinaryIO, folder: Path, check: Callable[[], None]) -> None:
    """Unpacks a tar archive, compressed or not, into an empty folder. Blocks; calls `check` often, which may raise.

    ModelLoadError, with what to do, if the archive is broken, incomplete, of another kind, or refused.
    """
    place = Path(archive.name)
    try:
        contents = Contents(unpacked(archive), check)
        with tarfile.open(fileobj=cast(IO[bytes], contents), mode="r:") as tar:
            _Unpacking(folder, check).run(contents, tar)
    except Refused as error:
        raise ModelLoadError(f"the environment {place} is refused: {error}") from None
    except _BROKEN as error:
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
        self._links: list[Path] = []
        self._folders = {folder}  # Invariant: real folders below ours, no links

    def run(self, contents: Contents, tar: tarfile.TarFile) -> None:
        number = 0
        while (member := contents.next_member(tar)) is not None:
            self._check()
            number += 1
            if number > MOST_MEMBERS:
                raise Refused(f"it has more than {MOST_MEMBERS} members")
            if len(tar.pax_headers) > _MOST_GLOBAL_HEADERS:
                raise Refused(f"it has more than {_MOST_GLOBAL_HEADERS} headers that are for all members")
            self._unpack(contents, member)
        while piece := contents.take(_PIECE):  # the checksums of compressed archives come last of all
            self._take(len(piece))
        self._check_links()

    def _unpack(self, contents: Contents, member: tarfile.TarInfo) -> None:
        path = self._path(member.name)
        if path == self._folder:
            return
        if member.isdir():
            self._make_folder(path, member.name)
            return
        self._make_folder(path.parent, member.name)
        self._clear(path, member.name)  # archives may hold a name twice: the last one counts
        if member.issparse():
            raise Refused(f"'{member.name}' is a sparse file: pack it without --sparse")
        if member.isreg():
            self._write(contents, member, path)
        elif member.issym():
            path.symlink_to(member.linkname)
            self._links.append(path)
        elif member.islnk():
            self._link_hard(member, path)
        else:
            raise Refused(f"'{member.name}' is a device or pipe")

    def _take(self, count: int) -> None:
        self._room -= count
        if self._room < 0:
            raise Refused(self._too_large())

    def _path(self, name: str) -> Path:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise Refused(f"its member '{name}' would be written outside of its folder")
        return self._folder.joinpath(*parts)

    def _make_folder(self, path: Path, name: str) -> None:
        if path in self._folders:
            return
        self._make_folder(path.parent, name)
        try:
            path.mkdir()
        except FileExistsError:
            if not stat.S_ISDIR(path.lstat().st_mode):
                raise Refused(f"its member '{name}' would be written through a link or a file") from None
        self._folders.add(path)

    def _clear(self, path: Path, name: str) -> None:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            raise Refused(f"its member '{name}' is there as a folder already")

    def _write(self, contents: Contents, member: tarfile.TarInfo, path: Path) -> None:
        left = member.size
        with open(path, "xb") as target:
            while left:
                piece = contents.take(left)
                if not piece:
                    raise EOFError(f"'{member.name}' is cut off")
                left -= len(piece)
                self._take(len(piece))
                target.write(piece)
        path.chmod(0o755 if member.mode & 0o111 else 0o644)

    def _too_large(self) -> str:
        if self._free < MOST_BYTES:
            return f"unpacked it takes more than the {self._free >> 20} MiB that are free at {self._folder.parent}"
        return f"unpacked it takes more than {MOST_BYTES >> 30} GiB"

    def _check_links(self) -> None:
        """Refuses links that lead out of the folder, on their own or through others.

        Only now is it known where they lead; nothing is ever written through a link. One step of each is enough: where
        it comes to another link, that one is looked at too.
        """
        root = os.path.realpath(self._folder)
        for link in self._links:
            self._check()
            name = link.relative_to(self._folder).as_posix()
            if _INTERPRETER.fullmatch(name) or not link.is_symlink():  # a later member may have taken its place
                continue
            if os.path.commonpath([root, _next_place(link)]) != root:
                raise Refused(f"its link '{name}' leads out of its folder, to '{os.readlink(link)}'")

    def _link_hard(self, member: tarfile.TarInfo, path: Path) -> None:
        target = self._path(member.linkname)
        if target.parent not in self._folders or not target.exists() or not stat.S_ISREG(target.lstat().st_mode):
            raise Refused(f"its member '{member.name}' is a second name of '{member.linkname}', which is no file of it")
        os.link(target, path)


def _next_place(link: Path) -> str:
    """What a link leads to: its folder with all links followed, its name as it is."""
    target = link.parent / os.readlink(link)
    if target.name == "..":
        return os.path.realpath(target)
    return os.path.join(os.path.realpath(target.parent), target.name)
