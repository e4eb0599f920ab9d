"""Keeps the memory of large buffers for the next one, where the C library can be told to (glibc on Linux).

glibc maps each buffer of megabytes anew and gives it back when it is freed, so that every large body, tensor and answer
pays for its page faults again: more than for anything else that is done to it. With `tune` freed memory stays in the
process and is used again. Its price is that the process keeps the size of its busiest moment, so call `trim` when
nothing is under way; it gives back whole pages wherever they lie free. Measured with bench/edge.py: receiving a body of
40 MB costs a quarter to a third of the processor time, and 66 MB stay behind.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

__all__ = ["trim", "tune"]

# mallopt's parameters, from malloc.h
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3

_OLD_MMAP_THRESHOLD_MAX = 32 * 1024 * 1024  # the most that glibc before 2.35 takes


@lru_cache(maxsize=1)
def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it is glibc."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None  # musl has no mallopt


def tune() -> bool:
    """Have freed memory kept for later use; whether that was possible. Call once, early, in each process."""
    library = _glibc()
    if library is None:
        return False
    mmap = library.mallopt(_M_MMAP_THRESHOLD, 1 << 30) or library.mallopt(_M_MMAP_THRESHOLD, _OLD_MMAP_THRESHOLD_MAX)
    trim = library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    pad = library.mallopt(_M_TOP_PAD, 64 * 1024 * 1024)
    return bool(mmap and trim and pad)


def trim() -> bool:
    """Give memory that is free back to the system; whether there was any. Takes milliseconds per 100 MB: call idle."""
    library = _glibc()
    return library is not None and bool(library.malloc_trim(0))
