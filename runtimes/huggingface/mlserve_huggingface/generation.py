"""Bounds for what a request has a model generate: the tokens of all sequences together, and the text alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlserve.errors import InferenceError

__all__ = ["Generation"]

_TOGETHER = 10_000  # tokens, unless the setting says otherwise, or the model takes more in one sequence
_UNTOLD = 256  # new tokens where neither request nor model say how many
_MEDIUM = 1024  # tokens that a picture or sound may become, where the configuration does not tell
_STOPS = 128  # characters: transformers makes a table of the vocabulary with a column for each
# They are for whole vocabularies or all layers, at each step: a short text costs hundreds of megabytes.
_BESIDE_TEXT = frozenset({
    "output_attentions", "output_hidden_states", "output_logits", "output_scores", "return_dict_in_generate",
})  # fmt: skip
_COUNTED = frozenset({"max_cache_len", "max_length", "max_new_tokens", "num_beams", "num_return_sequences"})


class Generation:
    """The bounds for one model that generates."""

    def __init__(self, pipeline: Any, tokens: int, sees_text: bool, most: int | None) -> None:
        own = getattr(pipeline, "generation_config", None)
        self._config = own if own is not None else getattr(pipeline.model, "generation_config", None)
        self._tokenizer = getattr(pipeline, "tokenizer", None)
        self._most = most if most is not None else max(_TOGETHER, tokens)
        config = getattr(pipeline.model, "config", None)
        self._is_apart = getattr(config, "is_encoder_decoder", False)  # from the prompt; max_length is without it
        self._medium = None if sees_text else getattr(config, "max_source_positions", _MEDIUM)

    def check(self, said: list[tuple[str, Any]], prompts: Iterable[Any]) -> None:
        """InferenceError for options, by name, that would have it keep too many tokens, or tell more than the text.

        It may take the prompts apart: call it from the thread whose turn it is.
        """
        for name, value in said:
            if name in _BESIDE_TEXT and value:
                raise InferenceError(
                    f"'{name}' cannot be set by a request: it would hold numbers for each token of the vocabulary or "
                    f"each layer at every step; leave it out, the answer has the text"
                )
        _check_stops([value for name, value in said if name == "stop_strings" and isinstance(value, str)])
        told: dict[str, float] = {}
        for name, value in said:  # a name may stand in several objects
            if isinstance(value, int | float):
                told[name] = max(value, told.get(name, value))
        if not told.keys().isdisjoint(_COUNTED) or told.get("penalty_alpha"):
            self._check_tokens(told, prompts)

    def _check_tokens(self, told: dict[str, float], prompts: Iterable[Any]) -> None:
        sequences = max(1, self._value("num_beams", told) or 1, self._value("num_return_sequences", told) or 1)
        if self._value("penalty_alpha", told):
            sequences *= max(1, self._value("top_k", told) or 1)  # each is tried
        longest = max((self._tokens_of(one, sequences, told) for one in prompts), default=0) if sequences > 1 else 0
        tokens = sequences * self._length(told, longest)
        if not tokens <= self._most:
            raise InferenceError(
                f"{sequences:g} sequences (beams, or answers to one text) of {tokens / sequences:g} tokens each, "
                f"with the prompt, are {tokens:g} tokens; this model keeps at most {self._most} for one text "
                f"(parameters.extra.max_generation_tokens)"
            )

    def _length(self, told: dict[str, float], prompt: int) -> float:
        """How many tokens a sequence may have, its prompt among them."""
        new, whole = told.get("max_new_tokens"), told.get("max_length")
        if new is None and whole is None:
            new, whole = self._value("max_new_tokens", told), self._value("max_length", told)
        if new or not whole:
            length = prompt + (new or _UNTOLD)
        else:
            length = prompt + whole if self._is_apart else max(whole, prompt)
        return max(length, told.get("max_cache_len", 0))

    def _tokens_of(self, prompt: Any, sequences: float, told: dict[str, float]) -> int:
        """How many tokens a prompt has; more where they are too few to matter."""
        if self._medium is not None:
            return int(self._medium)
        texts = list(_texts(prompt))
        most = sum(len(text.encode("utf-8", "surrogatepass")) + 1 for text in texts)  # no token is less than a byte
        if self._tokenizer is None or sequences * self._length(told, most) <= self._most:
            return most
        return sum(len(self._tokenizer.tokenize(text)) for text in texts)

    def _value(self, name: str, told: dict[str, float]) -> Any:
        return told.get(name, getattr(self._config, name, None))


def _check_stops(stops: list[str]) -> None:
    """InferenceError for stop strings that are too many, or too long."""
    needed = len(stops) * max(map(len, stops), default=0)
    if needed > _STOPS:
        raise InferenceError(
            f"'stop_strings': their number times the characters of the longest is at most {_STOPS}, got {needed}"
        )


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
