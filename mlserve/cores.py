"""How many processor cores this process may use, and how the workers of a pool share them.

Numerical libraries start as many threads as the machine has cores, in each process: several workers would have many
times more threads than cores, and so would one in a container that may use two cores of sixty-four.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from math import ceil
from pathlib import Path

__all__ = ["thread_variables", "usable_cores"]

# The variables by which libraries know how many threads to start; they read them when they are imported.
# OpenBLAS, MKL, PyTorch, XGBoost, LightGBM and numexpr follow the first, unless their own variable is set. Not numba's:
# it is an upper bound too, and code that asks numba for more threads would fail.
_VARIABLES = (
    "OMP_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",  # BLAS of macOS
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "RAYON_NUM_THREADS",  # tokenizers
    "POLARS_MAX_THREADS",
    "LOKY_MAX_CPU_COUNT",  # joblib, for n_jobs=-1
)


def thread_variables(
    given: Mapping[str, str], workers: int, cores: int | None = None, machine: int | None = None
) -> dict[str, str]:
    """The variables that give each of so many workers its share of the cores; without those that are given.

    None where the share is the whole machine: libraries know best what to do with that.
    """
    share = max(1, (cores or usable_cores()) // workers)
    if share >= (machine or os.cpu_count() or 1):
        return {}
    return {name: str(share) for name in _VARIABLES if not given.get(name)}


def usable_cores(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores that this process may use: as many as there are, less by its affinity, less by a quota of its cgroups.

    A part of a core, as containers may have, counts as one.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quotas = (_quota(folder) for folder in _cgroups(proc, groups))
    return max(1, min([cores, *(ceil(one) for one in quotas if one is not None)]))


def _cgroups(proc: Path, groups: Path) -> Iterator[Path]:
    """The folders of the cgroups that this process is in, and of those around them.

    Inside a container the path that the kernel tells may not be there; that of its own cgroup is then the root.
    """
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2, alone or beside version 1
            roots = [groups, groups / "unified"]
        elif "cpu" in controllers.split(","):
            roots = [groups / controllers, groups / "cpu"]
        else:
            continue
        inside = Path(path.lstrip("/"))
        yield from (root / part for root in roots for part in (inside, *inside.parents))


def _quota(folder: Path) -> float | None:
    """How many cores a cgroup may keep busy; None if it says nothing."""
    try:
        limit, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit, period = ((folder / f"cpu.cfs_{what}_us").read_text().strip() for what in ("quota", "period"))
        except OSError:
            return None
    return int(limit) / int(period) if limit.isdecimal() and int(period) > 0 else None  # "max", -1: no limit
