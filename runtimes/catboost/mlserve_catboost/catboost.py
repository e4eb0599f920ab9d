"""`mlserver_catboost.catboost`: the runtime and its constants, by the names that MLServer has for them."""

from __future__ import annotations

from mlserve_catboost.model import CatboostModel

__all__ = [
    "WELLKNOWN_MODEL_FILENAMES",
    "CatboostModel",
]

WELLKNOWN_MODEL_FILENAMES = list(CatboostModel.wellknown_filenames)
