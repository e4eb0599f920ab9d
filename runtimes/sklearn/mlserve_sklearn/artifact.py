"""Reads a saved estimator, and says in plain words what is wrong with a file that holds none."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from typing import Any

import sklearn

from mlserve.artifacts import explain_unpickling, foreign_kind
from mlserve.errors import ModelLoadError
from mlserve.settings import ModelSettings

__all__ = ["load_estimator"]

_logger = logging.getLogger("mlserve.sklearn")
_ZIP = b"PK\x03\x04"  # a skops file is a zip archive


def load_estimator(path: str, settings: ModelSettings, trusted: Iterable[str] = ()) -> Any:
    """The fitted estimator in a file; `trusted` names types that a skops file may hold beside scikit-learn's own.

    Whatever the file was saved with must be importable. Reading joblib and pickle runs code from the file; skops does
    not. ModelLoadError says why a file cannot be served.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator = _read(path, settings, trusted)
    for warning in caught:
        _tell(settings.name, warning)
    extra = settings.parameters.extra if settings.parameters is not None else {}
    _check(estimator, path, settings.name, str(extra.get("predict_fn")))
    return estimator


def _read(path: str, settings: ModelSettings, trusted: Iterable[str]) -> Any:
    with open(path, "rb") as file:
        head = file.read(64)
    wanted = settings.parameters.format if settings.parameters is not None else None
    if wanted == "skops" or (wanted is None and (path.endswith(".skops") or head.startswith(_ZIP))):
        return _read_skops(path, settings.name, trusted)
    import joblib  # reads its own format and plain pickles, compressed or not

    try:
        return joblib.load(path)
    except Exception as error:
        raise ModelLoadError(f"model '{settings.name}': {path}: {_explain(error, head)}") from error


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


def _explain(error: Exception, head: bytes) -> str:
    """Why a file could not be unpickled, and what helps."""
    foreign = foreign_kind(head, own=("pickle",))
    if foreign:
        return f"no scikit-learn model, but {foreign}"
    return explain_unpickling(error, f"scikit-learn {sklearn.__version__} is installed")


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


def _tell(name: str, warning: warnings.WarningMessage) -> None:
    """A warning of the load in the log; of the many that one old file gives, scikit-learn's text needs no advice."""
    message = warning.message
    saved_with = getattr(message, "original_sklearn_version", None)
    if saved_with is None:
        _logger.warning("model '%s': %s", name, message)
    elif (name, saved_with) not in _told:
        _told.add((name, saved_with))
        _logger.warning(
            "model '%s' was saved with scikit-learn %s and is served with %s: its answers may differ. Save it again, "
            "or serve it from an environment with that version (parameters.environment_path)",
            name,
            saved_with,
            sklearn.__version__,
        )


_told: set[tuple[str, str]] = set()  # one file gives the warning once for each estimator in it
