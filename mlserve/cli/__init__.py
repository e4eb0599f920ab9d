"""The command line: one file a verb. `root` is the whole program as a command object."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlserve.cli.main import root

__all__ = ["root"]


def __getattr__(name: str) -> Any:
    """Loads the commands when asked for them: the server takes its table from here and needs no typer."""
    if name == "root":
        return importlib.import_module("mlserve.cli.main").root
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
