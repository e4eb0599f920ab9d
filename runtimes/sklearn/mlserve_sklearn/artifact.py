"""Reads a saved estimator, and says in plain words what is wrong with a file that holds none."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sklearn

from mlserve.artifacts import explain_unpickling, foreign_kind, warnings_told
from mlserve.errors import ModelLoadError
from mlserve.settings import ModelSettings

__all__ = ["load_estimator"]

_logger = logging.getLogger("mlserve.sklearn")
_ZIP = b"PK\x03\x04"  # a skops file is a zip archive


def load_estimator(path: str, settings: ModelSettings, trusted: Iterable[str] = ()) -> tuple[Any, set[str]]:
    """The fitted estimator in a file, and with which other versions of scikit-learn it was saved, as far as it tells.

    `trusted` names types that a skops file may hold beside scikit-learn's own. Whatever the file was saved with must be
    importable. Reading joblib and pickle runs code from the file; skops does not. ModelLoadError says why a file cannot
    be served.
    """
    with warnings_told(settings.name, _logger) as versions:
        estimator = _read(path, settings, trusted)
    extra = settings.parameters.extra if settings.parameters is not None else {}
    _check(estimator, path, settings.name, str(extra.get("predict_fn")))
    return estimator, versions


def _read(path: str, settings: ModelSettings, trusted: Iterable[str]) -> Any:
    with open(path, "rb") as file:
        head = file.read(64)
    wanted = settings.parameters.format if settings.parameters is not None else None
    if wanted == "skops" or (wanted is None and (path.endswith(".skops") or head.startswith(_ZIP))):
        if head.startswith(_ZIP):
            _check_zip(path, settings.name)
        return _read_skops(path, settings.name, trusted)
    import joblib  # reads its own format and plain pickles, compressed or not

    try:
        return joblib.load(path)
    except Exception as error:
        raise ModelLoadError(f"model '{settings.name}': {path}: {_explain(error, head, path)}") from error


def _check_zip(path: str, name: str) -> None:
    """ModelLoadError for a zip archive that is no skops file, but holds a model of another framework or anything."""
    try:
        with zipfile.ZipFile(path) as archive:
            inside = set(archive.namelist())
    except zipfile.BadZipFile as error:
        raise ModelLoadError(
            f"model '{name}': {path} begins as a zip archive, such as skops writes, but is damaged or cut short"
        ) from error
    if "schema.json" not in inside:
        found = "a zip archive without the schema.json that skops writes"
        if any(one.endswith((".data/serialization_id", "/data.pkl", "/models/model.json")) for one in inside):
            found = "a PyTorch file: its runtime is 'torch'"
        elif "model.weights.h5" in inside:
            found = "a Keras model"
        elif inside and all(one.endswith(".npy") for one in inside):
            found = "numpy arrays"
        raise ModelLoadError(f"model '{name}': {path}: no scikit-learn model, but {found}")


def _read_skops(path: str, name: str, trusted: Iterable[str]) -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise ModelLoadError(f"model '{name}': {path} is a skops file: pip install mlserve-sklearn[skops]") from error
    try:
        unknown = set(skops.io.get_untrusted_types(file=path))
        accepted = sorted(unknown & set(trusted))
        refused = sorted(unknown - set(trusted))
        if not refused:
            return skops.io.load(path, trusted=accepted)
    except Exception as error:
        raise ModelLoadError(f"model '{name}': {path} cannot be read as a skops file: {error}") from error
    raise ModelLoadError(
        f"model '{name}': {path} holds types that skops does not know as safe: {', '.join(refused)}. "
        f"If you trust them, list them in parameters.extra.trusted"
    )


def _explain(error: Exception, head: bytes, path: str) -> str:
    """Why a file could not be unpickled, and what helps."""
    foreign = foreign_kind(head, own=("pickle",))
    if foreign:
        return f"no scikit-learn model, but {foreign}"
    return explain_unpickling(error, f"{_saved_with(path)}scikit-learn {sklearn.__version__} is installed")


# In any protocol of pickle there are some bytes between the name of an attribute and its text.
_VERSION = re.compile(rb"_sklearn_version.{1,12}?(\d+\.\d+[\w.]*)", re.DOTALL)


def _saved_with(path: str) -> str:
    """The version that a file names, in words, unless the installed one did it; nothing of one that is compressed."""
    found = _VERSION.search(Path(path).read_bytes())
    version = found[1].decode() if found is not None else sklearn.__version__
    return "" if version == sklearn.__version__ else f"the file names scikit-learn {version}, and "


# scikit-learn before 1.6 calls these unfitted for ever, though they learn nothing or answer without it.
_WORKS_UNFITTED = {
    "AdditiveChi2Sampler",
    "Binarizer",
    "FeatureHasher",
    "FunctionTransformer",
    "GaussianProcessRegressor",
    "HashingVectorizer",
    "Normalizer",
    "PatchExtractor",
    "SparseCoder",
}


def _check(estimator: Any, path: str, name: str, method: str) -> None:
    """ModelLoadError for what cannot answer anything: it has neither one of the usual methods nor the one named."""
    kind = type(estimator).__name__
    if isinstance(estimator, type):
        raise ModelLoadError(f"model '{name}': {path} holds the class {estimator.__name__}, not a fitted object of it")
    if not any(callable(getattr(estimator, one, None)) for one in ("predict", "transform", "score_samples", method)):
        raise ModelLoadError(
            f"model '{name}': {path} holds an object of type {kind}, which has neither predict nor transform"
        )
    if type(estimator).__module__.startswith("sklearn.") and kind not in _WORKS_UNFITTED:
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import check_is_fitted

        try:
            check_is_fitted(estimator)
        except NotFittedError:
            raise ModelLoadError(f"model '{name}': {path} holds a {kind} that is not fitted") from None
        except TypeError:
            pass  # not meant to be fitted
