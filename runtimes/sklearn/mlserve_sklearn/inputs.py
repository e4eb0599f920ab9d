"""What a request's data must be like for an estimator, and whose fault it is when the estimator refuses it."""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import Any

import numpy as np

from mlserve.codecs import PandasCodec
from mlserve.errors import InferenceError
from mlserve.tabular import ColumnCheck
from mlserve_sklearn.columns import first_step, used_columns

__all__ = ["InputCheck", "is_about_input", "is_library_error", "is_of_another_version"]

Array = np.ndarray[Any, Any]

_LIBRARIES = frozenset(
    {
        "_catboost", "catboost", "category_encoders", "feature_engine", "imblearn", "joblib", "lightgbm", "narwhals",
        "numpy", "pandas", "polars", "pyarrow", "scipy", "sklearn", "threadpoolctl", "xgboost",
    }
)  # fmt: skip
_LIBRARY_ERRORS = frozenset({"_catboost.CatBoostError", "lightgbm.basic.LightGBMError"})
_METHODS = frozenset({"decision_function", "fit", "get_params", "predict", "predict_proba", "transform"})
_OURS = frozenset({"mlserve", "mlserve_sklearn"})


class InputCheck(ColumnCheck):
    """Checks data against what the estimator was fitted on, and gives it in the form that the estimator likes best.

    Only what it knows for sure: text, lists and sparse data pass as they are.
    """

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator
        self._knows_count = hasattr(estimator, "n_features_in_")
        super().__init__(getattr(estimator, "n_features_in_", -1), _names(estimator))
        # An array for an estimator that was fitted on a frame is what most clients send: its columns go by position.
        warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)

    def __call__(self, data: Any) -> Any:
        return super().__call__(data) if isinstance(data, np.ndarray) or PandasCodec.can_encode(data) else data

    def array(self, array: Array) -> Array:
        """An array with so many columns, of any type."""
        if self._knows_count and (array.ndim != 2 or array.shape[1] != self.count):
            raise InferenceError(f"the model takes an array of shape [rows, {self.count}], got {list(array.shape)}")
        return array

    def frame(self, frame: Any) -> Any:
        """A frame with the estimator's columns as it was fitted on them, and no others.

        InferenceError for one that lacks some, unless scikit-learn judges by name which it needs.
        """
        if self.names is None:
            # Fitted without names, it would only warn of these ones.
            return super().frame(frame) if self._knows_count else frame
        there = list(frame.columns)
        if there == self.names:
            return frame
        sent = set(there)
        known = [name for name in self.names if name in sent]
        if len(known) < len(self.names) and not self._may_lack(are_all_known=len(known) == len(there)):
            raise InferenceError(self.lacking(self.missing(frame)))
        return frame[known]

    def _may_lack(self, are_all_known: bool) -> bool:
        """Whether the first step picks the columns that it needs, or is scikit-learn's own and may.

        A function may look at places, not names: so beside a column that nobody knows, one that lacks is misspelt.
        """
        if used_columns(self._estimator) is not None:
            return True
        return are_all_known and type(first_step(self._estimator)).__module__.startswith("sklearn.")

    def lacking(self, missing: list[str]) -> str:
        """What is said of columns that a frame lacks."""
        told = ", ".join(f"'{name}'" for name in missing)
        return f"columns are missing: {told}; the model was trained on {', '.join(self.names or ())}"

    def missing(self, data: Any) -> list[str]:
        """The columns that a frame lacks of those that the estimator uses; none for anything else."""
        if self.names is None or not PandasCodec.can_encode(data):
            return []
        there = {str(column) for column in data.columns}
        return [name for name in used_columns(self._estimator) or self.names if name not in there]


def _names(estimator: Any) -> list[str] | None:
    """The columns that the estimator was fitted on; None if they had no names."""
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]


def is_about_input(error: BaseException) -> bool:
    """Whether an estimator's error tells of the data: it comes out of a library's own code.

    An error out of anybody else's code, such as that of a custom transformer, is the model's.
    """
    if _is_unfitted(error) or (isinstance(error, AttributeError) and not _is_lacked_by_data(error)):
        return False
    return _is_out_of_libraries(error)


def is_library_error(error: BaseException) -> bool:
    """Whether it is of a class that a library has for what it refuses, beside the usual ones."""
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}" in _LIBRARY_ERRORS


def is_of_another_version(error: BaseException) -> bool:
    """Whether a library's code misses something on an estimator, which another version of it has saved."""
    if not isinstance(error, AttributeError) or error.name is None or _is_lacked_by_data(error):
        return False
    package = type(error.obj).__module__.partition(".")[0]
    return package in _LIBRARIES | {"builtins"} and _is_out_of_libraries(error)


def _is_out_of_libraries(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and _package_of(trace) in _OURS:  # the frames that called it
        trace = trace.tb_next
    while trace is not None:
        if _package_of(trace) not in _LIBRARIES:
            return False
        trace = trace.tb_next
    return True  # also where compiled code raised it at once


def _is_lacked_by_data(error: AttributeError) -> bool:
    """Whether a value has no such attribute; an estimator that lacks one is of another version of its library.

    So is a text or None that stands where an estimator should: of a ColumnTransformer's "passthrough", for example.
    """
    package = type(error.obj).__module__.partition(".")[0]
    return error.name is not None and error.name not in _METHODS and package in ("builtins", "numpy", "pandas")


def _package_of(trace: TracebackType) -> str:
    name: str = trace.tb_frame.f_globals.get("__name__") or ""
    return name.partition(".")[0]


def _is_unfitted(error: BaseException) -> bool:
    from sklearn.exceptions import NotFittedError

    return isinstance(error, NotFittedError)
