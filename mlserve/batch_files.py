"""The two files of `mlserve infer`: paths, or descriptors that this process was given (`-`, `/dev/stdout`).

A descriptor is read and written where it stands: opened by its path, a file behind it would begin anew and be emptied.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from io import FileIO

__all__ = ["lines_of", "refuse_same_file", "target_of"]

_STANDARD = {"in": 0, "out": 1, "err": 2}
_DESCRIPTOR = re.compile(r"/dev/std(in|out|err)|/(?:dev|proc/self)/fd/(\d+)")


def lines_of(path: str) -> Iterator[bytes]:
    """An empty line when the file is open, then its lines. OSError if it cannot be opened or read."""
    place = _opened(path, standard=0)
    with open(place, "rb", closefd=isinstance(place, str)) as source:
        yield b""
        yield from source


def target_of(path: str) -> FileIO:
    """The file for the answers, without a buffer: a path's is emptied. OSError if it cannot be opened."""
    place = _opened(path, standard=1)
    return FileIO(place, "w", closefd=isinstance(place, str))


def refuse_same_file(source: str, target: str) -> None:
    """ValueError if the answers would overwrite the requests. A terminal, or a socket, may well be both."""
    try:
        statuses = os.stat(_place(source, standard=0)), os.stat(_place(target, standard=1))
    except OSError:  # one is not there; who opens it says so
        return
    if all(stat.S_ISREG(one.st_mode) for one in statuses) and os.path.samestat(*statuses):
        raise ValueError(f"{target} is the file of the requests: give the answers another, for it would be overwritten")


def _opened(path: str, standard: int) -> str | int:
    """A path, or a descriptor that is open and waits for what it reads and writes."""
    place = _place(path, standard)
    if isinstance(place, int):
        os.set_blocking(place, True)  # another program may have left it so that it gives nothing when nothing is there
    return place


def _place(path: str, standard: int) -> str | int:
    if path == "-":
        return standard
    found = _DESCRIPTOR.fullmatch(path)
    if found is None:
        return path
    return _STANDARD[found[1]] if found[1] else int(found[2])
