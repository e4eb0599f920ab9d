"""Serves scikit-learn models: one class over mlserve's MLModel."""

from __future__ import annotations

from mlserve_sklearn.model import SKLearnModel

__all__ = ["SKLearnModel"]
