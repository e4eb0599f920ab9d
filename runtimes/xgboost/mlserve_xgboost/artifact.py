"""Reads a saved XGBoost model as the estimator that fits it, and says in plain words what is wrong with a file."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import xgboost

from mlserve.artifacts import foreign_kind
from mlserve.errors import ModelLoadError
from mlserve_xgboost.nested import why_not_json, why_not_ubjson

__all__ = ["PLACE", "load_estimator"]

PLACE = re.compile(r"^\[\d\d:\d\d:\d\d\] \S+:\d+: ")  # of XGBoost's messages: the time, a line of its source
_MOST_FEATURES = 100_000_000  # more than a request can have; a damaged number is read as up to four billion


def load_estimator(path: str, name: str, threads: int | None) -> Any:
    """The XGBClassifier, XGBRegressor or XGBRanker that saved a file; for a Booster an XGBRegressor, as on MLServer.

    XGBRegressor's `predict` is the Booster's own: what the objective gives, be it values, scores or probabilities. Only
    after early stopping it takes the trees up to the best round, and the Booster all.
    The content decides, not the extension: JSON and UBJSON both occur under every one of them.
    """
    content = Path(path).read_bytes().lstrip(b"\xef\xbb\xbf \t\r\n")
    wrong = _refusal(content)
    if wrong:
        raise ModelLoadError(f"model '{name}': {path}: {wrong}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            booster = xgboost.Booster()
            booster.load_model(bytearray(content))
            estimator: Any = _class_of(booster)(n_jobs=threads)
            estimator.load_model(bytearray(content))
    except (xgboost.core.XGBoostError, TypeError, ValueError, KeyError) as error:
        raise ModelLoadError(f"model '{name}': {path}: {_explain(error, content)}") from error
    if booster.num_features() > _MOST_FEATURES:
        raise ModelLoadError(f"model '{name}': {path}: it says that it has {booster.num_features()} features")
    if threads is not None:
        estimator.get_booster().set_param({"nthread": threads})
    return estimator


def _refusal(content: bytes) -> str | None:
    """Why a file is not tried: XGBoost ends the process at one that is empty, nested deep or, as UBJSON, cut short."""
    foreign = foreign_kind(content[:64], own=("xgboost", "json"))
    if foreign:
        return f"no XGBoost model, but {foreign}"
    return why_not_ubjson(content) if _is_ubjson(content) else why_not_json(content)


def _is_ubjson(content: bytes) -> bool:
    return content[:1] == b"{" and content[1:2] in (b"L", b"l", b"I", b"i", b"U")


def _class_of(booster: xgboost.Booster) -> type[Any]:
    """The estimator to load a model into: the one that saved it, and for a Booster the one that predicts as it does."""
    saved_by = json.loads(booster.attr("scikit_learn") or "{}").get("_estimator_type")
    return {"classifier": xgboost.XGBClassifier, "ranker": xgboost.XGBRanker}.get(saved_by, xgboost.XGBRegressor)


def _explain(error: Exception, content: bytes) -> str:
    """Why XGBoost could not read a file, and what helps."""
    installed = f"XGBoost {xgboost.__version__} is installed"
    if content.startswith(b"binf"):
        return (
            f"it is in the old binary format, which newer versions of XGBoost do not read ({installed}). With the "
            f"XGBoost that wrote it, load it and save it as model.ubj or model.json; or serve it from an environment "
            f"with that version (parameters.environment_path)"
        )
    text = PLACE.sub("", str(error)).strip().splitlines()[:1]
    told = text[0] if text else type(error).__name__
    if content.startswith(b"{"):
        what = "JSON" if not _is_ubjson(content) else "UBJSON"
        if b"learner" not in content[:4096]:
            return f"{what}, but of no XGBoost model"
        return (
            f"the {what} of a model that cannot be read, perhaps cut short or of a later version ({told}; {installed})"
        )
    return f"no XGBoost model: it is neither JSON nor UBJSON ({told})"
