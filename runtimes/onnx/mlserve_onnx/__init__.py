"""Serves ONNX models: one class over mlserve's MLModel."""

from __future__ import annotations

try:
    import onnxruntime  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "onnxruntime":
        raise
    raise ImportError(
        "ONNX Runtime itself is not installed: pip install 'mlserve-onnx[cpu]', or 'mlserve-onnx[gpu]' for CUDA"
    ) from error

from mlserve_onnx.model import OnnxModel

__all__ = ["OnnxModel"]
