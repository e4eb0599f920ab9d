"""Starts a server as a process of its own, waits until it is ready, measures its process tree, and stops it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from oip import Call
from peers import Peer, Ports, python_of

__all__ = ["Memory", "Model", "Server", "ServerError", "exit_on_sigterm"]

_TICK = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 90.0
_STOP_SECONDS = 35.0  # mlserve gives calls under way 25 seconds
_SLOW_STOP_SECONDS = 10.0  # past it a stop is worth a word: nothing is under way any more


class ServerError(Exception):
    """A server did not start, or died."""


@dataclass(frozen=True)
class Model:
    """What goes into one model's folder: model-settings.json, and files copied from elsewhere."""

    name: str
    settings: Mapping[str, Any]
    files: tuple[Path, ...] = ()

    def write(self, repository: Path) -> None:
        """Make its folder."""
        folder = repository / self.name
        folder.mkdir()
        (folder / "model-settings.json").write_text(json.dumps({"name": self.name, **self.settings}, indent=2))
        for file in self.files:
            shutil.copy(file, folder)


@dataclass(frozen=True)
class Memory:
    """Megabytes. Resident memory counts what processes share, libraries and slots, in each of them; `pss` does not."""

    server_peak: float  # the process that was started
    workers_peak: float  # all others of its tree together
    pss: float | None  # now, of the whole tree


class Server:
    """A running server: `with Server(peer, [model]) as server`. Its folder and its log go when it is stopped."""

    def __init__(self, peer: Peer, models: list[Model], settings: Mapping[str, Any] | None = None) -> None:
        self.peer = peer
        self._python = python_of(peer)
        self._models = models
        self._settings = dict(settings or {})
        self.ports = Ports(*_free_ports(3))

    def __enter__(self) -> Server:
        """Start it, and wait until its models are ready."""
        self._home = Path(tempfile.mkdtemp(prefix=f"bench-{self.peer.key}-"))
        repository = self._home / "models"
        repository.mkdir()
        _write_settings(repository, self.ports, self._settings)
        for model in self._models:
            model.write(repository)
        self._log = self._home / "log.txt"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self.peer.command(self._python, repository, self.ports),
                cwd=repository,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the measuring process, which stops the servers
                env=_environment(peer=self.peer),
            )
        self._seen: dict[int, int] = {}
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def port(self, transport: str) -> int:
        """Where it takes calls over "rest" or "grpc"."""
        return self.ports.grpc if transport == "grpc" else self.ports.http

    def call(self, call: Call) -> Call:
        """The same call as this server wants it."""
        if self.peer.infer_path is None or call.transport == "grpc":
            return call
        return replace(call, path=self.peer.infer_path)

    def cpu_seconds(self) -> float:
        """Processor time of its process tree so far, ended and awaited processes included."""
        return sum(process.ticks for process in self._tree()) / _TICK

    def main_cpu_seconds(self) -> float:
        """Processor time so far of the process that was started, without its workers."""
        process = _process(self._process.pid)
        return process.ticks / _TICK if process else 0.0

    def memory(self) -> Memory:
        """Memory of its process tree."""
        peaks = {process.pid: _peak_megabytes(process.pid) for process in self._tree()}
        own = peaks.pop(self._process.pid, 0.0)
        parts = [_pss_megabytes(pid) for pid in (self._process.pid, *peaks)]
        pss = None if None in parts else sum(part for part in parts if part is not None)
        return Memory(own, sum(peaks.values()), pss)

    def log_tail(self, lines: int = 20) -> str:
        """The end of what it printed."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for what is left of the tree."""
        try:
            self._tree()  # remembers the processes, which have another parent once the first one is gone
            asked = time.monotonic()
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if (seconds := time.monotonic() - asked) > _SLOW_STOP_SECONDS:
                print(f"{self.peer.label} took {seconds:.0f} s to stop:\n{self.log_tail()}", file=sys.stderr)
            self._kill_orphans()
        finally:
            shutil.rmtree(self._home, ignore_errors=True)

    # -- details --

    def _tree(self) -> list[_Process]:
        if self._process.poll() is not None:
            return []
        tree = _tree_of(self._process.pid)
        self._seen.update((process.pid, process.start_ticks) for process in tree)
        return tree

    def _kill_orphans(self) -> None:
        deadline = time.monotonic() + 2
        while orphans := [pid for pid, start in self._seen.items() if _is_running(pid, start)]:
            if time.monotonic() > deadline:
                print(f"{self.peer.label} left {len(orphans)} processes behind, killed", file=sys.stderr)
                for pid in orphans:
                    os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.05)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        paths = [self.peer.ready_path]
        if self.peer.infer_path is None:
            paths += [f"/v2/models/{model.name}/ready" for model in self._models]
        while not all(_answers(self.ports.http, path) for path in paths) or not self._grpc_listens():
            if self._process.poll() is not None:
                raise ServerError(f"{self.peer.label} ended with {self._process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.peer.label} is not ready after {_START_SECONDS:.0f} s:\n{self.log_tail()}")
            time.sleep(0.1)

    def _grpc_listens(self) -> bool:
        if "grpc" not in self.peer.transports:
            return True
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.ports.grpc)) == 0


def exit_on_sigterm() -> None:
    """Make SIGTERM raise SystemExit, so that the servers are stopped on the way out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _write_settings(repository: Path, ports: Ports, settings: Mapping[str, Any]) -> None:
    own = {
        "host": "127.0.0.1",
        "http_port": ports.http,
        "grpc_port": ports.grpc,
        "metrics_port": ports.metrics,
        "parallel_workers": 1,
        "debug": False,  # MLServer's default is true, and costs it a log line per request
    }
    (repository / "settings.json").write_text(json.dumps({**own, **settings}, indent=2))


def _environment(peer: Peer) -> dict[str, str]:
    """Ours, without what would change a server's settings, or the packages that a peer finds."""
    foreign = ("MLSERVE", "PYTHON", "VIRTUAL_ENV") if peer.requirements else ("MLSERVE",)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "NO_COLOR": "1"}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(server.getsockname()[1]) for server in sockets]
    for server in sockets:
        server.close()
    return ports


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


# -- /proc -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Process:
    pid: int
    parent: int
    ticks: int  # user and system time, its own and that of children it has awaited
    start_ticks: int  # with the pid, this names a process for good


def _tree_of(root: int) -> list[_Process]:
    """The process and all below it."""
    by_parent: dict[int, list[_Process]] = {}
    found: list[_Process] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (process := _process(int(entry.name))) is not None:
            by_parent.setdefault(process.parent, []).append(process)
            if process.pid == root:
                found.append(process)
    for process in found:  # grows while it is walked
        found += by_parent.get(process.pid, [])
    return found


def _process(pid: int) -> _Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name in brackets may hold anything
    if fields[0] == "Z":
        return None
    return _Process(pid, int(fields[1]), sum(map(int, fields[11:15])), int(fields[19]))


def _is_running(pid: int, start_ticks: int) -> bool:
    process = _process(pid)
    return process is not None and process.start_ticks == start_ticks


def _peak_megabytes(pid: int) -> float:
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmHWM:") / 1000


def _pss_megabytes(pid: int) -> float | None:
    try:
        return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") / 1000
    except OSError:
        return None


def _kilobytes(file: Path, field: str) -> float:
    for line in file.read_text().splitlines():
        if line.startswith(field):
            return float(line.split()[1]) * 1.024
    return 0.0
