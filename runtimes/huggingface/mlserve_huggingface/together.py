"""How many rows a pipeline may compute together: several only where no answer depends on what runs beside it."""

from __future__ import annotations

from typing import Any

from transformers.pipelines import PIPELINE_REGISTRY

__all__ = ["Together"]

# Pipelines that take lists, but cannot compute several of their elements together.
_UNABLE = frozenset({"decision", "keypoint-matching"})
# Those that give the padding of the shorter rows as part of their answers, or see prompts of unlike lengths.
_PADDED = frozenset({"any-to-any", "feature-extraction", "image-text-to-text", "text-to-audio"})
_SOUND = frozenset({"audio-classification", "automatic-speech-recognition", "zero-shot-audio-classification"})
# Options of generation that count the padding before a prompt as part of it, and what leaves them without effect.
_COUNT_PADDING = {"min_length": 0, "no_repeat_ngram_size": 0, "repetition_penalty": 1.0}


class Together:
    """The rule for one pipeline."""

    def __init__(self, task: str, pipeline: Any, batch_size: int) -> None:
        task = PIPELINE_REGISTRY.task_aliases.get(task, task)
        self._batch_size = (
            1 if task in _UNABLE | _PADDED or (task in _SOUND and _hears_padding(pipeline)) else batch_size
        )
        self._config: Any = None
        if task == "text-generation":
            self._config = _generation_of(pipeline)
            if not _pads_on_the_left(pipeline):
                self._batch_size = 1

    def rows(self, options: dict[str, Any]) -> int:
        """How many rows of calls with these options the model may compute at once."""
        return 1 if self._config is not None and self._counts_padding(options) else self._batch_size

    def _counts_padding(self, options: dict[str, Any]) -> bool:
        def told(name: str) -> Any:
            return options.get(name, getattr(self._config, name, None))

        # Else max_length ends the text, which has the padding in it.
        ends = options.get("max_new_tokens") or (told("max_new_tokens") and "max_length" not in options)
        return not ends or any(told(name) not in (None, none) for name, none in _COUNT_PADDING.items())


def _pads_on_the_left(pipeline: Any) -> bool:
    """Sees to it that prompts end where their answers begin. False where they cannot be padded so."""
    tokenizer = getattr(pipeline, "tokenizer", None)
    if tokenizer is None or tokenizer.pad_token_id is None:
        return False
    if not getattr(pipeline.model.config, "is_encoder_decoder", False):
        tokenizer.padding_side = "left"  # transformers 5 does it too; 4 leaves what the tokenizer has, mostly "right"
    return True


def _generation_of(pipeline: Any) -> Any:
    own = getattr(pipeline, "generation_config", None)
    return own if own is not None else getattr(pipeline.model, "generation_config", None)


def _hears_padding(pipeline: Any) -> bool:
    """Whether silence behind a shorter sound counts as heard: not with a mask, nor where all are padded alike."""
    if getattr(pipeline, "type", None) == "seq2seq_whisper":
        return False
    return not getattr(getattr(pipeline, "feature_extractor", None), "return_attention_mask", False)
