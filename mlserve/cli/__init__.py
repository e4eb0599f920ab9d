"""The command line: one file a verb. `root` is the whole program as a command object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlserve.cli.main import main, root

__all__ = ["main", "root"]


def __getattr__(name: str) -> Any:
    """Loads the commands when asked for them: the server takes its table from here and needs no typer."""
    if name in __all__:
        from mlserve.cli import main as commands

        return getattr(commands, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
