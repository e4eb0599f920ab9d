"""The texts that a model sees at once: how many a row has, and the tokens of the longest, to which all are padded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Tokens", "said_in", "size", "texts_in", "together"]

_LARGER = 10**9  # what tokenizers say for "not known" is larger
_SAID = frozenset({"content", "prompt", "question", "text"})  # beside pictures, sound and their addresses
_UNCUT = (None, False, "do_not_truncate")


class Tokens:
    """Counts tokens: first more than there can be, for that costs nothing."""

    def __init__(self, pipeline: Any) -> None:
        self._tokenizer = getattr(pipeline, "tokenizer", None)
        longest = getattr(self._tokenizer, "model_max_length", None)
        self.longest = int(longest) if longest is not None and 0 < longest < _LARGER else None

    def most(self, text: str) -> int:
        """A number that its tokens do not exceed: none is less than a byte."""
        return len(text.encode("utf-8", "surrogatepass")) + 1

    def exactly(self, text: str) -> int:
        """How many there are, where a tokenizer can tell."""
        return len(self._tokenizer.tokenize(text)) if self._tokenizer is not None else self.most(text)

    def cut(self, tokens: int, options: dict[str, Any]) -> int:
        """So many tokens after truncation, if the options ask for it."""
        return min(tokens, self.longest) if self.longest is not None and _is_cut(options) else tokens


def _is_cut(options: dict[str, Any]) -> bool:
    """Whether the tokenizer is to cut texts that are too long."""
    inner = (options.get(name) for name in ("tokenizer_kwargs", "tokenizer_encode_kwargs", "tokenize_kwargs"))
    said = [options, *(one for one in inner if isinstance(one, dict))]
    return any(one.get("truncation") not in _UNCUT for one in said)


def together(row: Any, measure: Callable[[str], int]) -> tuple[int, int]:
    """How many texts the model sees at once for this row, one for most rows, and the tokens of the longest."""
    if _is_list(row):
        return len(row), max(size(one, measure) for one in row)
    if isinstance(row, dict):  # a text beside the other of its pair, say, or lists of both
        parts = [together(one, measure) if _is_list(one) else (1, size(one, measure)) for one in row.values()]
        return max((count for count, _ in parts), default=1), sum(longest for _, longest in parts)
    return 1, size(row, measure)


def _is_list(value: Any) -> bool:
    """Whether this is a list of texts, or of pairs of texts, which the tokenizer makes one batch of."""
    return isinstance(value, list) and len(value) > 1 and all(isinstance(one, str | list | tuple) for one in value)


def size(value: Any, measure: Callable[[str], int]) -> int:
    """The tokens of all texts in a value together."""
    return sum(map(measure, texts_in(value)))


def said_in(value: Any, is_said: bool = True) -> Iterable[str]:
    """The texts in a chat or an object with pictures or sound, without those that stand for a file."""
    if isinstance(value, str):
        if is_said:
            yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from said_in(inner, is_said)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from said_in(inner, name in _SAID)


def texts_in(value: Any) -> Iterable[str]:
    """All texts in a value, without the names in it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts_in(inner)
