"""Reads a saved LightGBM model, and says in plain words what is wrong with a file that holds none."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import lightgbm

from mlserve.artifacts import explain_unpickling, foreign_kind, warnings_told
from mlserve.errors import ModelLoadError

__all__ = ["load_model"]

_logger = logging.getLogger("mlserve.lightgbm")
_PICKLES = (".joblib", ".pickle", ".pkl")
_PICKLE_STARTS = (b"\x80", b"x\x9c", b"x\x01", b"x\xda", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # also joblib's compressed

_SIZES = re.compile(rb"^tree_sizes=([\d ]+)$", re.MULTILINE)
_FORMAT = re.compile(r"^version=v(\d+)$", re.MULTILINE)
_COUNTS = re.compile(rb"^(num_class|num_tree_per_iteration)=(.*)$", re.MULTILINE)
_CATEGORIES = b"\npandas_categorical:"  # the last line, if LightGBM's Python package wrote the file


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
        text = content.decode()
        booster = lightgbm.Booster(model_str=text)
        later = _later_format(text, booster)
    except (lightgbm.basic.LightGBMError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise ModelLoadError(
            f"model '{name}': {path}: LightGBM {lightgbm.__version__} cannot read it, perhaps it is damaged or of a "
            f"later version ({str(error).strip()})"
        ) from error
    if later:
        raise ModelLoadError(f"model '{name}': {path}: {later}")
    return booster


def _later_format(text: str, booster: lightgbm.Booster) -> str | None:
    """Why a file that LightGBM has read may mean something else: it reads whatever format a file says it has."""
    of_file = _FORMAT.search(text, 0, 64)
    of_library = _FORMAT.search(booster.model_to_string(num_iteration=1, start_iteration=0), 0, 64)
    if of_file is None or of_library is None or int(of_file[1]) <= int(of_library[1]):
        return None
    return (
        f"the file is of format v{of_file[1]}, but LightGBM {lightgbm.__version__} knows them up to v{of_library[1]}: "
        f"install the version that saved it, or serve it from an environment with that (parameters.environment_path)"
    )


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
    counts = dict(_COUNTS.findall(content, 0, place))
    for name, count in counts.items():
        if not count.isdigit() or not int(count):
            return f"the file is damaged: {name.decode()} is {count.decode(errors='replace')}"
    sizes = _SIZES.search(content, 0, place)  # of each tree; old files have none
    for number, size in enumerate(sizes[1].split() if sizes else ()):
        if not content.startswith(b"Tree=%d\n" % number, place):
            return f"the file is damaged: tree {number} is not where it should be"
        place += int(size)
    if place > len(content):
        return "the file is cut short: trees are missing"
    if sizes is None:
        return None
    trees, together = len(sizes[1].split()), int(counts.get(b"num_tree_per_iteration", 1))
    if trees % together:
        return f"the file is damaged: it holds {trees} trees, which is not a multiple of {together}"
    return _lacking_end(content, place)


def _lacking_end(content: bytes, place: int) -> str | None:
    """Why a file is not whole behind its trees, where its parameters and the categories of a frame's columns are."""
    cut_short = "the file is cut short: its end is missing, with the categories of its columns"
    categories = content.rfind(_CATEGORIES, place)
    if categories >= 0:
        try:
            json.loads(content[categories + len(_CATEGORIES) :])
        except ValueError:
            return cut_short
        return None
    if content.startswith(b"tree\nversion=v2\n") and content.find(b"end of trees", place) < 0:
        return None  # before LightGBM 2.2 nothing marked the end
    # Behind an empty line LightGBM's Python package writes categories; its own files, and those of R, end here.
    return None if content.removesuffix(b"\n").endswith(b"\nend of parameters") else cut_short


def _unpickle(path: str, name: str) -> Any:
    import joblib  # reads its own format and plain pickles, compressed or not

    try:
        with warnings_told(name, _logger):
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
