"""Serves explainers of alibi: one class over mlserve's MLModel."""

from __future__ import annotations

from mlserve_alibi_explain.model import AlibiExplainRuntime

__all__ = ["AlibiExplainRuntime"]
