"""`mlserver.cli.main`: the command line as a command of click, for programs that hang it into their own."""

from __future__ import annotations

import importlib
from typing import Any

from mlserve.batch_processing import process_batch
from mlserve.cli.main import main
from mlserve.cli.main import root as _program
from mlserve.version import __version__

__all__ = ["main", "process_batch", "root", "start"]


def _for_click() -> Any:
    """The program as a group of click. Typer has a click of its own, whose commands click does not know as such.

    Where click is not installed, nobody can ask: then it is Typer's command.
    """
    try:
        click: Any = importlib.import_module("click")
    except ImportError:
        return _program
    program: Any = _program
    if isinstance(program, click.Command):
        return program
    group = click.Group(program.name, help=program.help)
    told = click.version_option(__version__, prog_name="mlserve", message="%(prog)s, version %(version)s")
    for name, command in program.commands.items():
        group.add_command(_forwarding(click, name, command.help))
    return told(group)


def _forwarding(click: Any, name: str, text: str | None) -> Any:
    """A command of click that hands its words to the program's, which has the options and the help."""

    def forward(words: tuple[str, ...]) -> None:
        _program([name, *words], prog_name="mlserve")  # it ends with SystemExit, as click's commands do

    words = click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)
    settings = {"ignore_unknown_options": True}
    return click.Command(
        name, callback=forward, params=[words], help=text, add_help_option=False, context_settings=settings
    )


root = _for_click()
start = root.commands["start"]
