"""How many numbers each embedding of a model has. CatBoost neither tells nor checks it, but its files hold it.

A file (`CBM1`) is a FlatBuffer of trees and features, and behind it one part after another. The part of embeddings has
a list of calcers for each feature, and the calcers themselves, which turn a vector into features of the trees (LDA,
KNN). Each holds the number of dimensions that it was made for: so many CatBoost reads of a vector, however long it is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["embedding_widths"]

_PART, _CALCER = b"embed_process_1\0", b"EmbedCalcerV1\0\0\0"
# The numbers of fields in CatBoost's FlatBuffer schemas: catboost/libs/model/flatbuffers/{model,features}.fbs, and
# catboost/private/libs/embedding_features/flatbuffers/*.fbs.
_CORE_TREES, _TREES_EMBEDDINGS = 1, 18
_EMBEDDING_INDEX, _EMBEDDING_FLAT_INDEX, _EMBEDDING_USED = 0, 1, 4
_HEADER_CALCER_IDS, _HEADER_CALCERS_OF_FEATURES, _ADJACENT_IDS = 0, 1, 0
_CALCER_ID, _CALCER_IMPLEMENTATION, _IMPLEMENTATION_DIMENSION = 0, 3, 0


def embedding_widths(content: bytes) -> dict[int, int | None]:
    """By the number of its column, how many numbers an embedding has; None for one that the trees do not use.

    ValueError if a file of the binary format is not as it should be.
    """
    try:
        core = _Buffer(content[8 : 8 + struct.unpack_from("<I", content, 4)[0]])
        features = [
            (core.number(one, _EMBEDDING_INDEX, -1), core.number(one, _EMBEDDING_FLAT_INDEX, -1), core.used(one))
            for one in core.tables(core.inner(core.root, _CORE_TREES), _TREES_EMBEDDINGS)
        ]
        used = [(index, column) for index, column, is_used in features if is_used]
        of_features = _widths_of_calcers(content[8 + len(core.content) :]) if used else []
        return {column: None for _, column, _ in features} | {column: _one(of_features[at]) for at, column in used}
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError(f"the widths of embeddings are not where CatBoost's files have them ({error!r})") from error


def _one(widths: list[int]) -> int:
    if len(set(widths)) != 1 or widths[0] < 1:
        raise ValueError(f"an embedding has widths of {widths}, expected one of 1 or more")
    return widths[0]


def _widths_of_calcers(parts: bytes) -> list[list[int]]:
    """For each embedding, the dimensions of its calcers."""
    place = parts.index(_PART) + len(_PART)
    size = struct.unpack_from("<Q", parts, place)[0]
    header = _Buffer(parts[place + 8 : place + 8 + size])
    begin, count = header.vector(header.root, _HEADER_CALCER_IDS)
    ids = [header.content[begin + 16 * at : begin + 16 * at + 16] for at in range(count)]
    dimensions = dict(_calcers(parts, place + 8 + size))
    return [
        [dimensions[ids[at]] for at in header.numbers(one, _ADJACENT_IDS)]
        for one in header.tables(header.root, _HEADER_CALCERS_OF_FEATURES)
    ]


def _calcers(parts: bytes, place: int) -> Iterator[tuple[bytes, int]]:
    """The identity and the dimension of each calcer. Between them lies data of KNN, whose length nothing tells."""
    while (place := parts.find(_CALCER, place)) >= 0:
        place += len(_CALCER)
        size = struct.unpack_from("<Q", parts, place + 4)[0]
        calcer = _Buffer(parts[place + 12 : place + 12 + size])
        at = calcer.place(calcer.root, _CALCER_ID)
        width = calcer.number(calcer.inner(calcer.root, _CALCER_IMPLEMENTATION), _IMPLEMENTATION_DIMENSION, 0)
        yield calcer.content[at : at + 16], width


class _Buffer:
    """A FlatBuffer: tables are places in it, which lead to a list of where their fields are."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.root = self._follow(0)

    def place(self, table: int, field: int) -> int:
        """Where a field is; KeyError if the table lacks it."""
        fields = table - self._unpack("<i", table)
        within = 4 + 2 * field
        offset = self._unpack("<H", fields + within) if within + 2 <= self._unpack("<H", fields) else 0
        if not offset:
            raise KeyError(f"field {field} of a table at {table}")
        return table + offset

    def number(self, table: int, field: int, default: int) -> int:
        """A field of 32 bits."""
        try:
            return self._unpack("<i", self.place(table, field))
        except KeyError:
            return default

    def used(self, embedding: int) -> bool:
        """Whether the trees use an embedding."""
        try:
            return self.content[self.place(embedding, _EMBEDDING_USED)] != 0
        except KeyError:
            return True

    def inner(self, table: int, field: int) -> int:
        """A table within a table."""
        return self._follow(self.place(table, field))

    def vector(self, table: int, field: int) -> tuple[int, int]:
        """Where the elements of a vector begin, and how many they are."""
        begin = self._follow(self.place(table, field))
        return begin + 4, self._unpack("<I", begin)

    def numbers(self, table: int, field: int) -> list[int]:
        """A vector of numbers of 32 bits."""
        begin, count = self.vector(table, field)
        return list(struct.unpack_from(f"<{count}I", self.content, begin))

    def tables(self, table: int, field: int) -> list[int]:
        """A vector of tables."""
        begin, count = self.vector(table, field)
        return [self._follow(begin + 4 * at) for at in range(count)]

    def _follow(self, place: int) -> int:
        return place + self._unpack("<I", place)

    def _unpack(self, form: str, place: int) -> int:
        value: int = struct.unpack_from(form, self.content, place)[0]
        return value
