"""Reads a saved CatBoost model as the class that fits it, and says in plain words what is wrong with a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import catboost
import msgspec

from mlserve.artifacts import foreign_kind
from mlserve.errors import ModelLoadError
from mlserve_catboost.embeddings import embedding_widths

__all__ = ["load_estimator", "widths_of"]

_OBJECTS = ("features_info", "model_info")
_TREES = ("oblivious_trees", "trees")
_RANKING = ("YetiRank", "PairLogit", "Query", "Stochastic", "LambdaMart", "GroupQuantile")


def load_estimator(path: str, name: str) -> Any:
    """The CatBoostClassifier, CatBoostRegressor or CatBoostRanker in a file, whichever way the model was trained.

    The content decides, not the extension: CatBoost's own binary format or its JSON.
    """
    form = _form_of(Path(path), name)
    try:
        general = catboost.CatBoost().load_model(path, format=form)
        estimator: Any = _class_of(general)()
        estimator.load_model(path, format=form)
    except (catboost.CatBoostError, ValueError, TypeError) as error:
        raise ModelLoadError(f"model '{name}': {path}: {_explain(error, form)}") from error
    if not estimator.feature_names_:
        raise ModelLoadError(f"model '{name}': {path}: no CatBoost model that was trained: it has no features")
    return estimator


def widths_of(estimator: Any, path: str, name: str) -> dict[int, int | None]:
    """How many numbers each embedding has, by its column. ModelLoadError if the file of a model with some hides it."""
    if not estimator.get_embedding_feature_indices():
        return {}
    try:
        return embedding_widths(Path(path).read_bytes())
    except ValueError as error:
        raise ModelLoadError(
            f"model '{name}': {path}: it has embeddings, but how many numbers they have cannot be read, without which "
            f"a request could make CatBoost read beyond its own memory ({error}; CatBoost {catboost.__version__} is "
            f"installed)"
        ) from error


def _form_of(path: Path, name: str) -> str:
    """What CatBoost calls the format. ModelLoadError for other JSON: CatBoost would crash, or find an empty model."""
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"CBM1"):
        return "cbm"
    wrong = foreign_kind(head, own=("catboost", "json"))
    if not wrong and not head.lstrip().startswith(b"{"):
        wrong = "something that is neither CatBoost's binary format nor its JSON"
    if wrong:
        raise ModelLoadError(f"model '{name}': {path}: no CatBoost model, but {wrong}")
    try:
        keys = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ModelLoadError(f"model '{name}': {path}: broken JSON, perhaps cut short ({error})") from None
    begins = {key: bytes(value)[:1] for key, value in keys.items()}
    if any(begins.get(key) != b"{" for key in _OBJECTS) or all(begins.get(key) != b"[" for key in _TREES):
        raise ModelLoadError(f"model '{name}': {path}: JSON, but of no CatBoost model")
    return "json"


def _class_of(model: Any) -> Any:
    """The class to load a model into. A wrong one fails at the first prediction, or answers something else."""
    if len(model.classes_):
        return catboost.CatBoostClassifier
    loss = str(_training_parameters(model).get("loss_function", ""))
    is_ranker = loss.startswith(_RANKING) and loss != "Quantile"
    return catboost.CatBoostRanker if is_ranker else catboost.CatBoostRegressor


def _training_parameters(model: Any) -> dict[str, Any]:
    try:
        return dict(model.get_all_params())
    except catboost.CatBoostError:  # made by a tool that leaves them out
        return {}


def _explain(error: Exception, form: str) -> str:
    """What CatBoost says, without the place in its own source."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    place, _, message = text.partition(": ")
    told = message if os.sep in place and message else text
    what = "JSON" if form == "json" else "binary format"
    return (
        f"a CatBoost model ({what}) that cannot be read, perhaps cut short or of a later version "
        f"({told}; CatBoost {catboost.__version__} is installed)"
    )
