"""Unpacks gzip and deflate bit by bit, within a limit, and within the memory that there is for large requests."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable

from mlserve.errors import BodyTooLarge, InvalidRequest
from mlserve.intake import COUNTED_FROM_BYTES, Share

__all__ = ["CODINGS", "Unpacker"]

Buffer = bytes | bytearray | memoryview

_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's window bits
CODINGS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_STEP_BYTES = 256 * 1024
_READ_BYTES = 64 * 1024  # by a step, however little comes out
_FIRST_PIECE_BYTES = 4 * 1024  # of a member; later ones are larger. zlib copies what follows the member's end.
_MOST_PIECE_BYTES = 64 * 1024
_MOST_MEMBERS = 100_000  # block gzip has 16 a MiB; each costs as much time as some KiB of content


class Unpacker:
    """Unpacks one body or message, called `title` in errors: a first bit at once, the rest wherever it is told to.

    InvalidRequest for damaged data; BodyTooLarge as soon as more than the limit has come out, and Overloaded as soon
    as there is no memory for more: whatever the data promises, no more than that is taken. What has come out counts
    in `share` from here on.
    """

    def __init__(self, data: Buffer, coding: str, limit_bytes: int, share: Share, title: str) -> None:
        self._coding = coding
        self._title = title
        self._window = CODINGS[coding]
        if coding == "deflate" and not _has_zlib_head(data):
            self._window = _RAW  # What some clients have always sent under that name.
        self._stream = zlib.decompressobj(self._window)
        self._data = memoryview(data)
        self._at = 0  # what lies before it was given to zlib, but for what is in _taken
        self._taken: Buffer = b""  # a little at a time: zlib copies what it has no use for yet
        self._piece_bytes = _FIRST_PIECE_BYTES
        self._members = 1
        self._limit = limit_bytes
        self._share = share
        self._counted = 0  # bytes in our share: what is there, and the step that is under way
        self._whole = bytearray()  # grows in small steps: joining pieces would keep other threads out for long

    async def finish_in(self, in_thread: Callable[[Callable[[], bytearray]], Awaitable[bytearray]]) -> bytearray:
        """Unpacks all, by what runs a function in a thread; waits, without a thread, while too many do the same.

        Whoever is cancelled need not wait for the thread, which sees at its next step that the share is closed.
        """
        async with self._share.intake.unpacking.one():
            try:
                return await in_thread(self.finish)
            except BaseException:
                self._share.close()
                raise

    def finish(self) -> bytearray:
        """Unpacks all; what there is. For a thread."""
        while not self.step(_STEP_BYTES):
            pass
        return self.result()

    def result(self) -> bytearray:
        """What there is; to be called once, at the end."""
        size = len(self._whole)
        self._count(size if size > COUNTED_FROM_BYTES else 0)
        return self._whole

    def step(self, wanted_bytes: int) -> bool:
        """Unpacks up to so many bytes, and reads no more than a little for them; True if that was all.

        CallerLeft if the share was closed: nobody waits for the rest.
        """
        whole = self._whole
        end = len(whole) + wanted_bytes
        self._share.check()
        if end > COUNTED_FROM_BYTES:
            self._count(end)
        unread = _READ_BYTES
        while len(whole) < end and unread > 0:
            if not self._taken:
                self._taken = self._data[self._at : self._at + self._piece_bytes]
                self._at += len(self._taken)
                self._piece_bytes = min(2 * self._piece_bytes, _MOST_PIECE_BYTES)
                unread -= len(self._taken)
            try:
                piece = self._stream.decompress(self._taken, end - len(whole))
            except zlib.error as error:
                raise self._damaged(str(error)) from None
            if len(whole) + len(piece) > self._limit:
                raise BodyTooLarge(f"{self._title} has more than {self._limit} bytes, the limit, after unpacking")
            whole += piece
            self._taken = self._stream.unconsumed_tail
            if self._stream.eof:
                if self._is_all():
                    return True
            elif not (piece or self._taken or self._at < len(self._data)):
                raise self._damaged("it is cut off")
        return False

    def _is_all(self) -> bool:
        """Whether nothing follows the end that was reached; a gzip file may have several members."""
        self._at -= len(self._stream.unused_data)
        rest = self._data[self._at :]
        if not rest:
            return True
        if self._window != _GZIP or bytes(rest[:2]) != b"\x1f\x8b":
            raise self._damaged(f"{len(rest)} bytes follow its end")
        self._members += 1
        if self._members > _MOST_MEMBERS:
            raise self._damaged(f"it has more than {_MOST_MEMBERS} members, as many as are read; pack it as one")
        self._stream = zlib.decompressobj(_GZIP)
        self._taken = b""  # zlib may keep what follows the end there, too
        self._piece_bytes = _FIRST_PIECE_BYTES
        return False

    def _count(self, size_bytes: int) -> None:
        more = size_bytes - self._counted
        if more > 0:
            self._share.take(more)
        else:
            self._share.give(-more)
        self._counted = size_bytes

    def _damaged(self, reason: str) -> InvalidRequest:
        return InvalidRequest(f"{self._title} is no valid {self._coding} data: {reason}")


def _has_zlib_head(data: Buffer) -> bool:
    return len(data) >= 2 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
