"""What `import mlserver` gives: mlserve's names, and those that only MLServer has. See `mlserve.compat`.

The other modules of this package are the places of MLServer's that mlserve itself has elsewhere or does not need.
Code that is written for mlserve imports nothing from here.
"""

from __future__ import annotations

import importlib
from typing import Any

import mlserve

__all__ = [
    "MLModel",
    "MLServer",
    "ModelParameters",
    "ModelSettings",
    "Settings",
    "__version__",
    "codecs",
    "errors",
    "log",
    "register",
    "types",
]

_PLACES = {
    "MLServer": "mlserve.old_names.server",
    "logging": "mlserve.old_names",
    "metrics": "mlserve.old_names",
    "server": "mlserve.old_names",
    "utils": "mlserve.old_names",
}


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        return _of_ours(name)
    if place == __name__:
        return importlib.import_module(f"{place}.{name}")
    return getattr(importlib.import_module(place), name)


def _of_ours(name: str) -> Any:
    try:
        return getattr(mlserve, name)
    except AttributeError:
        raise AttributeError(f"'mlserver' is mlserve here, which has no '{name}': see docs/migrating.md") from None


def __dir__() -> list[str]:
    return sorted(__all__)
