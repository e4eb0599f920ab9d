"""Serves XGBoost models: one class over mlserve's MLModel."""

from __future__ import annotations

try:
    import xgboost  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "xgboost":
        raise
    raise ImportError(
        "XGBoost itself is not installed: pip install 'mlserve-xgboost[cpu]', or 'mlserve-xgboost[gpu]' for CUDA"
    ) from error

from mlserve_xgboost.model import XGBoostModel

__all__ = ["XGBoostModel"]
