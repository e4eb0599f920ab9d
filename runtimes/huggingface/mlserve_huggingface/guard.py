"""Stands before a pipeline's model: what counts is what would reach the model, whatever form a request had it in."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import GenerationMixin, PreTrainedTokenizerBase, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from mlserve_huggingface.limits import Limits
from mlserve_huggingface.options import IN_OBJECTS

__all__ = ["guard"]

_PROMPTS = ("input_ids", "decoder_input_ids")
_OBJECTS = (BaseStreamer, GenerationMixin, PreTrainedTokenizerBase, StoppingCriteriaList)  # no request can make one


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
        told = {name: value for name, value in options.items() if name not in own and not isinstance(value, _OBJECTS)}
        limits.check_generation(told, _tokens_in(model_inputs))
        return forward(model_inputs, **options)

    pipeline._forward = guarded


def _tokens_in(model_inputs: Any) -> int:
    """The tokens of the longest text, with its padding."""
    shapes: list[Any] = [getattr(model_inputs[name], "shape", ()) for name in _PROMPTS if name in model_inputs]
    return max((int(shape[1]) for shape in shapes if len(shape) == 2), default=0)
