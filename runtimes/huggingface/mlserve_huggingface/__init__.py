"""Serves Hugging Face pipelines: one class over mlserve's MLModel, and codecs for text, pictures, sound and JSON."""

from __future__ import annotations

from mlserve_huggingface.runtime import HuggingFaceRuntime

__all__ = ["HuggingFaceRuntime"]
