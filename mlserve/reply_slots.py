"""The worker's stock of slots to answer in: leased from the pool, kept, and used again."""

from __future__ import annotations

from collections.abc import Callable

from mlserve.arena import Views
from mlserve.frames import SlotRef

_KEEP_BYTES = 64 * 1024 * 1024  # free slots beyond this much go back to the pool
_KEEP_SLOTS = 64  # as do those beyond so many: each takes one of the server's descriptors


class ReplySlots:
    """Slots that the pool granted to this worker.

    Each is in exactly one place: free here, or on its way to the pool with an answer, until a Return frame names it.
    """

    def __init__(self, views: Views, ask: Callable[[int], SlotRef | None]) -> None:
        self._views = views
        self._ask = ask
        self._free: list[SlotRef] = []
        self._out: dict[int, SlotRef] = {}

    def lease(self, size_bytes: int) -> tuple[SlotRef, memoryview] | None:
        """Room for an answer, or None if the pool has none."""
        slot = self._take(size_bytes) or self._ask(size_bytes)
        if slot is None:
            return None
        slot = SlotRef(slot.number, slot.size_bytes)  # the pool knows it already
        self._out[slot.number] = slot
        return slot, self._views.memory(slot.number)

    def _take(self, size_bytes: int) -> SlotRef | None:
        """The smallest free slot that fits and is not far too large."""
        fitting = [slot for slot in self._free if size_bytes <= slot.size_bytes <= max(4 * size_bytes, 1 << 18)]
        if not fitting:
            return None
        slot = min(fitting, key=lambda one: one.size_bytes)
        self._free.remove(slot)
        return slot

    def give_back(self, numbers: list[int]) -> list[int]:
        """Slots whose answers were sent. Returns those that are too many to keep."""
        for number in numbers:
            slot = self._out.pop(number, None)
            if slot is not None:
                self._free.append(slot)
        surplus = []
        while len(self._free) > _KEEP_SLOTS or sum(slot.size_bytes for slot in self._free) > _KEEP_BYTES:
            surplus.append(self._free.pop(0).number)
        return surplus
