"""`mlserver_huggingface.common`: a pipeline from settings, by the name that MLServer has for it."""

from __future__ import annotations

from typing import Any

from mlserve.settings import ModelSettings
from mlserve_huggingface.loading import find_model, make_pipeline
from mlserve_huggingface.settings import HuggingFaceSettings

__all__ = ["load_pipeline_from_settings"]


def load_pipeline_from_settings(hf_settings: HuggingFaceSettings, settings: ModelSettings) -> Any:
    """The pipeline that the settings describe. ModelLoadError says why one cannot be made."""
    return make_pipeline(settings, hf_settings, find_model(settings, hf_settings))[1]
