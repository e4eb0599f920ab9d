"""`mlserve infer`: sends a file of requests, one JSON document a line, and writes a file of answers."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import anyio
import typer

_T = TypeVar("_T")


def _option(name: str, *flags: str, env: str = "", **more: Any) -> Any:
    """An option that has two variables, of which MLServer knows the second."""
    variable = env or name.lstrip("-").replace("-", "_").upper()
    envvar = [f"MLSERVE_INFER_{variable}", f"MLSERVER_INFER_{variable}"]
    return typer.Option(name, *flags, envvar=envvar, show_envvar=False, **more)


def infer(
    model_name: Annotated[str, _option("--model-name", "-m", help="The model.")],
    input_data_path: Annotated[Path, _option("--input-data-path", "-i", help="Requests; - is stdin.")],
    output_data_path: Annotated[Path, _option("--output-data-path", "-o", help="Where answers go; - is stdout.")],
    url: Annotated[str, _option("--url", "-u", help="HOST:PORT of the server.")] = "localhost:8080",
    workers: Annotated[int, _option("--workers", "-w", min=1, help="Requests under way at once.")] = 10,
    retries: Annotated[int, _option("--retries", "-r", min=0, help="Tries again, where safe.")] = 3,
    batch_size: Annotated[int, _option("--batch-size", "-s", min=1, help="Requests sent as one.")] = 1,
    binary_data: Annotated[bool, _option("--binary-data", "-b", help="Send tensors as bytes.")] = False,
    verbose: Annotated[bool, _option("--verbose", "-v", help="Tell each request.")] = False,
    extra_verbose: Annotated[bool, _option("--extra-verbose", "-vv", help="Tell more.")] = False,
    transport: Annotated[Literal["rest", "grpc"], _option("--transport", "-t", help="rest or grpc.")] = "rest",
    request_headers: Annotated[
        list[str] | None,
        _option("--request-headers", "-H", help="'Name: value'. Repeatable."),
    ] = None,
    timeout: Annotated[float, _option("--timeout", help="Seconds for a request.", env="CONNECTION_TIMEOUT")] = 60.0,
    batch_interval: Annotated[
        float,
        _option("--batch-interval", help="Seconds between a worker's requests."),
    ] = 0.0,
    batch_jitter: Annotated[float, _option("--batch-jitter", help="At most so many more, at random.")] = 0.0,
    use_ssl: Annotated[bool, _option("--use-ssl", help="https or grpcs.")] = False,
    insecure: Annotated[bool, _option("--insecure", help="Do not check the certificate.")] = False,
) -> None:
    """Send a file of requests, one JSON document a line, and write a file of answers.

    Every option may be a variable instead, such as MLSERVE_INFER_URL (--timeout: MLSERVE_INFER_CONNECTION_TIMEOUT).
    The exit code is 1 if a request has an error in place of an answer, and 128 and its number after a signal.
    """
    from mlserve.batch_processing import process_batch  # the client: not needed to say `mlserve --help`
    from mlserve.errors import MLServeError

    logging.basicConfig(format="%(message)s")
    started = time.monotonic()

    async def main() -> tuple[int, int]:
        return await process_batch(
            model_name,
            url,
            workers,
            retries,
            batch_size,
            str(input_data_path),
            str(output_data_path),
            binary_data,
            transport,
            request_headers or [],
            timeout,
            batch_interval,
            batch_jitter,
            use_ssl,
            insecure,
            verbose,
            extra_verbose,
        )

    try:
        answered, failed = _run_until_signal(main)
    except _Ended as ended:
        place = "written" if str(output_data_path) == "-" else f"in {output_data_path}"
        told = f"ended by {ended.signal.name}; the answers that had come by then are {place}"
        typer.echo(f"mlserve: {told}", err=True)
        raise typer.Exit(128 + ended.signal) from None
    except (OSError, ValueError, MLServeError) as error:
        typer.echo(f"mlserve: error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{answered} answered, {failed} failed, {time.monotonic() - started:.2f} s", err=True)
    raise typer.Exit(1 if failed else 0)


class _Ended(Exception):
    """A signal has ended what was running."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.signal = number


def _run_until_signal(main: Callable[[], Awaitable[_T]]) -> _T:
    """What `main` gives. Ctrl+C and SIGTERM cancel it, and a second of either breaks off at once; _Ended."""
    first: signal.Signals | None = None
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = [number for number, handler in before.items() if handler not in (None, signal.SIG_IGN)]

    async def until_cancelled() -> list[_T]:
        loop = asyncio.get_running_loop()
        with anyio.CancelScope() as scope:

            def end(number: int, _: Any) -> None:
                nonlocal first
                if first is not None:
                    raise KeyboardInterrupt
                first = signal.Signals(number)
                loop.call_soon_threadsafe(scope.cancel)  # wakes the loop

            for number in ours:  # here, for asyncio has put its own in place, which Python 3.10 does not have
                signal.signal(number, end)
            return [await main()]
        return []

    try:
        outcome = anyio.run(until_cancelled)
    except KeyboardInterrupt:
        raise _Ended(first or signal.SIGINT) from None
    finally:
        for number in ours:
            signal.signal(number, before[number])
    if not outcome:
        assert first is not None, "nothing else cancels it"
        raise _Ended(first)
    return outcome[0]
