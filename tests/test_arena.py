"""Shared-memory slots: reuse, bounds, views that keep them alive, and nothing left behind."""

from __future__ import annotations

import errno
import gc
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from mlserve.arena import SMALLEST_BYTES, Arena, Views, aligned, size_class
from mlserve.frames import SlotRef
from mlserve.reply_slots import ReplySlots


@pytest.fixture
def arena():
    made = Arena(limit_bytes=8 * 1024 * 1024)
    yield made
    made.close()


def _shown(arena: Arena, views: Views, size_bytes: int):
    slot = arena.lease(size_bytes)
    assert slot is not None
    views.attach(slot.number, os.dup(slot.fd), slot.size_bytes)
    return slot


@pytest.mark.parametrize("size_bytes", [1, SMALLEST_BYTES, SMALLEST_BYTES + 1, 100_000, 5_000_001])
def test_a_slot_is_large_enough_and_at_most_half_as_large_again(size_bytes):
    size = size_class(size_bytes)
    assert size >= size_bytes
    assert size == SMALLEST_BYTES or size <= size_bytes * 1.5 + 1


def test_a_released_slot_is_used_again(arena):
    first = arena.lease(70_000)
    arena.release(first.number)
    assert arena.lease(70_000) is first


def test_two_leases_never_share_a_slot(arena):
    numbers = [arena.lease(1000).number for _ in range(10)]
    assert len(set(numbers)) == 10
    assert arena.leased_count == 10


def test_past_the_bound_there_is_no_slot_and_freed_memory_makes_room_again(arena):
    held = [arena.lease(2_000_000) for _ in range(3)]
    assert arena.lease(4_000_000) is None
    for slot in held:
        arena.release(slot.number)
    assert arena.lease(6_000_000) is not None, "free slots of another size are given back to make room"
    assert arena.total_bytes <= arena.limit_bytes


def test_a_slot_given_back_to_the_system_is_announced(arena):
    gone = []
    arena.on_discard.append(gone.append)
    slot = arena.lease(1000)
    arena.release(slot.number)
    arena.trim()
    assert gone == [slot.number]
    assert arena.total_bytes == 0


def test_release_of_an_unknown_or_free_slot_changes_nothing(arena):
    slot = arena.lease(1000)
    arena.release(slot.number)
    arena.release(slot.number)
    arena.release(999)
    assert arena.lease(1000).number != arena.lease(1000).number


def test_no_name_is_ever_left_in_dev_shm(arena):
    before = set(Path("/dev/shm").iterdir())
    arena.lease(1_000_000)
    assert set(Path("/dev/shm").iterdir()) == before


def test_what_one_side_writes_the_other_reads(arena):
    views = Views()
    slot = _shown(arena, views, 1000)
    slot.buffer[64:72] = np.float64(3.5).tobytes()
    array = views.hold(slot.number).view(64, 8).view(np.float64)
    assert array.tolist() == [3.5]
    del array
    views.close()


@pytest.mark.parametrize(
    "derive",
    [
        lambda array: array[1:],
        lambda array: array.view(np.float32).reshape(2, -1).T,
        lambda array: memoryview(array),
        lambda array: np.frombuffer(array, np.float32)[::2],
        lambda array: {"nested": [array]},
    ],
    ids=["slice", "transposed", "memoryview", "frombuffer", "container"],
)
def test_a_slot_is_free_only_when_the_last_thing_derived_from_it_is_gone(arena, derive):
    views = Views()
    slot = _shown(arena, views, 1000)
    derived = derive(views.hold(slot.number).view(0, 64))
    gc.collect()
    assert views.take_freed() == []
    assert slot.number in views.held
    del derived
    gc.collect()
    assert views.take_freed() == [slot.number]
    assert not views.held
    views.close()


def test_a_pandas_frame_over_a_slot_keeps_it(arena):
    pd = pytest.importorskip("pandas")
    views = Views()
    slot = _shown(arena, views, 1000)
    frame = pd.DataFrame(views.hold(slot.number).view(0, 64).view(np.float64).reshape(4, 2), copy=False)
    gc.collect()
    assert views.take_freed() == []
    del frame
    gc.collect()
    assert views.take_freed() == [slot.number]
    views.close()


def test_an_arena_closes_while_somebody_still_looks(arena):
    views = Views()
    slot = _shown(arena, views, 1000)
    array = np.frombuffer(slot.buffer, np.uint8)
    other = views.hold(slot.number).view(0, 8)
    arena.discard(slot.number)
    views.close()
    assert array[0] == other[0] == 0


def _descriptors(size_bytes: int) -> int:
    """How many descriptors of files of this size are open."""
    count = 0
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # that of the listing is closed
            count += os.fstat(int(name)).st_size == size_bytes
    return count


def test_a_slot_takes_one_descriptor_and_a_view_of_it_none():
    """Until it is given back."""
    arena, views, size = Arena(limit_bytes=1 << 26), Views(), 3 << 20
    for _ in range(5):
        _shown(arena, views, size)
    assert _descriptors(size) == 5
    arena.close()
    assert _descriptors(size) == 0
    views.close()


def test_slots_have_a_bound_on_their_number_and_half_of_it_is_for_large_ones():
    arena = Arena(limit_bytes=1 << 30, limit_slots=8)
    small = [arena.lease(1000) for _ in range(4)]
    assert all(small)
    assert arena.lease(1000) is None, "it travels in its frame"
    large = [arena.lease(2 << 20) for _ in range(4)]
    assert all(large)
    assert arena.lease(2 << 20) is None
    arena.release(large[0].number)
    assert arena.lease(4 << 20) is not None, "a free slot of another size makes room"
    arena.close()


def test_free_slots_beyond_a_part_of_all_are_given_back_the_smallest_first():
    arena = Arena(limit_bytes=1 << 30, limit_slots=16)
    gone = []
    arena.on_discard.append(gone.append)
    slots = [arena.lease(size) for size in (1 << 20, *[1000] * 7)]
    for slot in slots:
        arena.release(slot.number)
    assert (arena.free_count, len(arena._free[1 << 20])) == (4, 1)
    assert gone == [slot.number for slot in slots[1:5]], "the coldest first"
    arena.close()
    assert arena.free_count == arena.free_bytes == arena.total_bytes == 0


def test_where_descriptors_run_out_the_free_slots_are_given_back(arena, monkeypatch):
    free = arena.lease(1000)
    arena.release(free.number)

    def no_more(size_bytes):
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr("mlserve.arena.unnamed_segment", no_more)
    assert arena.lease(100_000) is None
    assert arena.total_bytes == 0


def test_a_worker_keeps_few_slots_to_answer_in():
    """Each takes one of the server's descriptors."""
    numbers = iter(range(1, 1000))
    views = Views()
    views.memory = lambda number: memoryview(b"")
    stock = ReplySlots(views, lambda size_bytes: SlotRef(next(numbers), size_bytes, True))
    out = [stock.lease(70_000)[0].number for _ in range(100)]
    assert stock.give_back(out) == out[:36]
    assert stock.lease(70_000)[0].number in out[36:]


def test_alignment_rounds_up():
    assert [aligned(n) for n in (0, 1, 64, 65)] == [0, 64, 64, 128]
