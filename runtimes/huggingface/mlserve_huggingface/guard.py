"""Stands before a pipeline's model: what counts is what would reach the model, whatever form a request had it in."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import GenerationMixin, LogitsProcessorList, PreTrainedTokenizerBase, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from mlserve.errors import InferenceError
from mlserve_huggingface.limits import Limits
from mlserve_huggingface.options import IN_OBJECTS

__all__ = ["guard"]

_PROMPTS = ("input_ids", "decoder_input_ids")
# No request can make one.
_OBJECTS = (BaseStreamer, GenerationMixin, LogitsProcessorList, PreTrainedTokenizerBase, StoppingCriteriaList)


def guard(pipeline: Any, limits: Limits) -> None:
    """Has the limits look at each call of a model that generates, just before it computes.

    By then the pipeline has merged all options, and made tokens of all texts: no name and no form is left to forget.
    """
    if not limits.generates or not hasattr(pipeline, "_forward"):
        return
    forward = pipeline._forward
    named = list(inspect.signature(forward).parameters)[1:]  # what the pipeline itself reads
    own = {*named, *pipeline._forward_params, "prefix_length"}.difference(IN_OBJECTS)

    def guarded(model_inputs: Any, **options: Any) -> Any:
        said = {name: value for name, value in options.items() if name not in own}
        limits.check_generation(_without_objects(said), _tokens_in(model_inputs))
        more = {name: _completed(said[name], pipeline) for name in IN_OBJECTS if isinstance(said.get(name), dict)}
        return forward(model_inputs, **{**options, **more})

    pipeline._forward = guarded


def _without_objects(options: dict[str, Any]) -> dict[str, Any]:
    """The options that a request may have given, inside of objects too."""
    return {
        name: _without_objects(value) if name in IN_OBJECTS and isinstance(value, dict) else value
        for name, value in options.items()
        if not isinstance(value, _OBJECTS)
    }


def _completed(options: dict[str, Any], pipeline: Any) -> dict[str, Any]:
    """Options of generation with what JSON cannot hold: the tokenizer that stops are found with, tensors."""
    more: dict[str, Any] = {}
    if options.get("stop_strings") and options.get("tokenizer") is None:
        processor = getattr(pipeline, "processor", None)
        more["tokenizer"] = pipeline.tokenizer or getattr(processor, "tokenizer", None)
    if isinstance(options.get("speaker_embeddings"), list):
        more["speaker_embeddings"] = _speakers(options["speaker_embeddings"]).to(pipeline.device)
    return {**options, **more}


def _speakers(value: list[Any]) -> torch.Tensor:
    """One row of numbers a speaker, given as a list of rows or as the only one."""
    try:
        rows = torch.tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InferenceError(f"'speaker_embeddings' is a list of numbers, or of such lists: {error}") from error
    return rows[None] if rows.ndim == 1 else rows


def _tokens_in(model_inputs: Any) -> int:
    """The tokens of the longest text, with its padding."""
    shapes: list[Any] = [getattr(model_inputs[name], "shape", ()) for name in _PROMPTS if name in model_inputs]
    return max((int(shape[1]) for shape in shapes if len(shape) == 2), default=0)
