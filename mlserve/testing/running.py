"""A server in a process of its own, on free ports, with a small client for each transport."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlserve.testing.asking import ask_grpc, ask_rest
from mlserve.types import InferenceRequest, InferenceResponse

__all__ = ["RunningServer", "serving"]

_ADDRESS = re.compile(r"^(REST|gRPC|metrics)\s+(?:http://)?(\S+:\d+)\s*$", re.MULTILINE)
_POLL_SECONDS = 0.02
_KILL_SECONDS = 5.0


class RunningServer:
    """One `mlserve start` process. It has all of this process's import path."""

    def __init__(self, folder: Path | str, *options: str, env: dict[str, str] | None = None) -> None:
        ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
        command = [sys.executable, "-m", "mlserve", "start", str(folder), "--host", "127.0.0.1", *ports, *options]
        path = os.pathsep.join(one for one in sys.path if one)
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path, **(env or {})}
        )
        self.addresses: dict[str, str] = {}  # "REST", "gRPC", "metrics": host:port
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __repr__(self) -> str:
        places = ", ".join(f"{name} {place}" for name, place in self.addresses.items())
        return f"<RunningServer {self.process.pid}: {places or 'starting'}>"

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def output(self) -> str:
        """What the server has written to its log so far, the start-up table included."""
        return "".join(self._lines)

    @property
    def rest(self) -> str:
        """Where REST is, as an address to put a path behind."""
        return f"http://{self.addresses['REST']}"

    @property
    def grpc(self) -> str:
        """Where gRPC is, as host:port."""
        return self.addresses["gRPC"]

    def wait_started(self, seconds: float = 60.0) -> RunningServer:
        """Waits until all models have been tried. AssertionError with the log if the server ends, or takes longer."""
        end = time.monotonic() + seconds
        with self._changed:
            while True:
                self.addresses = dict(_ADDRESS.findall(self.output))
                if {"REST", "gRPC"} <= self.addresses.keys() and "\nworkers" in self.output:
                    return self
                code = self.process.poll()
                assert code is None, f"the server ended with exit code {code}:\n{self.output}"
                assert time.monotonic() < end, f"the server had not started after {seconds} s:\n{self.output}"
                self._changed.wait(_POLL_SECONDS)

    def infer(
        self,
        model: str,
        request: InferenceRequest,
        *,
        version: str | None = None,
        transport: str = "rest",
        timeout: float = 30.0,
    ) -> InferenceResponse:
        """The answer over one of "rest", "rest-binary", "grpc", "grpc-raw". MLServeError with what the server said."""
        kind, _, form = transport.partition("-")
        if kind == "grpc":
            return ask_grpc(self.grpc, model, version, request, raw=form == "raw", timeout_seconds=timeout)
        return ask_rest(self.rest, model, version, request, binary=form == "binary", timeout_seconds=timeout)

    def stop(self, how: int = signal.SIGTERM, seconds: float = 40.0) -> int:
        """Ends the process with a signal; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(seconds)
        self._reader.join(_KILL_SECONDS)
        return code


@contextmanager
def serving(
    folder: Path | str, *options: str, env: dict[str, str] | None = None, start_seconds: float = 60.0
) -> Iterator[RunningServer]:
    """A server over a folder of models, with options of `mlserve start`; stopped, or killed, at the end."""
    server = RunningServer(folder, *options, env=env)
    try:
        yield server.wait_started(start_seconds)
    finally:
        try:
            server.stop(seconds=_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.stop()
