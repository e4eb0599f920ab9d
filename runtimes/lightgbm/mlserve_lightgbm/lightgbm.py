"""`mlserver_lightgbm.lightgbm`: the runtime and its constants, by the names that MLServer has for them."""

from __future__ import annotations

from mlserve_lightgbm.model import LightGBMModel

__all__ = [
    "WELLKNOWN_MODEL_FILENAMES",
    "LightGBMModel",
]

WELLKNOWN_MODEL_FILENAMES = list(LightGBMModel.wellknown_filenames)
