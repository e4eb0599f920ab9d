"""All settings: their names, defaults and types, and how files, variables and `.env` fill them."""

from __future__ import annotations

from mlserve.settings.files import (
    MODEL_SETTINGS_FILE,
    SETTINGS_FILE,
    is_address,
    load_settings,
    model_settings_from_variables,
    parse_model_settings,
    resolve_path,
    setting_from_text,
)
from mlserve.settings.model import ModelParameters, ModelSettings
from mlserve.settings.server import CORSSettings, Settings

__all__ = [
    "MODEL_SETTINGS_FILE",
    "SETTINGS_FILE",
    "CORSSettings",
    "ModelParameters",
    "ModelSettings",
    "Settings",
    "is_address",
    "load_settings",
    "model_settings_from_variables",
    "parse_model_settings",
    "resolve_path",
    "setting_from_text",
]
