"""The task that a saved model was made for: by the class in its config.json, and transformers' tables of those."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from transformers.pipelines import PIPELINE_REGISTRY

__all__ = ["tasks_of_model"]

# Classes that a pipeline takes, or took in transformers 4, beyond those in its own table.
_MORE_CLASSES = {
    "image-segmentation": ("AutoModelForInstanceSegmentation", "AutoModelForUniversalSegmentation"),
    "image-to-image": ("AutoModelForImageToImage",),
    "question-answering": ("AutoModelForQuestionAnswering",),
    "text2text-generation": ("AutoModelForSeq2SeqLM",),
    "visual-question-answering": ("AutoModelForVisualQuestionAnswering",),
}
# Their table is of all base models there are, whatever these take.
_OF_ANY_MODEL = {"feature-extraction", "image-feature-extraction", "zero-shot-audio-classification"}
# Of several tasks for one class, the one that such models are published for goes before the others.
_GOES_BEFORE = {
    "any-to-any": {"decision", "text-generation", "text-to-audio", "text2text-generation"},
    "automatic-speech-recognition": {"any-to-any", "summarization", "text2text-generation", "translation"},
    "document-question-answering": {"question-answering"},
    "image-text-to-text": {
        "any-to-any",
        "decision",
        "text-generation",
        "text2text-generation",
        "visual-question-answering",
    },
    "image-to-text": {"text-generation", "visual-question-answering"},
    "text-classification": {"zero-shot-classification"},
    "text-generation": {"decision"},
    "text2text-generation": {"fill-mask", "summarization", "translation"},
}


def tasks_of_model(folder: Path) -> tuple[str, list[str]]:
    """The model's class, and its task; several tasks if none of them is more likely, none if transformers has none."""
    try:
        classes = json.loads((folder / "config.json").read_text()).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return "", []
    table = _classes_by_task()
    for name in classes:
        found = {task for task, known in table.items() if name in known}
        if found:
            return name, sorted(_likely(found, name, folder))
    return ", ".join(classes), []


def _likely(found: set[str], name: str, folder: Path) -> set[str]:
    if found <= _OF_ANY_MODEL:
        return _of_base_model(name) or found
    found = found - _OF_ANY_MODEL
    if {"image-text-to-text", "image-to-text"} <= found:  # transformers 4: the same classes, with and without a chat
        found -= {"image-to-text" if _has_chat(folder) else "image-text-to-text"}
    return found - set().union(*(_GOES_BEFORE.get(task, ()) for task in found))


def _of_base_model(name: str) -> set[str]:
    """By what the class takes and gives; empty if that tells nothing."""
    model = getattr(transformers, name, None)
    if hasattr(model, "get_text_features"):
        for medium in ("audio", "image"):
            if hasattr(model, f"get_{medium}_features"):
                return {f"zero-shot-{medium}-classification"}
    task = {"input_ids": "feature-extraction", "pixel_values": "image-feature-extraction"}
    main = getattr(model, "main_input_name", None)
    return {task[main]} if main in task else set()


def _has_chat(folder: Path) -> bool:
    """Whether the folder has a template that makes one text of a chat."""
    if any((folder / name).exists() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    return any(
        (folder / name).is_file() and '"chat_template"' in (folder / name).read_text()
        for name in ("processor_config.json", "tokenizer_config.json")
    )


def _classes_by_task() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for task, implementation in PIPELINE_REGISTRY.supported_tasks.items():
        found[task] = set().union(*(_class_names(auto) for auto in implementation["pt"]))
    for task, names in _MORE_CLASSES.items():
        autos = [getattr(transformers, name, None) for name in names]
        found.setdefault(task, set()).update(*(_class_names(auto) for auto in autos if auto is not None))
    return found


def _class_names(auto: Any) -> set[str]:
    names: set[str] = set()
    for one in auto._model_mapping._model_mapping.values():
        names.update(one if isinstance(one, tuple | list) else (one,))
    return names
