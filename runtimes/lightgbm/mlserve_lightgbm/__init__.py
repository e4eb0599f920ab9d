"""Serves LightGBM models: one class over mlserve's MLModel."""

from __future__ import annotations

try:
    import lightgbm  # noqa: F401
except OSError as error:
    if "libgomp" not in str(error):
        raise
    raise ImportError(
        f"LightGBM needs the OpenMP library of the system: apt-get install libgomp1, or yum install libgomp ({error})"
    ) from error

from mlserve_lightgbm.model import LightGBMModel

__all__ = ["LightGBMModel"]
