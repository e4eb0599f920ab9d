"""The servers that are measured: how each is installed, started, and asked.

    python bench/peers.py mlserver mosec litserve     makes their environments, bench/.venv-NAME

mlserve itself comes from the environment that runs the script. Each peer has a virtual environment of its own, made
once, by uv where it is installed and by pip otherwise, with the same scikit-learn as ours.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

__all__ = ["OURS", "PEERS", "Peer", "Ports", "app", "make_environment", "python_of", "version_of"]

OURS = "mlserve"
_HERE = Path(__file__).parent
_OWN_BIN = Path(sys.executable).parent


class Ports(NamedTuple):
    """Where a server listens; one without gRPC or metrics leaves those alone."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True)
class Peer:
    """One server program."""

    key: str
    label: str
    package: str  # whose version is shown
    command: Callable[[Path, Path, Ports], list[str]]  # (its python, folder of models, ports)
    requirements: tuple[str, ...] = ()  # of its own environment; none: it is installed in ours
    transports: frozenset[str] = frozenset({"rest", "grpc"})
    ready_path: str = "/v2/health/ready"
    infer_path: str | None = None  # where it isn't the protocol's

    @property
    def environment(self) -> Path:
        """Its virtual environment."""
        return _HERE / f".venv-{self.key}"


def _mlserve(python: Path, folder: Path, ports: Ports) -> list[str]:
    return [str(python), "-m", "mlserve", "start", str(folder)]  # the ports are in the folder's settings.json


def _mlserver(python: Path, folder: Path, ports: Ports) -> list[str]:
    return [str(python.parent / "mlserver"), "start", str(folder)]


def app(name: str) -> Callable[[Path, Path, Ports], list[str]]:
    """A server that is a Python program of its own, in apps/, with one model."""

    def command(python: Path, folder: Path, ports: Ports) -> list[str]:
        return [str(python), str(_HERE / "apps" / f"{name}.py"), str(folder), str(ports.http)]

    return command


PEERS: dict[str, Peer] = {
    peer.key: peer
    for peer in (
        Peer(OURS, "mlserve", "mlserve", _mlserve),
        Peer(
            "mlserver",
            "MLServer",
            "mlserver",
            _mlserver,
            # A fresh install of 1.7.1 fails to start with a newer uvloop.
            requirements=("mlserver", "mlserver-sklearn", "uvloop<0.22", "pandas<3"),
        ),
        Peer(
            "mosec",
            "mosec",
            "mosec",
            app("mosec_iris"),
            requirements=("mosec", "numpy"),
            transports=frozenset({"rest"}),
            ready_path="/",
            infer_path="/inference",
        ),
        Peer(
            "litserve",
            "LitServe",
            "litserve",
            app("litserve_iris"),
            requirements=("litserve", "numpy"),
            transports=frozenset({"rest"}),
            ready_path="/health",
            infer_path="/predict",
        ),
    )
}


def python_of(peer: Peer) -> Path:
    """The interpreter that runs it. Makes its environment if need be: SystemExit with the reason where that fails."""
    if not peer.requirements:
        if importlib.util.find_spec(peer.key) is None:
            raise SystemExit(f"{peer.label} is not installed beside {sys.executable}: pip install -e '.'")
        return Path(sys.executable)
    wanted = [*peer.requirements, f"scikit-learn=={metadata.version('scikit-learn')}"]
    return make_environment(peer.environment, wanted)


def make_environment(folder: Path, requirements: list[str]) -> Path:
    """The interpreter of a virtual environment with these packages, made if it is not there. SystemExit if it fails."""
    wanted = "\n".join(requirements)
    made_for = folder / "made-for.txt"  # written last: an environment without it is half made
    if not made_for.exists() or made_for.read_text() != wanted:
        print(f"making {folder} …", file=sys.stderr, flush=True)
        try:
            _make(folder, requirements)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"cannot make {folder}: {' '.join(error.cmd)} failed") from None
        made_for.write_text(wanted)
    return folder / "bin" / "python"


def version_of(peer: Peer) -> str:
    """The version of its package, as its environment has it."""
    if peer.key == OURS:
        from mlserve import __version__

        return __version__
    command = f"from importlib.metadata import version; print(version('{peer.package}'))"
    found = subprocess.run([python_of(peer), "-c", command], capture_output=True, text=True)
    return found.stdout.strip() or "?"


def _make(environment: Path, requirements: list[str]) -> None:
    shutil.rmtree(environment, ignore_errors=True)
    python = environment / "bin" / "python"
    uv = shutil.which("uv") or shutil.which("uv", path=str(_OWN_BIN))
    if uv:
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(environment)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(python), *requirements], check=True)
    else:
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *requirements], check=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(PEERS):
        print(PEERS[name].label, version_of(PEERS[name]), python_of(PEERS[name]))
