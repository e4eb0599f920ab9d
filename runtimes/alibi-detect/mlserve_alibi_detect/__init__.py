"""Serves detectors of alibi-detect: one class over mlserve's MLModel."""

from __future__ import annotations

from mlserve_alibi_detect.model import AlibiDetectRuntime

__all__ = ["AlibiDetectRuntime"]
