"""The pool's account of the shared-memory slots that one worker may look at, or answer in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from mlserve.arena import Arena, Hold, Slot
from mlserve.frames import SlotRef


class Lending:
    """Slots lent to one worker. What is still lent when the worker ends is discarded, not used again."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._attached: set[int] = set()  # slots that the worker has mapped
        self._lent: set[int] = set()  # Invariant: leased in the arena, and not given back by the worker
        self.freed: deque[int] = deque()  # reply slots that nothing here views any more
        self.is_over = False  # the worker can take no more: everything travels inside its frame

    def lease(self, size_bytes: int) -> tuple[SlotRef, memoryview] | None:
        """A slot to write a request into, or None if there is no room."""
        slot = self._lease(size_bytes)
        return None if slot is None else (self._lend(slot), slot.buffer)

    def grant(self, size_bytes: int) -> SlotRef | None:
        """A slot for the worker to answer in, or None if there is no room."""
        slot = self._lease(size_bytes)
        return None if slot is None else self._lend(slot)

    def _lease(self, size_bytes: int) -> Slot | None:
        return None if self.is_over else self._arena.lease(size_bytes)

    def _lend(self, slot: Slot) -> SlotRef:
        fresh = slot.number not in self._attached
        self._attached.add(slot.number)
        self._lent.add(slot.number)
        return SlotRef(slot.number, slot.size_bytes, fresh)

    def descriptors(self, slots: Iterable[SlotRef | None]) -> list[int]:
        """The descriptors that have to travel with a frame that names these slots."""
        return [self._arena.get(slot.number).fd for slot in slots if slot is not None and slot.fresh]

    def find(self, number: int) -> Hold:
        """The owner of views on a reply slot; when they are all gone, the worker may answer in it again."""
        return Hold(number, self._arena.get(number).buffer, self.freed)

    def take_freed(self) -> list[int]:
        """The reply slots that may be answered in again, since the last call."""
        numbers = []
        while self.freed:
            numbers.append(self.freed.popleft())
        return numbers

    def give_back(self, numbers: Iterable[int]) -> None:
        """The worker views these no more."""
        for number in numbers:
            self._lent.discard(number)
            self._arena.release(number)

    def take_back(self, slots: Iterable[SlotRef | None]) -> None:
        """These were lent for a frame that could not be sent."""
        for slot in slots:
            if slot is not None:
                if slot.fresh:
                    self._attached.discard(slot.number)
                self.give_back((slot.number,))

    def forget(self, number: int) -> bool:
        """The arena gave a slot back to the system; whether the worker had mapped it."""
        known = number in self._attached
        self._attached.discard(number)
        return known

    def discard(self) -> None:
        """The worker is gone; a stray child of it may still look at what was lent."""
        for number in self._lent:
            self._arena.discard(number)
        self._lent.clear()
