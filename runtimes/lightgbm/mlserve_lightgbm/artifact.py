"""Reads a saved LightGBM model, and says in plain words what is wrong with a file that holds none."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import lightgbm

from mlserve.errors import ModelLoadError

__all__ = ["load_model"]

_PICKLES = (".joblib", ".pickle", ".pkl")
_PICKLE_STARTS = (b"\x80", b"x\x9c", b"x\x01", b"x\xda", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # also joblib's compressed

# How files of other kinds begin.
_OTHERS = (
    (b'{"learner"', "an XGBoost model: its runtime is 'xgboost'"),
    (b"{L", "an XGBoost model: its runtime is 'xgboost'"),
    (b"binf", "an XGBoost model: its runtime is 'xgboost'"),
    (b"CBM1", "a CatBoost model: its runtime is 'catboost'"),
    (b'{"name":"tree"', "what dump_model() gives, which cannot be loaded again: use save_model()"),
    (b'{"name": "tree"', "what dump_model() gives, which cannot be loaded again: use save_model()"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x89HDF", "an HDF5 file, such as Keras writes"),
    (b"version https://git-lfs", "a pointer of git-lfs: fetch the file itself with `git lfs pull`"),
    (b"<", "HTML or XML, perhaps the error page of a download"),
    (b"{", "JSON"),
)
_SIZES = re.compile(rb"^tree_sizes=([\d ]+)$", re.MULTILINE)


def load_model(path: str, name: str) -> Any:
    """The Booster in a file that save_model wrote, or the estimator in a pickle or joblib file.

    Reading the latter runs code from the file. ModelLoadError says why a file cannot be served.
    """
    content = Path(path).read_bytes()
    if not content:
        raise ModelLoadError(f"model '{name}': {path}: the file is empty")
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
    start = content.lstrip(b"\xef\xbb\xbf \t\r\n")
    for head, kind in _OTHERS:
        if start.startswith(head):
            return f"no LightGBM model, but {kind}"
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
        raise ModelLoadError(f"model '{name}': {path}: {_explain(error)}") from error
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


def _explain(error: Exception) -> str:
    """Why a file could not be unpickled, and what helps."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError):
        return f"it needs the Python module '{error.name}', which is not installed here"
    if isinstance(error, (EOFError, pickle.UnpicklingError, KeyError, ValueError, IndexError)):
        return f"neither joblib nor pickle can read it, perhaps it is damaged or cut short ({text})"
    return f"{text} (LightGBM {lightgbm.__version__} is installed)"
