"""Which task a model is for, which of them the installed transformers knows, and what their inputs are."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any

import transformers
from transformers.pipelines import PIPELINE_REGISTRY

from mlserve.errors import ModelLoadError
from mlserve_huggingface.options import NAMES
from mlserve_huggingface.task_of_model import tasks_of_model

__all__ = ["GENERATING", "Interface", "resolve_task"]

# Those that transformers 5 dropped; question answering is served by our own code there.
_GONE = (
    "image-to-image",
    "image-to-text",
    "summarization",
    "text2text-generation",
    "translation",
    "visual-question-answering",
    "vqa",
)
# Tasks whose pipelines hand keyword arguments on to `generate`, so that it can be told to stop, or to stream.
GENERATING = frozenset({"text-generation", "text2text-generation", "summarization", "translation"})
# Tasks whose pipelines take a list of messages as one chat.
_TALKING = frozenset({"any-to-any", "image-text-to-text", "text-generation"})
# The tasks whose first argument is no text.
_TASKS_OF_MEDIUM = {
    "audio": ("audio-classification", "automatic-speech-recognition", "zero-shot-audio-classification"),
    "image": (
        "depth-estimation",
        "document-question-answering",
        "image-classification",
        "image-feature-extraction",
        "image-segmentation",
        "image-text-to-text",
        "image-to-image",
        "image-to-text",
        "keypoint-matching",
        "mask-generation",
        "object-detection",
        "visual-question-answering",
        "vqa",
        "zero-shot-image-classification",
        "zero-shot-object-detection",
    ),
    "video": ("video-classification",),
}
_MEDIUM_OF_TASK = {task: medium for medium, tasks in _TASKS_OF_MEDIUM.items() for task in tasks}
_MEDIUM_OF_NAME = {name: medium for medium in _TASKS_OF_MEDIUM for name in (medium, f"{medium}s")}
# Options that pipelines take without naming them in a signature.
_UNNAMED_OPTIONS = frozenset({
    "candidate_labels", "crop_n_points_downscale_factor", "crop_overlap_ratio", "crops_n_layers", "crops_nms_thresh",
    "hypothesis_template", "mask_threshold", "multi_label", "output_bboxes_mask", "output_rle_mask",
    "overlap_mask_area_threshold", "points_per_batch", "points_per_crop", "pred_iou_thresh", "stability_score_offset",
    "stability_score_thresh", "subtask", "threshold",
})  # fmt: skip
# What pipelines hand on to the tokenizer without naming it, where they say that they do.
_OF_TOKENIZERS = frozenset({"max_length", "padding", "truncation"})
_ANY_FIRST = frozenset({"args", "array_inputs", "inputs", "text_inputs"})


def resolve_task(task: str, folder: str | None, name: str) -> str:
    """The task to serve: the one named, else the one that the model in the folder was made for. ModelLoadError."""
    known = list(PIPELINE_REGISTRY.get_supported_tasks())
    version = transformers.__version__
    task = task or _task_of_model(folder, known, name)
    if task in known or task == "question-answering" or (task.startswith("translation_") and "translation" in known):
        return task
    if task in _GONE or task.startswith("translation_"):
        raise ModelLoadError(
            f"model '{name}': the task '{task}' is gone from transformers 5, and {version} is installed; serve it from "
            f"an environment with 'transformers<5' (parameters.environment_path)"
        )
    if task == "conversational":
        raise ModelLoadError(
            f"model '{name}': transformers has no task 'conversational' any more ({version} is installed); use "
            f"'text-generation' and send the messages with the content type hg_jsonlist"
        )
    near = difflib.get_close_matches(task, known, n=1)
    meant = f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(known)}"
    raise ModelLoadError(f"model '{name}': transformers {version} has no task '{task}'{meant}")


def _task_of_model(folder: str | None, known: list[str], name: str) -> str:
    """The only task that a model is for. ModelLoadError if there are several, or none."""
    made_for, tasks = tasks_of_model(Path(folder)) if folder is not None else ("", [])
    if len(tasks) == 1:
        return tasks[0]
    unset = f"model '{name}': parameters.extra.task is not set, and"
    if tasks:
        raise ModelLoadError(f"{unset} a {made_for} (config.json) can serve several: {', '.join(tasks)}; set one")
    what = f"transformers has no task for a {made_for} (config.json)" if made_for else "the model does not tell it"
    raise ModelLoadError(f"{unset} {what}; known are {', '.join(known)}")


class Interface:
    """What a pipeline can be given: which inputs are its first argument, which are media, which options there are."""

    def __init__(self, task: str, pipeline: Any) -> None:
        self.task = task.partition("_")[0]
        self.media = _MEDIUM_OF_TASK.get(self.task)
        signature = inspect.signature(type(pipeline).__call__)
        self._named = [
            one.name
            for one in list(signature.parameters.values())[1:]
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        ]
        # Several `args` are several arguments, not several texts, of pipelines that take more than one.
        self.takes_several = len(self._named) > 1 or self.task in (
            "table-question-answering",
            "zero-shot-classification",
        )
        self.talks = self.task in _TALKING
        self.in_pairs = self.task == "keypoint-matching"  # of pictures, and each pair has one result
        # The rate of the bare arrays that it takes in place of sound that tells its own.
        self.only_rate = (
            pipeline.feature_extractor.sampling_rate if self.task == "zero-shot-audio-classification" else None
        )
        self.options = _options_of(self.task, pipeline)

    def is_first(self, name: str) -> bool:
        """Whether an input of this name is the pipeline's first argument."""
        if name in _ANY_FIRST:
            return True
        if name in self._named:
            return name == self._named[0]
        return self.media is not None and _MEDIUM_OF_NAME.get(name) == self.media

    def media_of(self, name: str) -> str | None:
        """ "image", "audio" or "video", where an input of this name is one."""
        return _MEDIUM_OF_NAME.get(name) or (self.media if self.is_first(name) else None)

    def is_data(self, name: str) -> bool:
        """Whether an input has one value a row, as against options, which are for all rows."""
        return self.is_first(name) or name in _MEDIUM_OF_NAME or (self.task, name) in _COLUMNS


_COLUMNS = {("question-answering", "question"), ("question-answering", "context")}


def _options_of(task: str, pipeline: Any) -> frozenset[str]:
    sanitize = getattr(pipeline, "_sanitize_parameters", None)
    names = set(inspect.signature(sanitize).parameters) if sanitize is not None else set()
    if "tokenizer_kwargs" in names and task in ("sentiment-analysis", "text-classification"):
        names |= _OF_TOKENIZERS
    if task in GENERATING:
        return frozenset(names | NAMES) - {"kwargs", "generate_kwargs"}
    if _MEDIUM_OF_TASK.get(task) == "audio":
        names.add("sampling_rate")
    return frozenset(names | _UNNAMED_OPTIONS) - {"between", "kwargs"}
