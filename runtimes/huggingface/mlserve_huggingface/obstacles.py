"""What keeps a pipeline from being made, or from working, in plain words: other versions, packages, the network."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import transformers
from transformers.utils.import_utils import BACKENDS_MAPPING

from mlserve.errors import ModelLoadError

__all__ = ["check_packages", "explain", "warn_of_packages"]

_logger = logging.getLogger("mlserve.huggingface")
# What a pipeline imports when the first request comes, though it is made without.
_NEEDED = {"mask-generation": "torchvision"}
_PIP_LINE = re.compile(r"pip\s+install\s+(?:--upgrade\s+)?([\w-]+)")
_NO_MODULE = re.compile(r"No module named '(\w+)")
_WHERE = "in the server's environment, or in the one of parameters.environment_path"


def check_packages(task: str, name: str) -> None:
    """ModelLoadError if a package is missing without which every request would fail."""
    package = _NEEDED.get(task)
    if package is not None and not _is_installed(package):
        raise ModelLoadError(f"model '{name}': the task '{task}' needs {package}: pip install {package}, {_WHERE}")


def warn_of_packages(task: str, pipeline: Any, model: str | None, name: str) -> None:
    """Tells in the log what some requests will lack, or do without."""
    if str(_said(model, "preprocessor_config.json", "processor_class")).endswith("WithLM") and pipeline.type == "ctc":
        _logger.warning(
            "model '%s': it hears without its language model, which needs pip install pyctcdecode kenlm", name
        )
    reads = pipeline.model.config.model_type == "vision-encoder-decoder"  # Donut
    if task == "document-question-answering" and not reads and not _is_installed("pytesseract"):
        _logger.warning(
            "model '%s': requests must send the words of a picture as 'word_boxes', for it cannot find them without "
            "Tesseract and pip install pytesseract",
            name,
        )


def explain(error: Exception, task: str, model: str | None, tokenizer: str | None = None) -> str:
    """Why no pipeline could be made of a model, and what can be done."""
    of_task = f" for '{task}'" if task else ""
    what = f"no pipeline{of_task} can be made of {model or 'the default model'}"
    told = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
    hint = _missing_package(error) or _other_version(model, tokenizer) or _no_network(error, model)
    return f"{what}: {hint} ({told})" if hint else f"{what}: {told}"


def _missing_package(error: BaseException) -> str:
    """By what transformers says of a package, or Python of a module, here or in what led to it."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(texts)
    for backend, (is_available, told) in BACKENDS_MAPPING.items():
        phrase = told.partition("{0}")[2].partition(" library")[0]
        if phrase and f"{phrase} library" in text and not is_available():
            line = _PIP_LINE.search(told)
            return f"a package is missing: pip install {line[1] if line else backend}, {_WHERE}"
    module = _NO_MODULE.search(text)
    return f"a package is missing: pip install {module[1]}, {_WHERE}" if module else ""


def _other_version(*folders: str | None) -> str:
    """By the version that save_pretrained writes into config.json."""
    installed = transformers.__version__
    for folder in folders:
        saved = _said(folder, "config.json", "transformers_version")
        if isinstance(saved, str) and saved[:1].isdecimal() and _major(saved) != _major(installed):
            theirs, ours = _major(saved), _major(installed)
            return (
                f"the files in {folder} were saved by transformers {saved}, and {installed} is installed; serve it "
                f"from an environment with 'transformers>={theirs},<{theirs + 1}' (parameters.environment_path), or "
                f"save it anew with transformers {ours}"
            )
    return ""


def _said(folder: str | None, file: str, key: str) -> Any:
    """What a file of the folder has under a key; None if there is no such."""
    try:
        return json.loads((Path(folder or "") / file).read_text()).get(key) if folder is not None else None
    except (OSError, ValueError, AttributeError):
        return None


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _no_network(error: Exception, model: str | None) -> str:
    if not isinstance(error, OSError | RuntimeError) or (model is not None and Path(model).is_dir()):
        return ""
    offline = os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "on", "yes", "true")
    why = "HF_HUB_OFFLINE is set" if offline else "it could not be fetched from the hub"
    return f"{why}; a folder written by save_pretrained needs no network"


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
