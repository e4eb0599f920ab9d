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

__all__ = ["load_estimator"]

_PLACE = re.compile(r"^\[\d\d:\d\d:\d\d\] \S+:\d+: ")  # of XGBoost's messages: the time, a line of its source


def load_estimator(path: str, name: str, threads: int | None) -> Any:
    """The XGBClassifier, XGBRegressor or XGBRanker that saved a file; for a Booster an XGBRegressor, as on MLServer.

    XGBRegressor's `predict` is the Booster's own: what the objective gives, be it values, scores or probabilities. Only
    after early stopping it takes the trees up to the best round, and the Booster all.
    The content decides, not the extension: JSON and UBJSON both occur under every one of them.
    """
    content = Path(path).read_bytes()
    wrong = _refusal(content)
    if wrong:
        raise ModelLoadError(f"model '{name}': {path}: {wrong}")
    content = content if _is_ubjson(content) else content.lstrip(b"\xef\xbb\xbf \t\r\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            booster = xgboost.Booster()
            booster.load_model(bytearray(content))
            estimator: Any = _class_of(booster)(n_jobs=threads)
            estimator.load_model(bytearray(content))
    except (xgboost.core.XGBoostError, TypeError, ValueError, KeyError) as error:
        raise ModelLoadError(f"model '{name}': {path}: {_explain(error, content)}") from error
    if threads is not None:
        estimator.get_booster().set_param({"nthread": threads})
    return estimator


def _refusal(content: bytes) -> str | None:
    """Why a file need not be tried. XGBoost itself crashes on an empty file, and on UBJSON that is cut short."""
    foreign = foreign_kind(content[:64], own=("xgboost", "json"))
    if foreign:
        return f"no XGBoost model, but {foreign}"
    # "version" is the last key, for keys are in the order of the alphabet.
    if _is_ubjson(content) and not (content.endswith(b"}") and b"version" in content[-80:]):
        return "the file is cut short, or is UBJSON of something else"
    return None


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
    text = _PLACE.sub("", str(error)).strip().splitlines()[:1]
    told = text[0] if text else type(error).__name__
    if content.startswith(b"{"):
        what = "JSON" if not _is_ubjson(content) else "UBJSON"
        if b"learner" not in content[:4096]:
            return f"{what}, but of no XGBoost model"
        return (
            f"the {what} of a model that cannot be read, perhaps cut short or of a later version ({told}; {installed})"
        )
    return f"no XGBoost model: it is neither JSON nor UBJSON ({told})"
