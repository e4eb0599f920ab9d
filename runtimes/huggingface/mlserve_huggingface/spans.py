"""The spans of a context, each with its question, as a fast tokenizer makes them: but one at a time.

A tokenizer that cuts a context itself makes all of the spans at once, each token with its text: gigabytes for a few
megabytes. Here the context is taken apart once, into plain numbers, and each span is put together when it is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Span", "spans_of"]

_NO_WORD = -1
_PIECE = 1 << 15  # characters that the tokenizer takes apart at once, for each token takes it some 500 bytes
_AROUND = 64  # characters on each side that tell whether a text can be cut
_TRIES = 20
_Array = np.ndarray[Any, Any]


@dataclass
class Tokens:
    """What is known of some tokens, an element a token."""

    ids: _Array
    type_ids: _Array
    words: _Array  # the number of its word, or _NO_WORD
    offsets: _Array  # the characters of each: its first, and the one behind its last
    sequences: _Array  # 0 or 1: of which of two texts; -1 for a token that the tokenizer adds

    @classmethod
    def of(cls, encoding: Any) -> Tokens:
        """Those of an encoding."""
        words = [_NO_WORD if one is None else one for one in encoding.word_ids]
        sequences = [-1 if one is None else one for one in encoding.sequence_ids]
        offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)
        ids, type_ids, numbers = (np.array(one, np.int32) for one in (encoding.ids, encoding.type_ids, words))
        return cls(ids, type_ids, numbers, offsets, np.array(sequences, np.int8))

    def __getitem__(self, part: slice) -> Tokens:
        return Tokens(*(one[part] for one in self._arrays()))

    def __len__(self) -> int:
        return len(self.ids)

    def then(self, *others: Tokens) -> Tokens:
        """These tokens, and then others."""
        columns = zip(self._arrays(), *(one._arrays() for one in others))
        return Tokens(*(np.concatenate(one) for one in columns))

    def copy(self) -> Tokens:
        """Tokens of their own, which can be changed."""
        return Tokens(*(one.copy() for one in self._arrays()))

    def equals(self, other: Tokens) -> bool:
        """Whether both are the same tokens, at the same places."""
        pairs = zip(self._arrays(), other._arrays())
        return all(np.array_equal(one, another) for one, another in pairs)

    def _arrays(self) -> tuple[_Array, ...]:
        return self.ids, self.type_ids, self.words, self.offsets, self.sequences


@dataclass
class Span:
    """The tokens of a question and of a part of its context."""

    tokens: Tokens
    context: int  # which sequence the context is
    answers: _Array  # whether an answer may begin or end with a token

    @property
    def ids(self) -> _Array:
        return self.tokens.ids

    @property
    def type_ids(self) -> _Array:
        return self.tokens.type_ids

    def __len__(self) -> int:
        return len(self.tokens)

    def characters(self, start: int, end: int, align: bool) -> tuple[int, int]:
        """Where the text from one token to another begins and ends; with `align`, that of whole words, if known."""
        offsets = self.tokens.offsets
        if align:
            head, tail = (self._word(int(self.tokens.words[at])) for at in (start, end))
            if head is not None and tail is not None:
                return int(offsets[head[0], 0]), int(offsets[tail[-1], 1])
        return int(offsets[start, 0]), int(offsets[end, 1])

    def _word(self, word: int) -> _Array | None:
        """The places of a word of the context in this span; None if it has no such word."""
        if word == _NO_WORD:
            return None
        (places,) = np.nonzero((self.tokens.words == word) & (self.tokens.sequences == self.context))
        return places if len(places) else None


def spans_of(tokenizer: Any, question: str, context: str, longest: int, stride: int) -> Iterator[Span]:
    """Spans of at most `longest` tokens, of whose parts of the context each shares `stride` tokens with the next.

    ValueError if the question leaves no room for that.
    """
    right = tokenizer.padding_side == "right"  # then the question goes first, as transformers has it
    which = 1 if right else 0
    before, after, type_id = _around(tokenizer, question, context, which)
    room = longest - len(before) - len(after)
    for part in _parts(_pieces(tokenizer.backend_tokenizer, context), room, stride, tokenizer.truncation_side):
        part.type_ids[:] = type_id
        part.sequences[:] = which
        tokens = before.then(part, after)
        # With the context first, transformers 4 has all tokens for candidates, those of the question too.
        answers = (tokens.sequences == 1) | (tokens.ids == tokenizer.cls_token_id) if right else tokens.ids >= 0
        yield Span(tokens, which, answers)


def _around(tokenizer: Any, question: str, context: str, which: int) -> tuple[Tokens, Tokens, int]:
    """The tokens before a part of the context and those behind it, and the type of those in it."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    for words in (context[:256], "a", "."):
        pair = Tokens.of(backend.encode(*((question, words) if which else (words, question))))
        (places,) = np.nonzero(pair.sequences == which)
        if len(places):
            return pair[: places[0]], pair[places[-1] + 1 :], int(pair.type_ids[places[0]])
    raise ValueError("the tokenizer finds no words in the context")


def _parts(pieces: Iterator[Tokens], room: int, stride: int, side: str) -> Iterator[Tokens]:
    """The parts of the context, each of which overlaps the next; counted from its end if that is the side to cut at."""
    rest = next(pieces)
    if side == "left":
        rest = rest.then(*pieces)
    while True:
        while len(rest) <= room and (piece := next(pieces, None)) is not None:
            rest = rest.then(piece)
        if len(rest) > room and room <= stride:
            raise ValueError(
                f"beside the question and special tokens, max_seq_len leaves room for {max(room, 0)} tokens of the "
                f"context, which must be more than doc_stride ({stride}); shorten the question, or lower doc_stride"
            )
        yield (rest[-room:] if side == "left" else rest[:room]).copy()
        if len(rest) <= room:
            return
        rest = rest[: stride - room] if side == "left" else rest[room - stride :]


def _pieces(backend: Any, context: str) -> Iterator[Tokens]:
    """All tokens of the context, in pieces that are as they are in the whole; at least one, which may be empty."""
    begin, words = 0, 0
    while True:
        end = _cut(backend, context, begin + _PIECE)
        piece = Tokens.of(backend.encode(context[begin:end], add_special_tokens=False))
        piece.offsets += begin
        piece.words[piece.words != _NO_WORD] += words
        yield piece
        if end == len(context):
            return
        begin, words = end, max(words, int(piece.words.max(initial=_NO_WORD)) + 1)


def _cut(backend: Any, context: str, start: int) -> int:
    """A place behind `start` where a context can be cut without a change to its tokens; its end if there seems none."""
    tried = 0
    for at in range(start, len(context)):
        if context[at - 1].isalnum() and not context[at].isalnum():
            if _same(backend, context, at):
                return at
            tried += 1
            if tried == _TRIES:
                break
    return len(context)


def _same(backend: Any, context: str, at: int) -> bool:
    """Whether the tokens around a place are the same when the text is cut there."""
    texts = context[at - _AROUND : at + _AROUND], context[at - _AROUND : at], context[at : at + _AROUND]
    whole, left, right = (Tokens.of(backend.encode(text, add_special_tokens=False)) for text in texts)
    if not len(left):
        return False
    right.offsets += _AROUND
    right.words[right.words != _NO_WORD] += left.words.max() + 1
    return whole.equals(left.then(right))
