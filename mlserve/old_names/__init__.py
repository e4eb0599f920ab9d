"""What `import mlserver` gives: mlserve's names, and those that only MLServer has. See `mlserve.compat`.

The other modules of this package are the places of MLServer's that mlserve itself has elsewhere or does not need.
Code that is written for mlserve imports nothing from here.
"""

from __future__ import annotations

import importlib
import sys
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

_OLD = "mlserver"


def __getattr__(name: str) -> Any:
    if name in mlserve.__all__:
        return getattr(mlserve, name)
    if name == "MLServer":
        return importlib.import_module("mlserve.old_names.server").MLServer
    if not name.startswith("_") and sys.modules.get(_OLD) is sys.modules[__name__]:  # the alias is in use
        try:
            return importlib.import_module(f"{_OLD}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{_OLD}.{name}":
                raise
    raise AttributeError(f"'mlserver' is mlserve here, which has no '{name}': see docs/migrating.md")


def __dir__() -> list[str]:
    return sorted(__all__)
