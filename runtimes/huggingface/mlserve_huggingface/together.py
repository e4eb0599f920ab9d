"""How many rows a pipeline may compute together: several only where it is known that no row's answer sees the others.

What stands in the tables is tried by tests on each version of transformers: tasks, architectures that leave padding out
of what they compute, and options that count none of it. Anything else is computed row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.pipelines import PIPELINE_REGISTRY

from mlserve_huggingface.inputs import Arguments, is_chat

__all__ = ["TASKS", "Together", "unusual"]

_READERS = frozenset({
    "albert", "bert", "camembert", "distilbert", "electra", "modernbert", "mpnet", "roberta", "xlm-roberta",
})  # fmt: skip
_WRITERS = frozenset({
    "bloom", "falcon", "gemma", "gpt2", "gpt_neo", "gpt_neox", "gptj", "llama", "mistral", "olmo", "opt", "phi", "phi3",
    "qwen2", "qwen3", "stablelm", "starcoder2",
})  # fmt: skip
_REWRITERS = frozenset({"bart", "marian", "mt5", "pegasus", "t5"})
_CLASSIFIERS = frozenset({"beit", "convnext", "convnextv2", "deit", "dinov2", "resnet", "swin", "vit"})
_LISTENERS = frozenset({"audio-spectrogram-transformer", "hubert", "wav2vec2", "wavlm"})
# Of options and of a model's own generation_config. What counts tokens counts the padding before a prompt as well, and
# is for those only whose prompts are apart from what they write.
_CHOICE = frozenset({
    "clean_up_tokenization_spaces", "do_sample", "max_new_tokens", "min_new_tokens", "min_p", "num_return_sequences",
    "return_full_text", "temperature", "top_k", "top_p", "typical_p",
})  # fmt: skip
_COUNTING = frozenset({
    "early_stopping", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beams",
    "repetition_penalty", "truncation",
})  # fmt: skip
_OF_MODELS = frozenset({
    "_from_model_config", "bos_token_id", "decoder_start_token_id", "eos_token_id", "max_length", "pad_token_id",
    "transformers_version", "use_cache",
})  # fmt: skip
_STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})  # others go by the longest text at hand
_EXACT = (torch.float32, torch.float64)  # with fewer digits, the next best token is often as good


def _is_text(row: Any) -> bool:
    return isinstance(row, str)


def _is_text_or_pair(row: Any) -> bool:
    return _is_text(row) or _has_texts(row, {"text", "text_pair"})


def _is_question(row: Any) -> bool:
    return _is_text(row) or _has_texts(row, {"question", "context"})


def _has_texts(row: Any, names: set[str]) -> bool:
    return isinstance(row, dict) and set(row) == names and all(isinstance(one, str) for one in row.values())


def _is_picture(row: Any) -> bool:
    return isinstance(row, Image.Image)


def _is_sound(row: Any) -> bool:
    return isinstance(row, np.ndarray | bytes) or (isinstance(row, dict) and set(row) == {"raw", "sampling_rate"})


@dataclass(frozen=True)
class Task:
    """What is known of one task."""

    models: frozenset[str]  # by their model_type
    is_row: Callable[[Any], bool]
    options: frozenset[str] = frozenset()


_REWRITING = Task(_REWRITERS, _is_text, _CHOICE | _COUNTING)
TASKS = {
    "audio-classification": Task(_LISTENERS, _is_sound, frozenset({"function_to_apply", "top_k"})),
    "depth-estimation": Task(frozenset({"glpn"}), _is_picture),
    "fill-mask": Task(_READERS, _is_text, frozenset({"targets", "top_k"})),
    "image-classification": Task(_CLASSIFIERS, _is_picture, frozenset({"function_to_apply", "top_k"})),
    "image-feature-extraction": Task(frozenset({"deit", "dinov2", "vit"}), _is_picture, frozenset({"pool"})),
    "image-segmentation": Task(
        frozenset({"segformer"}),
        _is_picture,
        frozenset({"mask_threshold", "overlap_mask_area_threshold", "subtask", "threshold"}),
    ),
    "object-detection": Task(frozenset({"yolos"}), _is_picture, frozenset({"threshold"})),
    "question-answering": Task(
        _READERS,
        _is_question,
        frozenset({
            "align_to_words", "doc_stride", "handle_impossible_answer", "max_answer_len", "max_question_len",
            "max_seq_len", "top_k", "topk",
        }),
    ),
    "summarization": _REWRITING,
    "text-classification": Task(
        _READERS,
        _is_text_or_pair,
        frozenset({"function_to_apply", "max_length", "return_all_scores", "top_k", "truncation"}),
    ),
    "text-generation": Task(_WRITERS, _is_text, _CHOICE),
    "text2text-generation": _REWRITING,
    "token-classification": Task(_READERS, _is_text, frozenset({"aggregation_strategy", "ignore_labels"})),
    "translation": _REWRITING,
    "zero-shot-classification": Task(
        _READERS, _is_text, frozenset({"candidate_labels", "hypothesis_template", "multi_label"})
    ),
    "zero-shot-image-classification": Task(
        frozenset({"clip"}), _is_picture, frozenset({"candidate_labels", "hypothesis_template"})
    ),
}  # fmt: skip
_READING = frozenset({
    "fill-mask", "question-answering", "text-classification", "token-classification", "zero-shot-classification",
})  # fmt: skip


class Together:
    """The rule for one pipeline."""

    def __init__(self, task: str, pipeline: Any, batch_size: int) -> None:
        task = PIPELINE_REGISTRY.task_aliases.get(task, task).partition("_")[0]
        self._pipeline = pipeline
        self._known = TASKS.get(task)
        self._batch_size = batch_size if self._known is not None and _sees_no_padding(task, pipeline) else 1
        self._generates = self._known is _REWRITING or task == "text-generation"
        self._after_prompt = task == "text-generation"

    def rows(self, arguments: Arguments) -> int:
        """How many of these rows the model may compute at once."""
        if self._known is None or self._batch_size == 1:
            return 1
        options, rows = arguments.options, arguments.all_rows()
        fits = (
            set(options) <= self._known.options
            and (not self._generates or self._goes_on_alike(options))
            and (all(map(self._known.is_row, rows)) or (self._after_prompt and all(map(is_chat, rows))))
            and (not self._after_prompt or all(map(self._has_tokens, rows)))
        )
        return self._batch_size if fits else 1

    def _goes_on_alike(self, options: dict[str, Any]) -> bool:
        """Whether a text goes on as it does alone, by the options and by the model's own."""
        config = _generation_of(self._pipeline)
        told = {name: value for name, value in config.items() if name not in options} | options
        if self._after_prompt and not told.get("max_new_tokens"):
            return False  # max_length ends the text, which has the padding in it
        known = self._known.options if self._known is not None else frozenset()
        is_exact = bool(told.get("do_sample")) or self._pipeline.model.dtype in _EXACT
        return is_exact and set(config) <= known | _OF_MODELS

    def _has_tokens(self, row: Any) -> bool:
        """Whether there is a prompt to pad: alone, none has a start of its own."""
        tokenizer = self._pipeline.tokenizer
        try:
            text = row if isinstance(row, str) else tokenizer.apply_chat_template(row, tokenize=False)
            return bool(tokenizer(text)["input_ids"])
        except Exception:  # whatever templates and tokenizers raise: the call itself will tell
            return False


def unusual(options: dict[str, Any]) -> list[str]:
    """The options of generation that not every model is known to take."""
    return sorted(set(options) - _CHOICE - _COUNTING)


def _sees_no_padding(task: str, pipeline: Any) -> bool:
    model, config = pipeline.model, pipeline.model.config
    if not isinstance(model, torch.nn.Module) or not type(model).__module__.startswith("transformers.models."):
        return False
    if config.model_type not in TASKS[task].models or getattr(config, "quantization_config", None) is not None:
        return False
    if task == "text-generation":
        return _pads_on_the_left(pipeline) and _has_static_positions(config)
    if task in _READING or TASKS[task] is _REWRITING:
        return _pads_on_the_right(pipeline.tokenizer)
    return task != "audio-classification" or _hears_no_padding(pipeline)


def _pads_on_the_left(pipeline: Any) -> bool:
    """Sees to it that prompts end where their answers begin. False where they cannot be padded so."""
    tokenizer = pipeline.tokenizer
    if tokenizer is None or tokenizer.pad_token_id is None:
        return False
    tokenizer.padding_side = "left"  # transformers 5 does it too; 4 leaves what the tokenizer has, mostly "right"
    return True


def _pads_on_the_right(tokenizer: Any) -> bool:
    """Whether each text keeps its place, and has a token at least."""
    return (
        tokenizer is not None
        and tokenizer.pad_token_id is not None
        and tokenizer.padding_side == "right"
        and tokenizer.num_special_tokens_to_add() > 0
    )


def _has_static_positions(config: Any) -> bool:
    """Whether no position's place depends on how long the longest text is."""
    for name in ("rope_parameters", "rope_scaling"):
        told = getattr(config, name, None)
        if told and told.get("rope_type", told.get("type")) not in _STATIC_ROPE:
            return False
    return True


def _hears_no_padding(pipeline: Any) -> bool:
    """Whether all sounds are padded alike, or the silence behind a shorter one is masked wherever it would be heard."""
    config, extractor = pipeline.model.config, pipeline.feature_extractor
    if config.model_type == "audio-spectrogram-transformer":
        return True
    if getattr(config, "conv_pos_batch_norm", False):
        return False  # a HuBERT whose positions are shifted by it, padding too
    return config.feat_extract_norm == "layer" and bool(extractor.return_attention_mask)


def _generation_of(pipeline: Any) -> dict[str, Any]:
    """What the generation_config of a pipeline and of its model say other than the default."""
    both = (pipeline.model.generation_config, getattr(pipeline, "generation_config", None))
    told = {name: value for one in both if one is not None for name, value in one.to_diff_dict().items()}
    return {name: value for name, value in told.items() if value is not None and value is not False}
