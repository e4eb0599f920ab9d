"""Inference server for Python models over the Open Inference Protocol.

Importing this package does nothing; its names are loaded when they are first used, so that a program which needs only
the types pays for nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mlserve.version import __version__

if TYPE_CHECKING:
    from mlserve.custom_metrics import log, register
    from mlserve.model import MLModel
    from mlserve.server import Server
    from mlserve.settings import ModelParameters, ModelSettings, Settings

__all__ = [
    "MLModel",
    "ModelParameters",
    "ModelSettings",
    "Server",
    "Settings",
    "__version__",
    "log",
    "register",
]

_HOMES = {
    "MLModel": "mlserve.model",
    "ModelParameters": "mlserve.settings",
    "ModelSettings": "mlserve.settings",
    "Server": "mlserve.server",
    "Settings": "mlserve.settings",
    "log": "mlserve.custom_metrics",
    "register": "mlserve.custom_metrics",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is not None:
        value = getattr(importlib.import_module(home), name)
        globals()[name] = value
        return value
    try:
        return importlib.import_module(f"mlserve.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"mlserve.{name}":
            raise
        raise AttributeError(f"module 'mlserve' has no attribute '{name}'") from None


def __dir__() -> list[str]:
    return sorted(__all__)
