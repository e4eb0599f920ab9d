"""Serves PyTorch models: one class over mlserve's MLModel."""

from __future__ import annotations

from mlserve_torch.model import TorchModel

__all__ = ["TorchModel"]
