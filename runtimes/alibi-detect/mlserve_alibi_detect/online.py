"""Online detectors: one that versions of a model share in a process, and the state that it leaves in its folder."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["OnlineDetectors", "save_state", "stamp_of"]

_logger = logging.getLogger("mlserve.model")
_STATE = "state"  # where load_detector looks for it
_BEING_WRITTEN = "state.new"

Stamp = tuple[int, int, int] | None


class OnlineDetectors:
    """Those in this process, by who holds them.

    A new version of a model is loaded while the old one still sees rows. Both have the same detector then, if it is
    still what lies in the folder, so that what it remembers goes on without a gap.
    """

    def __init__(self) -> None:
        self._held: dict[object, tuple[object, Any]] = {}  # by holder, which key it holds and the detector

    def get(self, key: object) -> Any:
        """The detector of that key; None if nobody holds one."""
        return next((detector for held, detector in self._held.values() if held == key), None)

    def hold(self, holder: object, key: object, detector: Any) -> None:
        """Until it lets go, others with this key get the same detector."""
        self._held[holder] = (key, detector)

    def let_go(self, holder: object) -> None:
        """It does not need its detector any more."""
        self._held.pop(holder, None)


def stamp_of(folder: Path) -> Stamp:
    """What changes when another detector is saved in the folder, or copied there; online ones have this file."""
    config = folder / "config.toml"
    if not config.is_file():
        return None
    told = config.stat()
    return told.st_ino, told.st_mtime_ns, told.st_size


def save_state(detector: Any, model: str, folder: Path, stamp: Stamp) -> None:
    """Saves the state of a detector that has one. Where that fails the log says so: it is no matter of the request that
    happens to be the hundredth."""
    save: Callable[[str], None] | None = getattr(detector, "save_state", None)
    if save is None:
        return
    try:
        if stamp_of(folder) != stamp:
            _logger.error(
                "model '%s': the detector's state is not saved: another one lies in %s by now; load the model again",
                *(model, folder),
            )
            return
        _save(save, folder)
    except (OSError, RuntimeError) as error:  # the latter is PyTorch's
        _logger.error("model '%s': the detector's state cannot be saved, and ends with it: %s", model, error)


def _save(save: Callable[[str], None], folder: Path) -> None:
    """Into a place of its own first: a crash leaves the state as it was."""
    new = folder / _BEING_WRITTEN
    save(str(new))
    (folder / _STATE).mkdir(exist_ok=True)
    for path in new.iterdir():  # alibi-detect writes one file
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.replace(folder / _STATE / path.name)
    shutil.rmtree(new)
