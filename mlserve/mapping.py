"""Maps shared memory without keeping a descriptor of it, which Python's mmap does before 3.13."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref

__all__ = ["map_shared"]

_libc = ctypes.CDLL(None, use_errno=True)
_mmap, _munmap = _libc.mmap, _libc.munmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


def map_shared(fd: int, size_bytes: int) -> memoryview:
    """The memory behind a descriptor, to read and write. Unmapped when the last view of it is gone. OSError."""
    address = _mmap(None, size_bytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    memory = (ctypes.c_char * size_bytes).from_address(address)
    weakref.finalize(memory, _munmap, address, size_bytes).atexit = False
    return memoryview(memory).cast("B")
