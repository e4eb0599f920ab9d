"""One request's body as it arrives: pieces while it is small, one buffer that the kernel fills once it is large.

Joining the pieces of a large body costs two copies of it and, worse, fresh memory for each (see malloc.py). A body of
known length is therefore moved into one buffer as soon as the application asks for all of it, and what is still missing
is received straight into that buffer. The pieces of a body that is streamed, chunked or small are joined once, when
they are taken.
"""

from __future__ import annotations

from mlserve.intake import COUNTED_FROM_BYTES, Intake

__all__ = ["IN_PLACE_BYTES", "Body"]

IN_PLACE_BYTES = 1024 * 1024  # from here on, what is missing of a body is received in place (measured: bench/edge.py)
# A client that announces a large body and sends little of it shall not tie up memory: at most so much is reserved, or
# so many times what has arrived. Growing copies what is there, which costs little when it happens at 4 and 64 MiB.
RESERVE_BYTES = 4 * 1024 * 1024
RESERVE_TIMES = 16


class Body:
    """What has arrived of one body and was not taken yet. `release` must follow when its call is done."""

    __slots__ = (
        "_arrived",
        "_buffer",
        "_counted",
        "_discarded",
        "_intake",
        "_pieces",
        "_rest",
        "buffered",
        "complete",
        "length",
        "missing",
        "refused",
    )

    def __init__(self, length: int | None, intake: Intake | None = None) -> None:
        self.length = length  # Content-Length; None: chunked, its length shows at its end
        self.missing = length or 0  # bytes of a known length still to arrive
        self.buffered = 0  # bytes that arrived and were not taken
        self.complete = False
        self.refused = False  # there is no memory for it; nothing is kept of it any more
        self._intake = intake
        self._arrived = self._counted = 0  # bytes, taken ones included; and those that the intake knows of
        self._pieces: list[bytes] = []
        self._buffer: bytearray | None = None  # set while received in place
        self._rest: memoryview | None = None  # of _buffer, what is free
        self._discarded = False

    def add(self, piece: bytes) -> None:
        """Keep a piece that arrived."""
        self.missing -= len(piece)
        if not self._discarded:
            self.buffered += len(piece)
            self._pieces.append(piece)
            self._count(len(piece))

    def _count(self, nbytes: int) -> None:
        """Tells the intake of a large body; without room there, the body is refused."""
        self._arrived += nbytes
        if self._arrived <= COUNTED_FROM_BYTES or self._intake is None:
            return
        uncounted = self._arrived - self._counted
        if self._intake.take(uncounted):
            self._counted += uncounted
        else:
            self.refused = True
            self.discard()

    def release(self) -> None:
        """The call is done: nobody holds the body any more."""
        if self._counted and self._intake is not None:
            self._intake.give(self._counted)
            self._counted = 0

    def check(self) -> None:
        """Overloaded if there is no memory for the body."""
        if self.refused and self._intake is not None:
            raise self._intake.refusal()

    def take(self) -> bytes | bytearray:
        """All that arrived since the last time; the caller owns it. A body received in place must be complete."""
        self.buffered = 0
        if self._buffer is not None:
            whole, self._buffer = self._buffer, None
            return whole
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def discard(self) -> None:
        """Forget what arrived, and whatever is still to come."""
        self._discarded = True
        self.buffered = 0
        self._pieces = []
        self._buffer = self._rest = None

    # -- in place --------------------------------------------------------------------------------------------------

    def move_in_place(self) -> bool:
        """Go over to one buffer, if so much is missing that this pays; then use `space` and `filled` only."""
        if self.length is None or self.missing < IN_PLACE_BYTES or self._discarded:
            return False
        pieces, self._pieces = self._pieces, []
        self._reserve(b"".join(pieces))
        return True

    def space(self) -> memoryview:
        """Where the next bytes go; never longer than what is missing."""
        if self._rest is None:
            raise RuntimeError("the body is not received in place")
        return self._rest

    def filled(self, nbytes: int) -> None:
        """Note that the first `nbytes` of `space()` have arrived."""
        self.buffered += nbytes
        self.missing -= nbytes
        self._count(nbytes)
        if self._buffer is None or self._rest is None:
            return  # discarded meanwhile
        self._rest = self._rest[nbytes:]
        if not self.missing:
            self._rest = None
            self.complete = True
        elif not self._rest:
            arrived, self._rest = self._buffer, None
            self._reserve(arrived)

    def _reserve(self, arrived: bytes | bytearray) -> None:
        """Make the buffer, or a larger one, with `arrived` at its front."""
        total = len(arrived) + self.missing
        self._buffer = bytearray(min(total, max(RESERVE_BYTES, RESERVE_TIMES * len(arrived))))
        self._buffer[: len(arrived)] = arrived
        self._rest = memoryview(self._buffer)[len(arrived) :]
