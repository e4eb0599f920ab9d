"""`mlserver.logging`: the logger that runtimes written for MLServer use; its lines go where mlserve's own go."""

from __future__ import annotations

import logging

__all__ = ["logger"]

logger = logging.getLogger("mlserver")
