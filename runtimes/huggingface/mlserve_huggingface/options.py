"""The options of generation that a request may set, each with its kind and range; all others are the operator's.

Transformers has many more. Some change the model itself, and leave it changed where the generation fails; others load
code, keep memory or hold numbers for whole vocabularies.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import transformers

from mlserve.errors import InferenceError

__all__ = ["IN_OBJECTS", "NAMES", "Options", "check_objects", "refuse"]

_LISTED = 1000  # elements of a list; each is looked for at every step
_FIELDS = frozenset(transformers.GenerationConfig().to_dict())
IN_OBJECTS = ("forward_params", "generate_kwargs")  # what pipelines hand on to generate as it is
_OBJECTS = ("_kwargs", "_params")  # ends of the names of options that are objects of options
_PARTS = ("semantic_", "coarse_", "fine_")  # of Bark, before the name of an option


@dataclass(frozen=True)
class Kind:
    """What an option's value must be."""

    told: str
    fits: Callable[[Any], bool]

    def __or__(self, other: Kind) -> Kind:
        return Kind(f"{self.told}, or {other.told}", lambda value: self.fits(value) or other.fits(value))


def _whole(least: int, most: int) -> Kind:
    return Kind(f"a whole number from {least} to {most}", lambda value: type(value) is int and least <= value <= most)


def _number(least: float, most: float) -> Kind:
    return Kind(
        f"a number from {least:g} to {most:g}", lambda value: type(value) in (int, float) and least <= value <= most
    )


def _listed(kind: Kind, most: int = _LISTED) -> Kind:
    def fits(value: Any) -> bool:
        return isinstance(value, list) and 0 < len(value) <= most and all(map(kind.fits, value))

    return Kind(f"a list of 1 to {most}, each {kind.told}", fits)


def _pair(first: Kind, second: Kind) -> Kind:
    def fits(value: Any) -> bool:
        return isinstance(value, list) and len(value) == 2 and first.fits(value[0]) and second.fits(value[1])

    return Kind(f"a list of two, {first.told} and {second.told}", fits)


_FLAG = Kind("true or false", lambda value: type(value) in (bool, int) and value in (0, 1))
_TEXT = Kind("a text that is not empty", lambda value: isinstance(value, str) and value != "")
_NO_END = Kind("-1 for none", lambda value: type(value) is int and value == -1)
_NONE = Kind("[] for none", lambda value: value == [])
_NEVER = Kind('"never"', lambda value: bool(value == "never"))
_SHARE = _number(0, 1)
_PENALTY = _number(0.01, 100)
_TEMPERATURE = _number(1e-5, 1e5) | Kind("0", lambda value: type(value) in (int, float) and value == 0)
# What transformers 5, and the last versions of 4, generate only with code that they fetch from the hub.
_FETCHED = frozenset({"diversity_penalty", "force_words_ids", "num_beam_groups", "penalty_alpha"})


def _kinds(longest: int, vocabulary: int) -> dict[str, Kind]:
    """The options by name, for a model that generates so many tokens, of so many."""
    token = Kind(f"a token, 0 to {vocabulary - 1}", lambda value: type(value) is int and 0 <= value < vocabulary)
    tokens, length = _listed(token, max(_LISTED, vocabulary)), _whole(0, longest)
    words = _listed(_listed(token))
    return {
        # how long
        "max_length": _whole(1, longest),
        "max_new_tokens": _whole(1, longest),
        "max_time": _number(0, 1e9),
        "min_length": length,
        "min_new_tokens": length,
        "stop_strings": _TEXT | _listed(_TEXT),
        "early_stopping": _FLAG | _NEVER,
        "eos_token_id": token | tokens | _NO_END,
        # which way
        "do_sample": _FLAG,
        "num_beams": _whole(1, 64),
        "num_beam_groups": _whole(1, 64),
        "diversity_penalty": _number(0, 100),
        "penalty_alpha": _SHARE,
        "num_return_sequences": _whole(1, 128),
        "use_cache": _FLAG,
        # which token
        "temperature": _TEMPERATURE,
        "top_k": _whole(0, 10**9),
        "top_p": _SHARE,
        "min_p": _SHARE,
        "top_h": _SHARE,
        "typical_p": _SHARE,
        "epsilon_cutoff": _SHARE,
        "eta_cutoff": _SHARE,
        "guidance_scale": _number(0, 100),
        "length_penalty": _number(-10, 10),
        "repetition_penalty": _PENALTY,
        "encoder_repetition_penalty": _PENALTY,
        "no_repeat_ngram_size": length,
        "encoder_no_repeat_ngram_size": length,
        "exponential_decay_length_penalty": _pair(length, _number(0.01, 100)),
        "bad_words_ids": words,
        "force_words_ids": words | _listed(words),
        "sequence_bias": _listed(_pair(_listed(token), _number(-1e5, 1e5))),
        "suppress_tokens": tokens | _NONE,
        "begin_suppress_tokens": tokens | _NONE,
        "forced_bos_token_id": token,
        "forced_eos_token_id": token | tokens,
        "renormalize_logits": _FLAG,
        "remove_invalid_values": _FLAG,
        # where a text begins, and what stands for nothing
        "bos_token_id": token,
        "decoder_start_token_id": token,
        "pad_token_id": token,
    }


# Inside generate_kwargs and forward_params only: of models that hear, speak or draw.
_OF_SOUND = {
    "compression_ratio_threshold": _number(0, 1e9),
    "condition_on_prev_tokens": _FLAG,
    "generation_mode": _TEXT,
    "is_multilingual": _FLAG,
    "language": _TEXT | _listed(_TEXT),
    "logprob_threshold": _number(-1e9, 0),
    "maxlenratio": _number(0, 20),
    "minlenratio": _number(0, 20),
    "no_speech_threshold": _SHARE,
    "return_timestamps": _FLAG | _TEXT,
    "speaker_embeddings": Kind("a list", lambda value: isinstance(value, list)),
    "speaker_id": _whole(0, 10**6),
    "task": _TEXT,
    "temperature": _TEMPERATURE | _listed(_TEMPERATURE, 16),
    "tgt_lang": _TEXT,
    "threshold": _SHARE,
    "use_audio_in_video": _FLAG,
}
_FETCHES = not _FETCHED <= _FIELDS or hasattr(transformers.GenerationMixin, "_get_deprecated_gen_repo")
NAMES = frozenset(_kinds(1, 1)) & _FIELDS - (_FETCHED if _FETCHES else frozenset())  # as far as this version has them
# Those that TensorFlow's `generate` looks at; it would leave the others out without a word.
_OF_TENSORFLOW = frozenset({
    "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id", "do_sample", "early_stopping",
    "eos_token_id", "forced_bos_token_id", "forced_eos_token_id", "length_penalty", "max_length", "max_new_tokens",
    "min_length", "no_repeat_ngram_size", "num_beams", "num_return_sequences", "pad_token_id", "penalty_alpha",
    "repetition_penalty", "suppress_tokens", "temperature", "top_k", "top_p", "use_cache",
})  # fmt: skip


def refuse(name: str) -> None:
    """InferenceError for an option of generation that is not for clients."""
    if _FETCHES and name in _FETCHED:
        raise InferenceError(
            f"'{name}' cannot be set by a request: transformers {transformers.__version__} generates so with foreign "
            f"code only"
        )
    if name in _FIELDS - NAMES:
        raise InferenceError(
            f"'{name}' cannot be set by a request: it is for whoever runs the server, in the model's "
            f"generation_config.json"
        )


def check_objects(value: Any, name: str = "") -> None:
    """InferenceError for what is no object where an object of options belongs: Python takes pairs for one as well."""
    if name.endswith(_OBJECTS) and value is not None and not isinstance(value, dict):
        raise InferenceError(
            f"'{name}' is an object of options by name (content type hg_json), got {type(value).__name__}"
        )
    for key, inner in value.items() if isinstance(value, dict) else ():
        check_objects(inner, str(key))


class Options:
    """The rule for one pipeline."""

    def __init__(self, pipeline: Any, longest: int) -> None:
        kinds = _kinds(longest, _vocabulary(pipeline))
        is_tensorflow = getattr(pipeline, "framework", "pt") == "tf"
        self._kinds = {name: kinds[name] for name in (NAMES & _OF_TENSORFLOW if is_tensorflow else NAMES)}

    def check(self, options: dict[str, Any]) -> None:
        """InferenceError for a value of another kind or range, or what is not for clients inside an object."""
        for name, value in options.items():
            if name in IN_OBJECTS and isinstance(value, dict):
                self.check_all(value, name)
            elif name in self._kinds:
                _check(name, value, self._kinds[name])
        _check_end(options)

    def check_all(self, options: dict[str, Any], where: str = "") -> None:
        """The same of what is about to reach `generate`: only what is on the list does. `where` names the object."""
        for name, value in options.items():
            if name in IN_OBJECTS and not where:
                check_objects(value, name)
                self.check_all(value or {}, name)
            elif value is not None or where:
                self._check_inner(where, name, value)
        _check_end(options)

    def _check_inner(self, where: str, name: str, value: Any) -> None:
        known = self._kinds | _OF_SOUND
        part = next((one for one in _PARTS if name.startswith(one)), "")
        kind = known.get(name.removeprefix(part))
        if kind is None:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            inside = f" in '{where}'" if where else ""
            if name in NAMES:
                hint = ", for TensorFlow generates without it"
            raise InferenceError(f"'{name}'{inside} cannot be set by a request{hint}")
        _check(name, value, kind)


def _check(name: str, value: Any, kind: Kind) -> None:
    if value is not None and not kind.fits(value):
        raise InferenceError(f"'{name}' is {kind.told} for this model, got {repr(value)[:60]}")


def _check_end(options: dict[str, Any]) -> None:
    if options.get("eos_token_id") == -1 and options.get("exponential_decay_length_penalty") is not None:
        raise InferenceError(
            "'exponential_decay_length_penalty' makes the end of a text likelier, and 'eos_token_id': -1 leaves none; "
            "send one of them"
        )


def _vocabulary(pipeline: Any) -> int:
    """How many tokens there are to generate. 0 if that is not known: then none can be named."""
    config: Any = getattr(pipeline.model, "config", None)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    size = getattr(text, "vocab_size", None)
    return size if isinstance(size, int) else 0
