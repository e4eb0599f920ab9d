"""What a pool and its worker tell each other through the memory that they share."""

from __future__ import annotations

import mmap

import pytest

from mlserve.progress import SIZE_BYTES, Progress


@pytest.fixture
def ends():
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    return Progress(memory), Progress(memory)


def test_the_pool_sees_what_has_begun(ends):
    pool, worker = ends
    assert pool.begun == 0
    for call in (1, 2, 300, 2**40):
        assert worker.begin(call)
        assert pool.begun == call


def test_a_call_that_was_taken_back_must_not_run_and_those_after_it_may(ends):
    pool, worker = ends
    assert worker.begin(3)
    pool.take_back(5)
    assert [worker.begin(call) for call in (4, 5, 6)] == [False, False, True]
    assert pool.begun == 6


def test_calls_of_a_batch_that_has_begun_run_again_alone_whatever_is_taken_back(ends):
    pool, worker = ends
    assert worker.begin(4)
    pool.take_back(9)
    assert worker.begin(2) and worker.begin(4)
    assert pool.begun == 4


def test_calls_that_gave_way_are_known_one_by_one_until_many_others_did(ends):
    pool, worker = ends
    for call in (2, 3, 7):
        worker.give_way(call)
    worker.give_way(3, False)
    assert [pool.gave_way(call) for call in range(1, 8)] == [None, True, False, None, None, None, True]
    for call in range(8, 200):
        worker.give_way(call)
    assert pool.gave_way(3) is None and pool.gave_way(199) and pool.begun == 0


def test_what_was_said_last_stays_when_the_memory_is_gone():
    memory = bytearray(SIZE_BYTES)
    pool = Progress(memory)
    Progress(memory).begin(7)
    pool.close()
    memory.clear()  # nobody holds it any more
    assert pool.begun == 7
