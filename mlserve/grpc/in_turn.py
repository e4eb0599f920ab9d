"""Bounds the memory of answers that wait for the turn of those before them, in Triton's form of streams.

A call that runs before its turn counts from its beginning on, by the size of the answers that its model has given; one
for which there is no room begins when its turn has come. So a stream goes on whatever the sizes: at worst, one call at
a time.
"""

from __future__ import annotations

from mlserve.unsent import COUNTED_FROM_BYTES, Unsent
from mlserve.wire.protowire import Chunk

__all__ = ["Kept", "Sizes"]


class Sizes:
    """How large the next answer of a model may be: as the largest so far, which is forgotten by and by."""

    def __init__(self) -> None:
        self._expected: dict[str, int] = {}  # of models with large answers, by name

    def expected(self, model: str) -> int:
        """In bytes; 0 for a model that has given only small answers, or none."""
        return self._expected.get(model, 0)

    def note(self, model: str, size_bytes: int) -> None:
        """Learns from an answer."""
        before = self._expected.get(model, 0)
        expected = max(size_bytes, before - before // 16)
        if expected >= COUNTED_FROM_BYTES:
            self._expected[model] = expected
        elif before:
            del self._expected[model]


class Kept:
    """What is kept of one call until its turn: room for its answer at first, then the answer."""

    def __init__(self, unsent: Unsent, sizes: Sizes, model: str) -> None:
        self._unsent = unsent
        self._sizes = sizes
        self._model = model
        self._answers: list[list[Chunk]] = []
        self._bytes = 0  # of the answers
        self._counted = 0

    def may_begin(self) -> bool:
        """Whether there is room for the answer, which is taken then; else the call shall wait for its turn."""
        expected = self._sizes.expected(self._model)
        if not self._unsent.has_room_ahead(expected):
            return False
        self._count(expected)
        return True

    def add(self, answer: list[Chunk]) -> None:
        """Keeps an answer."""
        self._answers.append(answer)
        self._bytes += sum(map(len, answer))
        self._count(max(self._counted, self._bytes))

    def complete(self, *, learn: bool) -> None:
        """There are no more answers; they are what such calls may `learn` from."""
        if learn:
            self._sizes.note(self._model, self._bytes)
        self._count(self._bytes)

    def take(self) -> list[list[Chunk]]:
        """The answers, which are not kept any more."""
        answers, self._answers = self._answers, []
        self._count(0)
        return answers

    def _count(self, size_bytes: int) -> None:
        if size_bytes != self._counted:
            self._unsent.count_ahead(size_bytes - self._counted)
            self._counted = size_bytes
