"""Serves MLflow models: one class over mlserve's MLModel, and the content type `dict`."""

from __future__ import annotations

from mlserve_mlflow.codecs import TensorDictCodec
from mlserve_mlflow.runtime import MLflowRuntime

__all__ = ["MLflowRuntime", "TensorDictCodec"]
