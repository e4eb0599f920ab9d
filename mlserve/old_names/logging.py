"""`mlserver.logging`: the logger that runtimes written for MLServer use; its lines go where mlserve's own go."""

from __future__ import annotations

import logging

__all__ = ["configure_logger", "get_logger", "logger"]

logger = logging.getLogger("mlserver")


def get_logger() -> logging.Logger:
    """The logger."""
    return logger


def configure_logger(settings: object = None) -> logging.Logger:
    """The logger, which `mlserve start` has configured; other programs configure logging by themselves."""
    return logger
