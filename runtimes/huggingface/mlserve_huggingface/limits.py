"""Bounds for the options of clients that memory grows with: a request of a few bytes must not cost gigabytes."""

from __future__ import annotations

from typing import Any

from mlserve.errors import InferenceError

__all__ = ["Limits", "tokens_of"]

_TOKENS = 4096  # where a model does not tell how many it takes, and for generated text, which may go beyond
_SPAN = 384  # tokens of question and context together, unless max_seq_len says otherwise
_LARGER = 10**9  # what tokenizers say for "not known" is larger
_LENGTHS = frozenset(("max_length", "pad_to_multiple_of"))
_GENERATED = frozenset(("max_cache_len", "max_new_tokens", "max_seq_len", "min_length", "min_new_tokens"))
_MOST = {
    "num_beams": 64,
    "num_beam_groups": 64,
    "num_return_sequences": 128,
    "num_frames": 1024,
    "crops_n_layers": 4,
    "points_per_batch": 4096,
    "points_per_crop": 128,
} | dict.fromkeys(("height", "width", "size", "crop_size", "pad_size", "shortest_edge", "longest_edge"), 4096)
_ANSWERS = {"top_k": 1000, "topk": 1000}  # of question answering; elsewhere there are no more than labels or tokens
_TEMPLATE = 1000  # characters; each label has a text of them


class Limits:
    """The bounds for one pipeline."""

    def __init__(self, task: str, pipeline: Any) -> None:
        tokens = tokens_of(pipeline)
        generated = max(tokens, _TOKENS)
        generates = getattr(getattr(pipeline, "model", None), "can_generate", lambda: False)()
        self._most = {
            **_MOST,
            **dict.fromkeys(_LENGTHS, generated if generates else tokens),
            **dict.fromkeys(_GENERATED, generated),
            "stride": tokens // 2,
        }
        self._span = None
        if task == "question-answering":
            self._most |= _ANSWERS
            # The pipeline of transformers makes all the spans at once; ours one at a time.
            self._span = min(tokens, _SPAN) if hasattr(pipeline, "feature_extractor") else None

    def check(self, options: dict[str, Any]) -> None:
        """InferenceError for an option that is above its bound, also inside an object such as generate_kwargs."""
        for name, value in options.items():
            self._check(name, value)
        longest = options.get("max_seq_len", self._span)
        if self._span is not None and isinstance(longest, int):
            _compare("doc_stride", options.get("doc_stride"), longest // 2)

    def _check(self, name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                self._check(str(key), inner)
        elif isinstance(value, list):
            for inner in value:
                self._check(name, inner)
        elif name == "hypothesis_template":
            _check_template(value)
        elif name in self._most:
            _compare(name, value, self._most[name])


def _compare(name: str, value: Any, most: int) -> None:
    if isinstance(value, int | float) and not value <= most:
        raise InferenceError(f"'{name}' is at most {most} for this model, got {value}")


def _check_template(value: Any) -> None:
    """InferenceError for what is more than words around a label: formats can make any width, and read attributes."""
    if isinstance(value, str) and (value.count("{}") != 1 or set(value.replace("{}", "")) & set("{}")):
        raise InferenceError(
            f"'hypothesis_template' has {{}} once, for the label, and no other braces, got {value[:60]!r}"
        )
    if isinstance(value, str) and len(value) > _TEMPLATE:
        raise InferenceError(f"'hypothesis_template' has at most {_TEMPLATE} characters, got {len(value)}")


def tokens_of(pipeline: Any) -> int:
    """How many tokens the model takes."""
    config = getattr(getattr(pipeline, "model", None), "config", None)
    told = (
        getattr(getattr(pipeline, "tokenizer", None), "model_max_length", None),
        *(getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")),
    )
    # Some configurations have -1 for "any number".
    known = [int(one) for one in told if isinstance(one, int | float) and 0 < one < _LARGER]
    return min(known, default=_TOKENS)
