"""Bounds for what a request has a model generate: the tokens of all sequences together, and the text alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mlserve.errors import InferenceError
from mlserve_huggingface.texts import Tokens, said_in, size, together

__all__ = ["Generation"]

_TOGETHER = 10_000  # tokens, unless the setting says otherwise, or the model takes more in one sequence
_READ = 4096  # tokens, by an encoder that takes fewer or does not tell
_UNTOLD = 256  # new tokens where neither request nor model say how many
_MEDIUM = 1024  # tokens that a picture or sound may become, where the configuration does not tell
_STOPS = 128  # characters: transformers makes a table of the vocabulary with a column for each
_LENGTHS = frozenset({"max_length", "max_new_tokens"})


class Generation:
    """The bounds for one model that generates."""

    def __init__(self, pipeline: Any, tokens: int, sees_text: bool, most: int | None, knows_lists: bool = True) -> None:
        own = getattr(pipeline, "generation_config", None)
        self._config = own if own is not None else getattr(pipeline.model, "generation_config", None)
        self._tokens = Tokens(pipeline)
        self._knows_lists = knows_lists  # of texts in one row, which it generates from at once
        self._most = most if most is not None else max(_TOGETHER, tokens)
        config = getattr(pipeline.model, "config", None)
        self._is_apart = getattr(config, "is_encoder_decoder", False)  # from the prompt; max_length is without it
        # An encoder sees all of it at once, and its attention grows with the square.
        self._most_read = max(_READ, tokens) if self._is_apart and most is None else self._most
        self._medium = None if sees_text else getattr(config, "max_source_positions", _MEDIUM)

    def check(self, said: list[tuple[str, Any]], prompts: Iterable[Any], options: dict[str, Any] | None = None) -> None:
        """InferenceError for options, by name, that would have it keep too many tokens.

        It may take the prompts apart: call it from the thread whose turn it is.
        """
        told = _numbers(said)
        is_told = self._multiplies(told)
        for prompt in list(prompts) or [None]:
            if self._medium is None or not isinstance(prompt, str):  # a text may be the picture
                self.check_prompt(prompt, options or {})
            texts = together(prompt, len)[0] if self._knows_lists and self._medium is None else 1
            if is_told or texts > 1:
                self._check_tokens(told, prompt, texts, options or {})

    def check_tokens(self, said: list[tuple[str, Any]], tokens: int) -> None:
        """The same of a text whose tokens are counted, with all that options, templates and padding add to it."""
        _check_stops([value for name, value in said if name == "stop_strings" and isinstance(value, str)])
        if tokens > self._most_read:
            raise self._too_long(tokens)
        told = _numbers(said)
        if self._multiplies(told):
            sequences = self._sequences(told)
            self._check_product(sequences, self._length(told, tokens if sequences > 1 else 0), 1)

    def check_prompt(self, prompt: Any, options: dict[str, Any]) -> None:
        """InferenceError for text that is longer than the model shall read, be it for one sequence."""
        for measure in (self._tokens.most, self._tokens.exactly):
            read = sum(map(measure, said_in(prompt))) if self._medium is not None else self._read(prompt, measure)
            read = self._tokens.cut(read, options)
            if read <= self._most_read:
                return
        raise self._too_long(read)

    def _too_long(self, tokens: int) -> InferenceError:
        return InferenceError(
            f"a text is longer than the model takes: {tokens} tokens, and it reads at most {self._most_read} "
            f"(parameters.extra.max_generation_tokens); shorten it, or set truncation"
        )

    def _check_tokens(self, told: dict[str, float], prompt: Any, texts: int, options: dict[str, Any]) -> None:
        sequences = self._sequences(told) * texts
        length = self._length(told, 0)
        for measure in (self._tokens.most, self._tokens.exactly) if sequences > 1 else ():
            length = self._length(told, self._longest(prompt, measure, options))
            if sequences * length <= self._most:
                break
        self._check_product(sequences, length, texts)

    def _check_product(self, sequences: float, length: float, texts: int) -> None:
        if not sequences * length <= self._most:
            what = "texts in one row, beams," if texts > 1 else "beams,"
            advice = "; send the texts as rows of their own" if texts > 1 else ""
            raise InferenceError(
                f"{sequences:g} sequences ({what} or answers to one text) of {length:g} tokens each, "
                f"with the prompt, are {sequences * length:g} tokens; this model keeps at most {self._most} for one "
                f"text (parameters.extra.max_generation_tokens){advice}"
            )

    def _multiplies(self, told: dict[str, float]) -> bool:
        """Whether the request asks for more than the model writes by itself."""
        return self._sequences(told) > 1 or not told.keys().isdisjoint(_LENGTHS)

    def _sequences(self, told: dict[str, float]) -> float:
        """How many the request asks for. What the model's own configuration multiplies is the operator's choice."""
        sequences = max(1, told.get("num_beams", 1), told.get("num_return_sequences", 1))
        if self._value("penalty_alpha", told) and not told.keys().isdisjoint({"penalty_alpha", "top_k"}):
            sequences *= max(1, self._value("top_k", told) or 1)  # each is tried
        return sequences * 2 if told.get("guidance_scale", 1) > 1 else sequences  # with the prompt, and without

    def after(self, told: dict[str, Any], prompt: int) -> float:
        """The tokens of the longest sequence that a model sees: the prompt and what follows, or either if apart."""
        numbers = {name: value for name, value in told.items() if isinstance(value, int | float)}
        return max(prompt, self._length(numbers, 0)) if self._is_apart else self._length(numbers, prompt)

    def _length(self, told: dict[str, float], prompt: int) -> float:
        """How many tokens a sequence may have, its prompt among them."""
        new, whole = told.get("max_new_tokens"), told.get("max_length")
        if new is None and whole is None:
            new, whole = self._value("max_new_tokens", told), self._value("max_length", told)
        if new or not whole:
            length = prompt + (new or _UNTOLD)
        else:
            length = prompt + whole if self._is_apart else max(whole, prompt)
        return length

    def _longest(self, prompt: Any, measure: Callable[[str], int], options: dict[str, Any]) -> int:
        """How many tokens a prompt has, or the longest text of several."""
        if self._medium is not None:
            text = self._tokens.cut(sum(map(measure, said_in(prompt))), options)
            return int(self._medium) * max(1, _media(prompt)) + text
        return self._tokens.cut(self._read(prompt, measure), options)

    def _read(self, prompt: Any, measure: Callable[[str], int]) -> int:
        return together(prompt, measure)[1] if self._knows_lists else size(prompt, measure)

    def _value(self, name: str, told: dict[str, float]) -> Any:
        return told.get(name, getattr(self._config, name, None))


def _numbers(said: list[tuple[str, Any]]) -> dict[str, float]:
    """The largest number by each name, which may stand in several objects."""
    told: dict[str, float] = {}
    for name, value in said:
        if isinstance(value, int | float):
            told[name] = max(value, told.get(name, value))
    return told


def _check_stops(stops: list[str]) -> None:
    """InferenceError for stop strings that are too many, or too long."""
    needed = len(stops) * max(map(len, stops), default=0)
    if needed > _STOPS:
        raise InferenceError(
            f"'stop_strings' or 'stop_sequence': their number times the characters of the longest is at most {_STOPS}, "
            f"got {needed}"
        )


def _media(value: Any) -> int:
    """How many pictures or sounds there are in a row, a chat or an object."""
    if isinstance(value, list | tuple):
        return sum(map(_media, value))
    if isinstance(value, dict):
        return 1 if value.get("type", "text") != "text" else sum(map(_media, value.values()))
    return 0 if value is None or isinstance(value, str | int | float) else 1
