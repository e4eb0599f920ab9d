"""`mlserve start FOLDER`: serves a folder of models until a signal ends it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from mlserve.errors import MLServeError, SettingsError, StartupError
from mlserve.settings import setting_from_text

_SERVER = "Server"
_WORKERS = "Workers and limits"


def start(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A folder of models, one model's folder, or one saved model such as model.joblib.",
            envvar="MLSERVER_MODELS_DIR",
            show_default=True,
        ),
    ] = Path("."),
    host: Annotated[str | None, typer.Option(help="Address to listen on.", rich_help_panel=_SERVER)] = None,
    http_port: Annotated[int | None, typer.Option(help="Port of REST; 0 picks one.", rich_help_panel=_SERVER)] = None,
    grpc_port: Annotated[int | None, typer.Option(help="Port of gRPC; 0 picks one.", rich_help_panel=_SERVER)] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of the metrics.", rich_help_panel=_SERVER)] = None,
    root_path: Annotated[str | None, typer.Option(help="Path that a proxy strips.", rich_help_panel=_SERVER)] = None,
    backend: Annotated[str | None, typer.Option(help="asyncio or trio.", rich_help_panel=_SERVER)] = None,
    debug: Annotated[bool | None, typer.Option(help="Debug and access logs.", rich_help_panel=_SERVER)] = None,
    parallel_workers: Annotated[
        int | None,
        typer.Option("--parallel-workers", "--workers", "-w", help="Worker processes.", rich_help_panel=_WORKERS),
    ] = None,
    max_queue_size: Annotated[
        int | None, typer.Option(help="Calls that may wait for one model.", rich_help_panel=_WORKERS)
    ] = None,
    max_body_bytes: Annotated[
        int | None, typer.Option(help="The longest request, in bytes.", rich_help_panel=_WORKERS)
    ] = None,
    request_timeout: Annotated[
        float | None, typer.Option(help="Seconds that a call may take.", rich_help_panel=_WORKERS)
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other server setting. Repeatable.", show_default=False),
    ] = None,
) -> None:
    """Serve a folder of models over REST and gRPC.

    Each model-settings.json below the folder is one model; settings.json in it configures the server. What is given
    here wins over the file, the file over MLSERVE_* and MLSERVER_* variables, those over .env.
    """
    given: dict[str, Any] = {
        "host": host,
        "http_port": http_port,
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "root_path": root_path,
        "backend": backend,
        "debug": debug,
        "parallel_workers": parallel_workers,
        "max_queue_size": max_queue_size,
        "max_body_bytes": max_body_bytes,
        "request_timeout_seconds": request_timeout,
    }
    raise typer.Exit(_run(folder, {name: value for name, value in given.items() if value is not None}, setting or []))


def _assignment(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    name = name.strip().lower().replace("-", "_")
    if not sign:
        raise SettingsError(f"--set: expected NAME=VALUE, got '{text}'")
    return name, setting_from_text(name, value)


def _run(folder: Path, given: dict[str, Any], assignments: list[str]) -> int:
    """The exit code of the server; what goes wrong on the way is one line on stderr."""
    try:
        overrides = {**dict(map(_assignment, assignments)), **given}
        if not folder.exists():
            raise StartupError(f"there is no folder or file {folder}")
        from mlserve.server import run  # the whole server: not needed to say `mlserve --help`

        return run(folder, overrides)
    except MLServeError as error:
        logging.getLogger("mlserve").debug("start failed", exc_info=True)
        typer.echo(f"mlserve: error: {error}", err=True)
        return 1
    except KeyboardInterrupt:
        return 130
