"""Unpacking within limits of size and memory: bit by bit, so that neither is passed first and noticed later."""

from __future__ import annotations

import gzip
import threading
import zlib

import pytest

from mlserve.errors import BodyTooLarge, CallerLeft, InvalidRequest, Overloaded
from mlserve.intake import COUNTED_FROM_BYTES, Intake, Share
from mlserve.unpacking import Unpacker

MIB = 1 << 20
BOMB = gzip.compress(bytes(64 * MIB), 9)  # 64 KiB


def unpacker(data: bytes, share: Share, *, coding: str = "gzip", limit: int = 256 * MIB) -> Unpacker:
    return Unpacker(data, coding, limit, share, "the body")


def test_what_comes_out_counts_until_its_call_is_over() -> None:
    intake = Intake(4 * MIB)
    share = Share(intake)
    assert len(unpacker(gzip.compress(bytes(3 * MIB)), share).finish()) == 3 * MIB
    assert share.held_bytes == intake.held_bytes == 3 * MIB
    share.close()
    assert intake.held_bytes == 0


def test_it_stops_where_there_is_no_room() -> None:
    intake = Intake(4 * MIB)
    share = Share(intake)
    work = unpacker(BOMB, share)
    with pytest.raises(Overloaded, match="body_memory_bytes"):
        work.finish()
    assert 3 * MIB < intake.held_bytes <= 4 * MIB
    assert len(work._whole) <= intake.held_bytes
    share.close()
    assert intake.held_bytes == 0


def test_small_ones_are_not_counted() -> None:
    share = Share(Intake(0))
    work = unpacker(gzip.compress(bytes(32 * 1024)), share)
    assert work.step(48 * 1024) and len(work.result()) == 32 * 1024
    intake = Intake()
    share = Share(intake)
    assert len(unpacker(gzip.compress(bytes(COUNTED_FROM_BYTES)), share).finish()) == COUNTED_FROM_BYTES
    assert intake.held_bytes == 0


def test_a_thread_that_nobody_waits_for_stops_and_leaves_nothing_counted() -> None:
    """The call ends in the midst of it."""
    intake = Intake()
    share = Share(intake)
    work = unpacker(BOMB, share)
    assert not work.step(MIB)
    share.close()
    failures: list[Exception] = []

    def finish() -> None:
        try:
            work.finish()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=finish)
    thread.start()
    thread.join(60)
    assert [type(one) for one in failures] == [CallerLeft]
    assert intake.held_bytes == 0


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw"])
@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 3 * MIB + 1])
def test_every_size_comes_out_whole(coding: str, size: int) -> None:
    import random

    content = random.Random(size).randbytes(size // 2) + bytes(size - size // 2)
    raw = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": lambda: gzip.compress(content),
        "deflate": lambda: zlib.compress(content),
        "raw": lambda: raw.compress(content) + raw.flush(),
    }[coding]()
    share = Share(Intake())
    work = unpacker(packed, share, coding="gzip" if coding == "gzip" else "deflate")
    assert work.finish() == content


@pytest.mark.parametrize("at", [1, 100, 65535, 65536, 65537, 200_000])
def test_the_members_of_a_file_may_meet_anywhere(at: int) -> None:
    """Also at an edge of the pieces in which zlib gets it."""
    import random

    noise = random.Random(1).randbytes(300_000)
    first = gzip.compress(noise[:at], 0)
    assert unpacker(first + gzip.compress(noise[at:]), Share(Intake())).finish() == noise
    with pytest.raises(InvalidRequest, match="4 bytes follow its end"):
        unpacker(first + b"rest", Share(Intake())).finish()
    with pytest.raises(InvalidRequest, match="cut off"):
        unpacker(first[:-1], Share(Intake())).finish()


def test_it_stops_at_the_limit() -> None:
    intake = Intake()
    with pytest.raises(BodyTooLarge, match="1048576"):
        unpacker(BOMB, Share(intake), limit=MIB).finish()
    assert intake.held_bytes < 2 * MIB
