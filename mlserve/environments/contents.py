"""The bytes of a tar archive, unpacked and forwards only, so that a small archive cannot fill the memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable
from typing import IO, BinaryIO

MOST_HEADER_BYTES = 1 << 20  # of one member: names of 4 KiB, and attributes of files, which Linux bounds to 64 KiB
_PIECE = 1 << 20
_IMPOSSIBLE = "its headers name impossible sizes"
_PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


class Refused(Exception):
    """What an archive has that no environment needs."""


def unpacked(archive: BinaryIO) -> IO[bytes]:
    """The archive's bytes as they were before they were packed."""
    archive.seek(0)
    head = archive.read(8)
    archive.seek(0)
    for signature, opened in _PACKED.items():
        if head.startswith(signature):
            return opened(archive)  # type: ignore[operator,no-any-return]  # each of them takes files
    return archive


class Contents:
    """The unpacked bytes: tarfile reads the headers of members from here, we what is between them.

    tarfile reads a header whole, as long as it says that it is, whatever that is; here it is refused before.
    """

    def __init__(self, stream: IO[bytes], check: Callable[[], None]) -> None:
        self._stream = stream
        self._check = check
        self._position = 0
        self._header_room = MOST_HEADER_BYTES
        self._block = b""  # the last one that was read as a header

    def next_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        """The next member of the archive, None at its end. tarfile's errors, also for an archive without an end."""
        self._header_room = MOST_HEADER_BYTES
        member = tar.next()
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all, with all that they say
        if member is None and self._block != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("its end is missing")
        return member

    def take(self, size: int) -> bytes:
        """Some of the contents, no more than asked for; nothing at the end of the archive."""
        self._check()
        if size < 0:
            raise tarfile.ReadError(_IMPOSSIBLE)
        piece = self._stream.read(min(size, _PIECE))
        self._position += len(piece)
        return piece

    # -- what tarfile calls --------------------------------------------------------------------------------------------

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        """Goes over what fills a block up."""
        gap = position - self._position
        if not 0 <= gap < tarfile.BLOCKSIZE:
            raise tarfile.ReadError(_IMPOSSIBLE)
        self.take(gap)

    def read(self, size: int) -> bytes:
        if size > self._header_room:
            raise Refused(f"it has a header of more than {MOST_HEADER_BYTES >> 10} KiB")
        self._header_room -= size
        self._block = self.take(size)
        return self._block
