"""Serves CatBoost models: one class over mlserve's MLModel."""

from __future__ import annotations

from mlserve_catboost.model import CatboostModel

__all__ = ["CatboostModel"]
