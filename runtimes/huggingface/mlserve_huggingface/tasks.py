"""Which task a model is for, which of them the installed transformers knows, and what their inputs are."""

from __future__ import annotations

import difflib
import inspect
import json
from pathlib import Path
from typing import Any

import transformers
from transformers.pipelines import PIPELINE_REGISTRY

from mlserve.errors import ModelLoadError

__all__ = ["GENERATING", "MEDIA_OF_TASK", "Interface", "resolve_task"]

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
# What a task's first argument is, where that is no text.
MEDIA_OF_TASK = {
    "audio-classification": "audio",
    "automatic-speech-recognition": "audio",
    "depth-estimation": "image",
    "document-question-answering": "image",
    "image-classification": "image",
    "image-feature-extraction": "image",
    "image-segmentation": "image",
    "image-text-to-text": "image",
    "image-to-image": "image",
    "image-to-text": "image",
    "keypoint-matching": "image",
    "mask-generation": "image",
    "object-detection": "image",
    "video-classification": "video",
    "visual-question-answering": "image",
    "vqa": "image",
    "zero-shot-audio-classification": "audio",
    "zero-shot-image-classification": "image",
    "zero-shot-object-detection": "image",
}
# Options that pipelines take without naming them in a signature.
_UNNAMED_OPTIONS = frozenset(
    {
        "candidate_labels",
        "hypothesis_template",
        "mask_threshold",
        "multi_label",
        "points_per_batch",
        "subtask",
        "threshold",
    }
)
_ANY_FIRST = frozenset({"args", "array_inputs", "inputs", "text_inputs"})
_MEDIA_NAMES = {
    "audio": "audio",
    "audios": "audio",
    "image": "image",
    "images": "image",
    "video": "video",
    "videos": "video",
}


def resolve_task(task: str, folder: str | None, name: str) -> str:
    """The task to serve: the one named, else the one that the model in the folder was made for. ModelLoadError."""
    known = list(PIPELINE_REGISTRY.get_supported_tasks())
    version = transformers.__version__
    task = task or _task_of_model(folder)
    if not task:
        raise ModelLoadError(
            f"model '{name}': parameters.extra.task is not set, and the model does not tell it; known are "
            f"{', '.join(known)}"
        )
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


def _task_of_model(folder: str | None) -> str:
    """The first task whose model classes include the one in config.json; empty if there is none."""
    path = Path(folder or "") / "config.json"
    if folder is None or not path.is_file():
        return ""
    try:
        architectures = json.loads(path.read_text()).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return ""
    if any(one.endswith("ForQuestionAnswering") for one in architectures):
        return "question-answering"
    aliases = ("ner", "sentiment-analysis", "text-to-speech", "vqa")
    tasks = [one for one in PIPELINE_REGISTRY.get_supported_tasks() if one not in aliases]
    tasks.sort(key=_generality)
    for task in tasks:
        _, targeted, _ = PIPELINE_REGISTRY.check_task("translation_xx_to_yy" if task == "translation" else task)
        if any(one in _class_names(auto) for auto in targeted["pt"] for one in architectures):
            return str(task)
    if any(one in _class_names(transformers.AutoModelForSeq2SeqLM) for one in architectures):
        return "text2text-generation"
    return ""


def _generality(task: str) -> int:
    """Of several tasks for one class, the plainest goes first."""
    order = ("text-classification", "text-generation", "text2text-generation", "automatic-speech-recognition")
    return order.index(task) if task in order else len(order) + task.startswith(("zero-shot", "any-", "decision"))


def _class_names(auto: Any) -> set[str]:
    names: set[str] = set()
    for one in auto._model_mapping._model_mapping.values():
        names.update(one if isinstance(one, tuple | list) else (one,))
    return names


class Interface:
    """What a pipeline can be given: which inputs are its first argument, which are media, which options there are."""

    def __init__(self, task: str, pipeline: Any) -> None:
        self.task = task.partition("_")[0]
        self.media = MEDIA_OF_TASK.get(self.task)
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
        self.options = _options_of(self.task, pipeline)

    def is_first(self, name: str) -> bool:
        """Whether an input of this name is the pipeline's first argument."""
        if name in _ANY_FIRST:
            return True
        if name in self._named:
            return name == self._named[0]
        return _MEDIA_NAMES.get(name) is not None and _MEDIA_NAMES[name] == self.media

    def media_of(self, name: str) -> str | None:
        """ "image", "audio" or "video", where an input of this name is one."""
        return _MEDIA_NAMES.get(name) or (self.media if self.is_first(name) else None)

    def is_data(self, name: str) -> bool:
        """Whether an input has one value a row, as against options, which are for all rows."""
        return self.is_first(name) or name in _MEDIA_NAMES or (self.task, name) in _COLUMNS


_COLUMNS = {("question-answering", "question"), ("question-answering", "context")}


def _options_of(task: str, pipeline: Any) -> frozenset[str]:
    sanitize = getattr(pipeline, "_sanitize_parameters", None)
    names = set(inspect.signature(sanitize).parameters) if sanitize is not None else set()
    if task in GENERATING:
        names.update(transformers.GenerationConfig().to_dict())
    if MEDIA_OF_TASK.get(task) == "audio":
        names.add("sampling_rate")
    return frozenset(names | _UNNAMED_OPTIONS) - {"kwargs", "generate_kwargs"} | (
        {"generate_kwargs"} if task not in GENERATING and "generate_kwargs" in names else set()
    )
