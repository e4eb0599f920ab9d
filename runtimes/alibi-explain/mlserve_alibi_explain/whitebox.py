"""Reads the model that a white-box explainer looks into."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mlserve.artifacts import explain_unpickling, local_artifact, warnings_told
from mlserve.errors import ModelLoadError
from mlserve.settings import ModelSettings

__all__ = ["read_model"]

_logger = logging.getLogger("mlserve.model")
_NAMES = (
    *("model.joblib", "model.pkl", "model.pickle", "model.keras", "model.h5"),
    *("model.ubj", "model.json", "model.bst", "model.txt", "model.cbm", "model.pt"),
)


async def read_model(settings: ModelSettings, infer_uri: str) -> Any:
    """The model in a file, or in a folder under one of the usual names. ModelLoadError says why there is none."""
    name = settings.name
    if infer_uri.startswith(("http://", "https://", "grpc://", "grpcs://")):
        raise ModelLoadError(
            f"model '{name}': parameters.extra.infer_uri: this explainer looks into the model itself, so it needs the "
            f"model's file, got the address {infer_uri}"
        )
    where = ModelSettings(name=name, implementation=settings.implementation_, parameters={"uri": infer_uri})
    where.source_dir = settings.source_dir
    path = Path(local_artifact(where, _NAMES))
    try:
        with warnings_told(name, _logger, for_owner=True):
            return _read(path)
    except ModelLoadError:
        raise
    except Exception as error:
        why = explain_unpickling(error, "see the versions of the packages in this environment")
        raise ModelLoadError(f"model '{name}': the model to explain, {path}, cannot be read: {why}") from error


def _read(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix in (".keras", ".h5"):
        import tensorflow

        return tensorflow.keras.models.load_model(path)
    if suffix == ".cbm":
        import catboost

        is_classifier = len(catboost.CatBoost().load_model(str(path)).classes_) > 0
        return (catboost.CatBoostClassifier if is_classifier else catboost.CatBoost)().load_model(str(path))
    if suffix == ".pt":
        import torch

        return torch.load(path, weights_only=False)
    if suffix in (".ubj", ".json", ".bst", ".txt", ".model"):
        return _read_booster(path)
    import joblib

    return joblib.load(path)


def _read_booster(path: Path) -> Any:
    if path.read_bytes()[:5] == b"tree\n":
        import lightgbm

        return lightgbm.Booster(model_file=str(path))
    import xgboost

    return xgboost.Booster(model_file=str(path))
