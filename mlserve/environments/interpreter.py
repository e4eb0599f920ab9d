"""The Python of an environment: where it is, whether it runs here, what it has."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import msgspec

from mlserve.errors import ModelLoadError

OLDEST = (3, 10)
_ANSWER_SECONDS = 120.0

# Runs in any Python, 2.7 included: tells what it is, and what of the names on its command line it has.
_PROBE = """
import sys
facts = {"version": list(sys.version_info[:3])}
names = sys.argv[1:]
if sys.version_info >= (3, 10):
    import importlib.metadata, importlib.util, sysconfig
    sys.path[:] = [one for one in sys.path if one]
    def version(name):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None
    half = names.index("--")
    facts["packages"] = dict((name, version(name)) for name in names[:half])
    facts["modules"] = [name for name in names[half + 1:] if importlib.util.find_spec(name)]
    facts["tag"] = sys.implementation.cache_tag + " " + sysconfig.get_platform()
    facts["folders"] = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
import json
print(json.dumps(facts))
"""
_MACHINES = {0x03: "x86", 0x28: "arm", 0x3E: "x86_64", 0xB7: "aarch64", 0x15: "ppc64le", 0x16: "s390x", 0xF3: "riscv64"}


class Facts(msgspec.Struct):
    """What an interpreter says of itself."""

    version: list[int]
    packages: dict[str, str | None] = {}  # the version of each distribution that was asked for
    modules: list[str] = []  # those of the modules that were asked for which it finds
    tag: str = ""  # "cpython-312 linux-x86_64"
    folders: list[str] = []  # of its packages


def find_python(root: Path, title: str) -> Path:
    """The interpreter below a folder. ModelLoadError if there is none."""
    inner = [one for one in sorted(root.iterdir()) if one.is_dir() and not one.name.startswith(".")]
    for folder in (root, *(inner if len(inner) == 1 else ())):  # archives of a folder have all below it
        for name in ("python", "python3"):
            path: Path = folder / "bin" / name
            if os.path.lexists(path):
                return path
        if (folder / "Scripts" / "python.exe").exists() or (folder / "python.exe").exists():
            raise ModelLoadError(f"{title} was made on Windows; make it on {platform.system()} {platform.machine()}")
    raise ModelLoadError(
        f"{title} has no bin/python: it must hold a whole Python environment, packed by conda-pack or venv-pack"
    )


def variables_of(python: Path) -> dict[str, str]:
    """The variables for a process of an environment: ours, without what names our own packages, as if activated."""
    variables = {key: value for key, value in os.environ.items() if key not in _OURS}
    root = python.parent.parent
    variables["PATH"] = os.pathsep.join((str(python.parent), os.environ.get("PATH", os.defpath)))
    variables["VIRTUAL_ENV" if (root / "pyvenv.cfg").exists() else "CONDA_PREFIX"] = str(root)
    return variables


_OURS = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "__PYVENV_LAUNCHER__"}


async def run_python(
    python: Path, arguments: Sequence[str], title: str, lock: int | None = None, seconds: float = _ANSWER_SECONDS
) -> subprocess.CompletedProcess[bytes]:
    """Runs an environment's interpreter to its end; killed when this task is cancelled.

    ModelLoadError, with the reason, if it cannot run on this machine.
    """
    _refuse_foreign(python, title)  # not left to the system: some ways to start a process then try it as a shell script
    try:
        with anyio.fail_after(seconds):
            return await anyio.run_process(
                [str(python), *arguments],
                check=False,
                stdin=subprocess.DEVNULL,
                env=variables_of(python),
                pass_fds=() if lock is None else (lock,),
            )
    except OSError as error:
        raise ModelLoadError(f"{title} does not run here: {why_not(python, error)}") from error
    except TimeoutError:
        raise ModelLoadError(f"{title}: {python} gave no answer within {seconds:.0f} s") from None


async def examine(python: Path, title: str, packages: Sequence[str], modules: Sequence[str]) -> Facts:
    """What an interpreter is and has. ModelLoadError if it does not run, or is too old for mlserve."""
    done = await run_python(python, ["-c", _PROBE, *packages, "--", *modules], title)
    try:
        facts = msgspec.convert(json.loads(done.stdout.decode().strip().splitlines()[-1]), Facts)
    except (ValueError, IndexError):
        raise ModelLoadError(f"{title} does not run here: {last_lines(done)}") from None
    if tuple(facts.version[:2]) < OLDEST:
        raise ModelLoadError(
            f"{title} has Python {'.'.join(map(str, facts.version))}; mlserve's workers need "
            f"{'.'.join(map(str, OLDEST))} or newer: make the environment anew with one"
        )
    return facts


def last_lines(done: subprocess.CompletedProcess[bytes], count: int = 4) -> str:
    """The end of what a process said, in one line."""
    text = (done.stderr or done.stdout or b"").decode("utf-8", "replace").strip()
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line.startswith("ERROR")] or lines  # pip warns of much else
    said = " / ".join(lines[-count:])
    return said or f"it ended with exit code {done.returncode} and said nothing"


def why_not(python: Path, error: OSError) -> str:
    """Why an interpreter could not be started."""
    target = Path(os.path.realpath(python))
    if error.errno == errno.ELOOP:
        return f"its bin/python is a link that leads back to itself ({python}); make the environment anew"
    if not target.exists():
        return (
            f"its bin/python leads to {target}, which is not there. A venv only works on a machine that has its Python "
            f"at the same place; install that one, or pack a conda environment with conda-pack, which brings its own"
        )
    here = f"this machine is {platform.system()} {platform.machine()}"
    if error.errno == errno.ENOENT:
        return f"{target} wants a C library that is not there (was it made on another Linux distribution?); {here}"
    return f"{target} cannot be executed: {error.strerror}; {here}"


def _refuse_foreign(python: Path, title: str) -> None:
    """ModelLoadError for a program of another system or processor. What our own interpreter is shows what runs here."""
    target, ours = Path(os.path.realpath(python)), Path(os.path.realpath(sys.executable))
    if target.is_file() and _kind_of(target) not in (_SCRIPT, _kind_of(ours)):
        raise ModelLoadError(
            f"{title} does not run here: {target} is {_kind_of(target)}, and this machine is {platform.system()} "
            f"{platform.machine()}: make the environment on one like this"
        )


_SCRIPT = "a script"
_ELF_BYTES = 20  # up to the processor


def _kind_of(target: Path) -> str:
    with open(target, "rb") as file:
        head = file.read(_ELF_BYTES)
    if head.startswith(b"#!"):
        return _SCRIPT
    if head.startswith(b"\x7fELF") and len(head) < _ELF_BYTES:
        return f"cut off after {len(head)} bytes"
    if head.startswith(b"\x7fELF"):
        machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
        return f"a program for Linux {_MACHINES.get(machine, f'machine {machine}')}"
    if head[:4] in (b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"\xfe\xed\xfa\xcf"):
        return "a program for macOS"
    return "a program for Windows" if head.startswith(b"MZ") else f"no program that {sys.platform} can run"
