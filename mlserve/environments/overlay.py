"""Gives an environment what mlserve's worker needs and it lacks, in a folder beside it.

The folder leads the import path of the environment's workers. In it are mlserve itself, always the very files that the
server runs, so that both speak the same frames; those of our runtimes that the server has and the environment has not;
and the few packages that the worker imports, where the environment has none or too old ones, installed by the
environment's own pip. Everything else is the environment's own, numpy above all.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path

from mlserve.environments.interpreter import Facts, examine, last_lines, run_python
from mlserve.environments.once import make_once
from mlserve.errors import ModelLoadError
from mlserve.runtime_names import RUNTIMES
from mlserve.version import __version__

# What a worker imports, with the oldest version that does; tests compare it with pyproject.toml.
NEEDS = {
    "anyio": "4.10",
    "msgspec": "0.20",
    "numpy": "1.21",  # the server wants a newer one, but models of old packages come with old ones
    "orjson": "3.10.1",
    "pysimdjson": "6.0",
    "sniffio": "1.3",
}
_MLSERVE = Path(__file__).parent.parent
_FASTER = "uvloop"  # a worker does without, so it is only installed where others are too
_INSTALL_SECONDS = 600.0
# The name of the folder says to everybody that these are installed packages, and no modules of a model beside them.
_PACKAGES = "site-packages"
_CHECK = "import json, sys; sys.path[:0] = json.loads(sys.argv[1]); import mlserve.worker_main"


async def overlay_of(python: Path, title: str, identity: str, folder: Path) -> tuple[str, str]:
    """The folder to put in front of an environment's import path, made if it is not there yet; and its name.

    The name changes with everything that a worker would have to be started anew for. ModelLoadError.
    """
    modules = [runtime.module for runtime in RUNTIMES.values()]
    facts = await examine(python, title, [*NEEDS, "pip", _FASTER], modules)
    missing = [name for name, oldest in NEEDS.items() if _is_older(facts.packages.get(name), oldest)]
    links = {"mlserve": _MLSERVE, **_runtimes_without(facts.modules)}
    name = f"overlay-{_digest([identity, facts.tag, _changes(facts), missing, __version__, links])}"

    async def make(lock: int) -> None:
        packages = folder / name / _PACKAGES
        packages.mkdir()
        if missing:
            await _install(python, title, facts, missing, packages, lock)
        for module, place in links.items():
            (packages / module).symlink_to(place, target_is_directory=True)
        done = await run_python(python, ["-c", _CHECK, json.dumps([str(packages)])], title)
        if done.returncode:
            raise ModelLoadError(f"{title} cannot run mlserve's worker: {last_lines(done, 2)}")

    await make_once(folder / name, make)
    return str(folder / name / _PACKAGES), name


async def _install(python: Path, title: str, facts: Facts, missing: list[str], target: Path, lock: int) -> None:
    wanted = [f"{name}>={NEEDS[name]}" for name in missing]
    advice = (
        f"mlserve's worker needs {', '.join(missing)} there. Put them into the environment, into an archive's "
        f"before it is packed: python -m pip install {' '.join(f'{one!r}' for one in wanted)}"
    )
    if not facts.packages.get("pip"):
        raise ModelLoadError(f"{title} has no pip, and {advice}")
    if not facts.packages.get(_FASTER):
        wanted.append(_FASTER)
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-warn-script-location"]
    command = ["-m", "pip", "install", *options, "--target", str(target), *wanted]
    done = await run_python(python, command, title, lock, _INSTALL_SECONDS)
    if done.returncode:
        raise ModelLoadError(f"{title}: {advice} (its pip could not install them now: {last_lines(done)})")


def _runtimes_without(modules: list[str]) -> dict[str, Path]:
    """Our runtimes that this process has, and that are not among the modules."""
    found = {}
    for runtime in RUNTIMES.values():
        spec = importlib.util.find_spec(runtime.module) if runtime.module not in modules else None
        if spec is not None and spec.submodule_search_locations:
            found[runtime.module] = Path(spec.submodule_search_locations[0])
    return found


def _changes(facts: Facts) -> list[int]:
    """What changes when packages come or go."""
    return [Path(folder).stat().st_mtime_ns for folder in facts.folders if Path(folder).exists()]


def _is_older(version: str | None, oldest: str) -> bool:
    """Whether a version is missing, or older than the oldest that will do."""
    return version is None or _numbers(version) < _numbers(oldest)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:20]
