"""Inbox: cuts the DATA of one HTTP/2 stream into gRPC messages.

It takes the place of grpclib's Buffer, which joins a message several times, fails on empty frames, and learns of a
message's size only when it is there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from mlserve.errors import BodyTooLarge, InvalidRequest, MLServeError
from mlserve.intake import COUNTED_FROM_BYTES, Intake

__all__ = ["Inbox"]

_PREFIX_BYTES = 5
_GIVEN_BACK_BYTES = 1 << 20  # Far below the window; the end of the stream gives back the rest.
_VIEWED_BYTES = 4096  # Smaller messages are copied: parsers want bytes, and a view keeps the whole chunk alive.


class Inbox:
    """The received and unread data of one stream. One reader at a time.

    Flow control: the parts of a message that is awaited are given back to the sender's window as they come, so that a
    message may be larger than the window; everything else when it is read. So no more than a message and a window lie
    here, and what has come of them counts as memory of the server's intake until it is read.
    """

    __slots__ = (
        "_acknowledge",
        "_chunks",
        "_counted",
        "_eof",
        "_heard",
        "_intake",
        "_missing",
        "_on_full",
        "_size",
        "_timer",
        "_unacknowledged",
        "_waiter",
    )

    def __init__(self, acknowledge: Callable[[int], None]) -> None:
        self._acknowledge = acknowledge
        self._chunks: deque[bytes | memoryview] = deque()
        self._size = 0  # Invariant: the sum of the chunks' lengths.
        self._missing = 0  # The size of what is awaited; 0 while nobody waits.
        self._eof = False
        self._unacknowledged = 0
        self._waiter: asyncio.Future[None] | None = None
        self._heard = 0.0  # When something came last; kept while somebody waits.
        self._timer: asyncio.TimerHandle | None = None  # Set while a part of a message is awaited.
        self._intake: Intake | None = None
        self._on_full: Callable[[], None] = _ignore
        self._counted = 0  # Bytes of the intake that lie here unread.

    def count_in(self, intake: Intake, on_full: Callable[[], None]) -> None:
        """Counts large amounts of unread data in; `on_full` is called when there is no room for them."""
        self._intake = intake
        self._on_full = on_full

    def add(self, data: bytes, ack_size: int) -> None:
        """Takes the payload of a frame; `ack_size` counts its padding too."""
        if data:
            self._chunks.append(data)
            self._size += len(data)
            if self._waiter is not None:
                self._heard = self._waiter.get_loop().time()
        self._unacknowledged += ack_size
        if self._size > COUNTED_FROM_BYTES:
            self._count()
        if self._waiter is not None:
            self._give_back()
            if self._size >= self._missing:
                self._wake()

    def eof(self) -> None:
        """Notes that the sender has ended the stream."""
        self._eof = True
        self._wake()

    def unacked_size(self) -> int:
        """The bytes that are still to be given back; nothing is left of them afterwards."""
        size, self._unacknowledged = self._unacknowledged, 0
        self.drop()
        return size

    def drop(self) -> None:
        """Forgets what lies here unread, and whom to tell of it: a call refers to its inbox, and is over."""
        self._chunks.clear()
        self._size = 0
        self._count()
        self._on_full = _ignore

    async def message(
        self, limit_bytes: int, hold: Callable[[int], None] | None = None, pause_seconds: float = 0.0
    ) -> tuple[bool, bytes | memoryview] | None:
        """Whether the next message is compressed, and its bytes; None at the end of the stream.

        BodyTooLarge as soon as its length is known; InvalidRequest if the stream ends within it; MLServeError (408) if
        nothing of it comes for `pause_seconds`, 0: it may take for ever. `hold` is told the length of a message that is
        whole, when it does not count here any more, and may raise.
        """
        if not await self._have(_PREFIX_BYTES):
            return None
        prefix = self._take(_PREFIX_BYTES)
        flag, size = prefix[0], int.from_bytes(prefix[1:5], "big")
        if flag > 1:
            raise InvalidRequest(f"a message begins with the byte {flag}; expected 0 or 1")
        if size > limit_bytes:
            raise BodyTooLarge(f"a message has {size} bytes; the limit is {limit_bytes}")
        if size and not await self._have(size, pause_seconds):
            raise InvalidRequest(f"a message of {size} bytes is cut: none came")
        data = self._take(size) if size else b""
        if self._counted:
            self._count()
        if hold is not None:
            hold(size)
        return flag == 1, data if size > _VIEWED_BYTES else bytes(data)

    async def _have(self, size: int, pause_seconds: float = 0.0) -> bool:
        """Waits for so many bytes. False if the stream ended before the first; InvalidRequest if before the last."""
        self._missing = size
        self._give_back()
        if self._size < size and not self._eof:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            self._heard = loop.time()
            if pause_seconds:
                self._watch(pause_seconds)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
        self._missing = 0
        if self._size >= size:
            return True
        if self._size:
            raise InvalidRequest(f"a message is cut: {size} bytes were announced, {self._size} came")
        return False

    def _watch(self, pause_seconds: float) -> None:
        """Looks now and again whether something came, and else ends the waiting."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        loop = waiter.get_loop()
        left = self._heard + pause_seconds - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._watch, pause_seconds)
        else:
            text = f"{self._missing} bytes were announced, {self._size} came, and then nothing for {pause_seconds:g} s"
            waiter.set_exception(MLServeError(f"a message is given up: {text}", 408))

    def _take(self, size: int) -> bytes | memoryview:
        """The first bytes, which are there; a view where they lie in one chunk, joined once where they do not."""
        chunks = self._chunks
        self._size -= size
        first = chunks[0]
        if len(first) == size:
            return chunks.popleft()
        if len(first) > size:
            return self._cut_first(size)
        parts: list[bytes | memoryview] = []
        while size:
            length = len(chunks[0])
            parts.append(chunks.popleft() if length <= size else self._cut_first(size))
            size -= min(length, size)
        return b"".join(parts)

    def _cut_first(self, size: int) -> memoryview:
        """The beginning of the first chunk, which keeps the rest."""
        view = memoryview(self._chunks[0])
        self._chunks[0] = view[size:]
        return view[:size]

    def _give_back(self) -> None:
        """Returns what was read or is awaited to the sender's window, unless it is so little that it can wait."""
        size = self._unacknowledged - max(0, self._size - self._missing)
        if size >= _GIVEN_BACK_BYTES:
            self._unacknowledged -= size
            self._acknowledge(size)

    def _count(self) -> None:
        """Counts what lies here, where it is more than a little."""
        if self._intake is None:
            return
        unread = self._size if self._size > COUNTED_FROM_BYTES else 0
        if unread <= self._counted:
            self._intake.give(self._counted - unread)
        elif not self._intake.take(unread - self._counted):
            self._on_full()
            return
        self._counted = unread

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _ignore() -> None:
    pass
