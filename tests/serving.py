"""Starts the installed program as a user would, on free ports, and finds out where it listens."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 120.0
_ADDRESS = re.compile(r"^(REST|gRPC|metrics)\s+(?:http://)?(\S+:\d+)\s*$", re.MULTILINE)


class Running:
    """One `mlserve start` process: of this Python with its packages, or of another one with its own."""

    def __init__(
        self,
        folder: Path,
        *args: str,
        env: dict[str, str] | None = None,
        python: str | Path | None = None,
        start_seconds: float = START_SECONDS,
    ) -> None:
        self._start_seconds = start_seconds
        search = {} if python else {"PYTHONPATH": os.pathsep.join(one for one in sys.path if one)}  # its own packages
        command = [str(python or sys.executable), "-m", "mlserve", "start", str(folder), "--host", "127.0.0.1"]
        ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
        self.process = subprocess.Popen(
            [*command, *ports, *args],
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder if folder.is_dir() else folder.parent,
            env={**os.environ, **search, **(env or {})},
        )
        self.lines: list[str] = []
        self.addresses: dict[str, str] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_started(self) -> Running:
        """Waits for the start-up table. AssertionError with the output if the process ends first."""
        end = time.monotonic() + self._start_seconds
        while time.monotonic() < end:
            self.addresses = dict(_ADDRESS.findall(self.output))
            if {"REST", "gRPC"} <= self.addresses.keys() and "\nworkers" in self.output:
                return self
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.output}"
            time.sleep(0.02)
        raise AssertionError(f"not started after {self._start_seconds} s:\n{self.output}")

    def wait_output(self, text: str, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while text not in self.output:
            assert time.monotonic() < end, f"no {text!r} in:\n{self.output}"
            time.sleep(0.01)

    @property
    def rest(self) -> str:
        return f"http://{self.addresses['REST']}"

    @property
    def grpc(self) -> str:
        return self.addresses["gRPC"]

    @property
    def workers(self) -> list[int]:
        """The pids of the worker processes."""
        return [pid for pid in _children(self.pid) if b"worker_main" in _command_line(pid)]

    def infer(self, model: str, values: list[float], timeout: float = 60.0, **more: Any) -> httpx.Response:
        tensor = {"name": "x", "shape": [len(values)], "datatype": "FP32", "data": values}
        return httpx.post(f"{self.rest}/v2/models/{model}/infer", json={"inputs": [tensor], **more}, timeout=timeout)

    def stop(self, how: int = signal.SIGTERM, seconds: float = 60.0) -> int:
        """Ends the process with a signal; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code


@contextmanager
def serving(folder: Path, *args: str, **options: Any) -> Iterator[Running]:
    """A running server, killed at the end if the test did not stop it. `options` are those of Running."""
    with starting(folder, *args, **options) as running:
        yield running.wait_started()


@contextmanager
def starting(folder: Path, *args: str, **options: Any) -> Iterator[Running]:
    """A server that starts, as `serving` otherwise."""
    running = Running(folder, *args, **options)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()
        running._reader.join(5)
        assert running.process.stderr is not None
        running.process.stderr.close()


def write_model(folder: Path, name: str, implementation: str, **settings: Any) -> Path:
    """A model-settings.json in a folder of its own below `folder`."""
    place = folder / name
    place.mkdir(exist_ok=True)
    text = json.dumps({"name": name, "implementation": implementation, **settings})
    (place / "model-settings.json").write_text(text)
    return place


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended meanwhile
            found += [int(one) for one in task.read_text().split()]
    return found


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
