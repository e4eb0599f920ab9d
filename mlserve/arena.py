"""Shared-memory slots: lease, write, view, free.

A slot is one `multiprocessing.shared_memory` segment whose name is removed as soon as it is made: what keeps it alive
is its file descriptor, which travels to workers over the control socket. So nothing can stay behind in /dev/shm,
whoever is killed and when.

A slot is always in one place:

    free ──lease()──▶ leased ──release()──▶ free          the worker said that nothing views it any more
                        └─────discard()───▶ gone          its worker died: a stray child may still look at it

Slots are kept by size class and reused, since the first write to fresh pages costs twenty times a later one. The
bytes in all slots together stay below a bound, and so do their descriptors; past either `lease` returns None, and the
payload travels in its frame.
"""

from __future__ import annotations

import errno
import os
import sys
from collections import deque
from collections.abc import Callable
from multiprocessing import shared_memory
from typing import Any

import numpy as np
import numpy.typing as npt

from mlserve.mapping import map_shared

SMALLEST_BYTES = 64 * 1024
ALIGNMENT = 64  # every tensor in a slot starts at a multiple of this, so that any dtype can view it
_KEEP_FREE_BYTES = 256 * 1024 * 1024  # more free memory than this goes back to the system
_KEEP_FREE_PART = 4  # as do more free slots than this part of all that there may be
_SMALL_BYTES = 1024 * 1024  # payloads below it travel in their frames once half of the slots are there
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class Slot:
    """One segment; `buffer` is its whole memory. Owned by the arena that made it. It takes one descriptor."""

    __slots__ = ("buffer", "fd", "number", "size_bytes")

    def __init__(self, number: int, size_bytes: int) -> None:
        segment = unnamed_segment(size_bytes)
        try:
            self.fd = os.dup(segment._fd)  # type: ignore[attr-defined]  # public only through its name, which is gone
        finally:
            segment.close()  # with its own mapping, which has a descriptor of its own
        self.number = number
        self.size_bytes = size_bytes
        try:
            self.buffer = map_shared(self.fd, size_bytes)
        except OSError:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Gives the memory back. The pages live on while somebody else has them mapped, or still looks at them."""
        os.close(self.fd)
        self.buffer = memoryview(b"")


def unnamed_segment(size_bytes: int) -> shared_memory.SharedMemory:
    """A segment with all its pages reserved and no name. OSError if there is no room for it."""
    if sys.version_info >= (3, 13):
        segment = shared_memory.SharedMemory(create=True, size=size_bytes, track=False)
    else:
        segment = shared_memory.SharedMemory(create=True, size=size_bytes)
    segment.unlink()  # at once: what is killed before this leaves a name behind
    try:
        if hasattr(os, "posix_fallocate"):  # or a full /dev/shm ends in SIGBUS at the first write
            os.posix_fallocate(segment._fd, 0, size_bytes)  # type: ignore[attr-defined]
    except OSError:
        segment.close()
        raise
    return segment


def size_class(size_bytes: int) -> int:
    """The size of the slot that a payload gets: 64 KiB, 96, 128, 192, 256 … at most a third of it unused."""
    size = SMALLEST_BYTES
    while size < size_bytes:
        if size + size // 2 >= size_bytes:
            return size + size // 2
        size *= 2
    return size


class Arena:
    """All slots of one server. Not thread-safe: it belongs to the event loop."""

    def __init__(self, limit_bytes: int, limit_slots: int = 1 << 12) -> None:
        self.limit_bytes = limit_bytes
        self.limit_slots = limit_slots
        self.total_bytes = 0  # Invariant: the sum of the sizes of all slots, free and leased
        self.free_bytes = 0
        self.free_count = 0
        self._free: dict[int, list[Slot]] = {}  # by size; the slot used last is on top, its pages are warm
        self._leased: dict[int, Slot] = {}
        self._next_number = 1
        self.on_discard: list[Callable[[int], None]] = []

    def __repr__(self) -> str:
        return f"<Arena {len(self._leased)} leased, {self.total_bytes >> 20} MiB, {self.free_bytes >> 20} MiB free>"

    @property
    def leased_count(self) -> int:
        return len(self._leased)

    def lease(self, size_bytes: int) -> Slot | None:
        """A slot of at least this size, or None if a bound, or /dev/shm, has no room for it."""
        size = size_class(size_bytes)
        free = self._free.get(size)
        if free:
            slot = free.pop()
            self.free_bytes -= size
            self.free_count -= 1
        else:
            made = self._make(size) if self._has_room(size) else None
            if made is None:
                return None
            slot = made
        self._leased[slot.number] = slot
        return slot

    def _has_room(self, size_bytes: int) -> bool:
        """Whether there may be one more slot, after free ones were given back for it."""
        if self.total_bytes + size_bytes > self.limit_bytes:
            self._trim(self.total_bytes + size_bytes - self.limit_bytes)
        limit = self.limit_slots if size_bytes >= _SMALL_BYTES else self.limit_slots // 2
        count = len(self._leased) + self.free_count
        if count >= limit:
            self._trim_count(count + 1 - limit)
        room = self.total_bytes + size_bytes <= self.limit_bytes
        return room and len(self._leased) + self.free_count < limit

    def _make(self, size_bytes: int) -> Slot | None:
        try:
            slot = Slot(self._next_number, size_bytes)
        except OSError as error:
            if error.errno in _OUT_OF_DESCRIPTORS:
                self.trim()  # for whoever needs one
            return None
        self._next_number += 1
        self.total_bytes += size_bytes
        return slot

    def release(self, number: int) -> None:
        """Puts a slot back on its free list. Ignores a number that is not leased."""
        slot = self._leased.pop(number, None)
        if slot is None:
            return
        self._free.setdefault(slot.size_bytes, []).append(slot)
        self.free_bytes += slot.size_bytes
        self.free_count += 1
        if self.free_bytes > _KEEP_FREE_BYTES:
            self._trim(self.free_bytes - _KEEP_FREE_BYTES)
        if self.free_count > self.limit_slots // _KEEP_FREE_PART:
            self._trim_count(1)

    def discard(self, number: int) -> None:
        """Takes a leased slot out of use for good."""
        slot = self._leased.pop(number, None)
        if slot is not None:
            self.total_bytes -= slot.size_bytes
            slot.close()

    def get(self, number: int) -> Slot:
        """The leased slot of this number. KeyError if it is not leased."""
        return self._leased[number]

    def trim(self) -> None:
        """Gives all free slots back to the system."""
        self._trim(self.free_bytes)

    def _trim(self, size_bytes: int) -> None:
        """Gives free slots back, the coldest of the largest class first, until so many bytes are free again."""
        for size in sorted(self._free, reverse=True):
            while self._free[size] and size_bytes > 0:
                self._drop_coldest(size)
                size_bytes -= size

    def _trim_count(self, count: int) -> None:
        """Gives so many free slots back, the coldest of the smallest class first: those are the cheapest to make."""
        for size in sorted(self._free):
            while self._free[size] and count > 0:
                self._drop_coldest(size)
                count -= 1

    def _drop_coldest(self, size: int) -> None:
        slot = self._free[size].pop(0)
        self.free_bytes -= size
        self.free_count -= 1
        self.total_bytes -= size
        for forget in self.on_discard:
            forget(slot.number)
        slot.close()

    def close(self) -> None:
        """Gives everything back."""
        self.trim()
        for number in list(self._leased):
            self.discard(number)


class Views:
    """The receiver's side: slots mapped here, and who still looks at them.

    `view` gives an array over part of a slot. When the last array, slice, memoryview or DataFrame over it is gone,
    the slot's number appears in `freed`. That may happen on any thread, in the middle of anything: so it only appends
    to a deque, and the owner looks there when it sends its next frame.
    """

    def __init__(self) -> None:
        self.freed: deque[int] = deque()
        self.held: dict[int, int] = {}  # slot number → its size, while something views it
        self._mapped: dict[int, memoryview] = {}

    def attach(self, number: int, fd: int, size_bytes: int) -> None:
        """Maps a slot; takes the descriptor over and closes it."""
        try:
            self._mapped[number] = map_shared(fd, size_bytes)
        finally:
            os.close(fd)

    def knows(self, number: int) -> bool:
        """Whether a slot is mapped here."""
        return number in self._mapped

    def memory(self, number: int) -> memoryview:
        """The whole slot, to write into."""
        return self._mapped[number]

    def detach(self, number: int) -> None:
        """Lets go of a slot that its owner gave back to the system; the mapping goes with the last view."""
        self._mapped.pop(number, None)

    def hold(self, number: int) -> Hold:
        """An owner for views on a slot: keep it as long as anything may look."""
        memory = self._mapped[number]
        self.held[number] = len(memory)
        return Hold(number, memory, self.freed)

    def drop(self, number: int) -> None:
        """Lets go of a slot that nothing will view, mapped or not."""
        if number in self._mapped:
            self.hold(number)
        else:
            self.freed.append(number)

    def take_freed(self) -> list[int]:
        """The slots that nothing views any more, since the last call."""
        numbers = []
        while self.freed:
            number = self.freed.popleft()
            self.held.pop(number, None)
            numbers.append(number)
        return numbers

    def close(self) -> None:
        self._mapped.clear()


class Hold:
    """Owns the views on one slot. numpy, pandas, torch, memoryviews and tracebacks all keep it alive."""

    __slots__ = ("__array_interface__", "_freed", "_memory", "number")

    def __init__(self, number: int, memory: memoryview, freed: deque[int]) -> None:
        self.number = number
        self._memory = memory
        self._freed = freed
        whole = np.frombuffer(memory, np.uint8)
        self.__array_interface__: dict[str, Any] = whole.__array_interface__

    def view(self, offset: int, length: int) -> npt.NDArray[np.uint8]:
        """Bytes of the slot as an array that keeps this owner alive. Writable, as some estimators demand."""
        return np.asarray(self)[offset : offset + length]

    def __del__(self) -> None:
        self._freed.append(self.number)


def aligned(size_bytes: int) -> int:
    """The size rounded up so that the next tensor starts aligned."""
    return (size_bytes + ALIGNMENT - 1) & -ALIGNMENT
