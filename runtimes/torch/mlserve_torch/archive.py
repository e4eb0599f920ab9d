"""What is in the archive that a PyTorch model was saved to: the names that PyTorch itself will find there."""

from __future__ import annotations

import zipfile
from typing import Any, BinaryIO

import torch

__all__ = ["differs_for_python", "names_in", "reader_of"]


def reader_of(file: BinaryIO) -> Any:
    """PyTorch's reader of its archives; None if to PyTorch it is no such archive, but perhaps a plain zip file."""
    file.seek(0)  # it takes what is before for none of the archive
    try:
        reader = torch._C.PyTorchFileReader(file)
        reader.get_all_records()
    except (RuntimeError, UnicodeDecodeError):
        return None
    return reader


def names_in(file: BinaryIO) -> list[str]:
    """The records, without the folder that holds them all in an archive of PyTorch. BadZipFile if it is no zip file.

    PyTorch is asked first: a zip file can be made in which Python finds other records than PyTorch does.
    """
    reader = reader_of(file)
    if reader is not None:
        return list(reader.get_all_records())
    with zipfile.ZipFile(file) as archive:
        return archive.namelist()


def differs_for_python(reader: Any, archive: zipfile.ZipFile) -> bool:
    """Whether Python finds other records than PyTorch does, which turns to Python for files of older versions."""
    names = archive.namelist()
    found = sorted(name.partition("/")[2] for name in names)
    return not all("/" in name for name in names) or found != sorted(reader.get_all_records())
