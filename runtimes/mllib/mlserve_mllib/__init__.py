"""Serves models of Spark ML: one class over mlserve's MLModel."""

from __future__ import annotations

from mlserve_mllib.model import MLlibModel

__all__ = ["MLlibModel"]
