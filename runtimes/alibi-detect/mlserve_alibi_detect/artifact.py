"""Reads a saved detector, and says in words why a folder holds none that can be read."""

from __future__ import annotations

import logging
import os
import re
import traceback
import warnings
from pathlib import Path
from typing import Any

from mlserve.artifacts import warnings_told
from mlserve.errors import ModelLoadError
from mlserve.thread_limits import ThreadLimit

__all__ = ["load_detector"]

_logger = logging.getLogger("mlserve.model")
_CONFIG = "config.toml"  # how drift detectors are saved
_LEGACY = "meta.dill"  # how outlier detectors are saved


def load_detector(folder: Path, name: str, threads: ThreadLimit) -> Any:
    """The detector in a folder, with the state that it had when that was last saved. ModelLoadError."""
    if not folder.is_dir():
        raise ModelLoadError(f"model '{name}': {folder} is a file; a detector is the folder that save_detector wrote")
    if not (folder / _CONFIG).exists() and not (folder / _LEGACY).exists():
        raise ModelLoadError(
            f"model '{name}': {folder} holds no detector: it has neither {_CONFIG} nor {_LEGACY}. Name the folder that "
            f"alibi_detect.saving.save_detector wrote in parameters.uri"
        )
    _quieten()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its libraries about each other
            from alibi_detect.saving import load_detector as load  # takes many seconds: only where there is a detector

        threads.prepare()
        with warnings_told(name, _logger, for_owner=True), threads.held():
            return load(str(folder), enable_unsafe_loading=True)  # reference data of texts; other files are code anyway
    except Exception as error:
        why = _why(error, folder)
        raise ModelLoadError(f"model '{name}': the detector in {folder} cannot be loaded: {why}") from error


def _quieten() -> None:
    """Keeps progress bars and dozens of lines for each load out of the log, unless somebody has asked for them."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logger = logging.getLogger("alibi_detect")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)


def _missing_file(folder: Path) -> str | None:
    """A file beside config.toml that it names and that is not there."""
    config = folder / _CONFIG
    named = re.findall(r'"([^"\n]+\.(?:npy|dill|pt|h5|keras))"', config.read_text()) if config.exists() else []
    return next((one for one in named if not (folder / one).exists()), None)


def _why(error: Exception, folder: Path) -> str:
    missing_file = _missing_file(folder)
    if missing_file is not None:
        return f"{_CONFIG} names {missing_file}, which is not there: copy the whole folder that save_detector wrote"
    text = f"{type(error).__name__}: {error}"
    if any(frame.name == "load_state" for frame in traceback.extract_tb(error.__traceback__)):
        return (
            f"its state, in {folder / 'state'}, cannot be read: {text}. It is damaged or another detector's: remove "
            f"that folder, and the detector begins anew"
        )
    module = getattr(error, "name", None)
    if isinstance(error, ImportError) or "optional dependencies" in text or "tensorflow" in text.lower():
        missing = f" (module '{module}')" if module else ""
        return (
            f"{text}. It needs a backend that is not installed{missing}: pip install 'alibi-detect[tensorflow]', which "
            f"outlier detectors always need, or 'alibi-detect[torch]'"
        )
    if isinstance(error, (AttributeError, EOFError, KeyError)):
        return f"{text}. It was probably saved by another version of alibi-detect, or is not whole: save it again"
    return text
