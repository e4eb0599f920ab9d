"""Gzip data of several members, and data that is long and holds little: read right, bit by bit, while somebody waits."""

from __future__ import annotations

import gzip
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve.errors import CallerLeft, InvalidRequest
from mlserve.intake import Intake, Share
from mlserve.unpacking import Unpacker

KIB = 1024
EMPTY = gzip.compress(b"", mtime=0)
EMPTY_BLOCK = b"\0\0\0\xff\xff"


def unpacker(data: bytes, share: Share | None = None) -> Unpacker:
    return Unpacker(data, "gzip", 256 << 20, share or Share(Intake()), "the body")


def blocks(size: int) -> bytes:
    """One member without content, of so many bytes."""
    return EMPTY[:10] + EMPTY_BLOCK * (size // 5) + b"\3\0" + bytes(8)


def text(seed: int, size: int) -> bytes:
    """Shrinks to a half, as numbers in JSON do."""
    return random.Random(seed).randbytes((size + 1) // 2).hex().encode()[:size]


@pytest.mark.parametrize("first", [20_000, 40_000, 70_000, 200_000, 600_000])
@pytest.mark.parametrize("second", [0, 200, 40_000, 1_000_000])
def test_a_member_after_a_first_bit_that_was_full(first: int, second: int) -> None:
    """zlib keeps what follows a member in two places, then."""
    content = text(1, first), text(2, second)
    work = unpacker(b"".join(map(gzip.compress, content)))
    if not work.step(32 * KIB):
        work.finish()
    assert work.result() == b"".join(content)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 150_000), st.integers(0, 9)), min_size=1, max_size=6),
    st.lists(st.integers(1, 100_000), max_size=5),
)
def test_members_of_any_size_in_steps_of_any_size(members: list[tuple[int, int]], steps: list[int]) -> None:
    packed = b"".join(gzip.compress(text(size, size), level) for size, level in members)
    work = unpacker(packed)
    if not any(work.step(size) for size in steps):
        work.finish()
    assert work.result() == gzip.decompress(packed)


def test_a_file_of_many_blocks() -> None:
    """As bgzip writes it, down to the empty member at its end."""
    content = text(3, 3_000_000)
    packed = b"".join(gzip.compress(content[at : at + 65_280]) for at in range(0, len(content), 65_280)) + EMPTY
    assert unpacker(packed).finish() == content


@pytest.mark.parametrize("data", [EMPTY * 20_000, blocks(2_000_000)], ids=["members", "blocks"])
def test_a_step_reads_little_however_little_comes_out(data: bytes) -> None:
    """The first is done on the event loop."""
    work = unpacker(data)
    assert not work.step(32 * KIB)
    assert work._at < 256 * KIB
    assert work._members < 20_000
    assert work.finish() == b""


@pytest.mark.parametrize("data", [EMPTY * 20_000, blocks(2_000_000)], ids=["members", "blocks"])
def test_each_step_looks_whether_somebody_still_waits(data: bytes) -> None:
    share = Share(Intake())
    work = unpacker(data, share)
    assert not work.step(256 * KIB)
    share.close()
    with pytest.raises(CallerLeft):
        work.step(256 * KIB)


def test_so_many_members_are_no_request() -> None:
    with pytest.raises(InvalidRequest, match="more than 100000 members"):
        unpacker(EMPTY * 100_001).finish()
    assert unpacker(EMPTY * 99_999 + gzip.compress(b"{}")).finish() == b"{}"
