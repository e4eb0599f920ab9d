"""Reads a saved LightGBM model, and says in plain words what is wrong with a file that holds none."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import lightgbm

from mlserve.artifacts import explain_unpickling, foreign_kind
from mlserve.errors import ModelLoadError

__all__ = ["load_model"]

_PICKLES = (".joblib", ".pickle", ".pkl")
_PICKLE_STARTS = (b"\x80", b"x\x9c", b"x\x01", b"x\xda", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # also joblib's compressed

_SIZES = re.compile(rb"^tree_sizes=([\d ]+)$", re.MULTILINE)


def load_model(path: str, name: str) -> Any:
    """The Booster in a file that save_model wrote, or the estimator in a pickle or joblib file.

    Reading the latter runs code from the file. ModelLoadError says why a file cannot be served.
    """
    content = Path(path).read_bytes()
    if path.endswith(_PICKLES) or content.startswith(_PICKLE_STARTS):
        return _unpickle(path, name)
    content = content.replace(b"\r\n", b"\n")  # LightGBM counts bytes
    wrong = _refusal(content)
    if wrong:
        raise ModelLoadError(f"model '{name}': {path}: {wrong}")
    try:
        return lightgbm.Booster(model_str=content.decode())
    except (lightgbm.basic.LightGBMError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise ModelLoadError(
            f"model '{name}': {path}: LightGBM {lightgbm.__version__} cannot read it, perhaps it is damaged or of a "
            f"later version ({str(error).strip()})"
        ) from error


def _refusal(content: bytes) -> str | None:
    """Why a file need not be tried. LightGBM itself crashes on one that is cut short, or serves the trees it finds."""
    foreign = foreign_kind(content[:64], own=("lightgbm",))
    if foreign:
        return f"no LightGBM model, but {foreign}"
    if not content.startswith(b"tree"):
        return "no LightGBM model: the text that save_model() writes begins with 'tree'"
    place = content.find(b"\nTree=0\n") + 1
    if not place:
        return "it holds no trees, perhaps it is cut short"
    sizes = _SIZES.search(content, 0, place)  # of each tree; old files have none
    for number, size in enumerate(sizes[1].split() if sizes else ()):
        if not content.startswith(b"Tree=%d\n" % number, place):
            return f"the file is damaged: tree {number} is not where it should be"
        place += int(size)
    return "the file is cut short: trees are missing" if place > len(content) else None


def _unpickle(path: str, name: str) -> Any:
    import joblib  # reads its own format and plain pickles, compressed or not

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = joblib.load(path)
    except Exception as error:
        installed = f"LightGBM {lightgbm.__version__} is installed"
        raise ModelLoadError(f"model '{name}': {path}: {explain_unpickling(error, installed)}") from error
    if isinstance(model, lightgbm.Booster):
        return model
    if not isinstance(model, lightgbm.LGBMModel):
        raise ModelLoadError(
            f"model '{name}': {path} holds an object of type {type(model).__name__}, not a LightGBM model; "
            f"for pipelines and other estimators there is the runtime 'sklearn'"
        )
    if not model.__sklearn_is_fitted__():
        raise ModelLoadError(f"model '{name}': {path} holds a {type(model).__name__} that is not fitted")
    return model
