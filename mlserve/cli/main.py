"""The program `mlserve`: puts the verbs together."""

from __future__ import annotations

from typing import Annotated

import typer

from mlserve.cli.infer import infer
from mlserve.cli.start import start
from mlserve.version import __version__

__all__ = ["app", "main", "root"]

app = typer.Typer(
    name="mlserve",
    help="Serve Python models over the Open Inference Protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"mlserve, version {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Serve Python models over the Open Inference Protocol."""


app.command("start")(start)
app.command("infer")(infer)

root = typer.main.get_command(app)


def main() -> None:
    """Entry point of the console script."""
    root(prog_name="mlserve")
