"""What a request's data must be like for an estimator, and whose fault it is when the estimator refuses it."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np

from mlserve.errors import InferenceError

__all__ = ["InputCheck", "is_about_input"]

_LIBRARIES = frozenset({"joblib", "numpy", "pandas", "scipy", "sklearn", "threadpoolctl"})


class InputCheck:
    """Checks data against what the estimator was fitted on, and gives it in the form that the estimator likes best.

    Only what it knows for sure: text, lists and sparse data pass as they are.
    """

    def __init__(self, estimator: Any) -> None:
        self._columns = _names(estimator)
        self._count: int | None = getattr(estimator, "n_features_in_", None)
        self._known = frozenset(self._columns or ())
        # An array for an estimator that was fitted on a frame is what most clients send: its columns go by position.
        warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)

    def __call__(self, data: Any) -> Any:
        if isinstance(data, np.ndarray):
            return self._array(data)
        pandas = sys.modules.get("pandas")
        if pandas is not None and isinstance(data, pandas.DataFrame):
            return self._frame(data)
        return data

    def _array(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self._count is not None and (array.ndim != 2 or array.shape[1] != self._count):
            raise InferenceError(f"the model takes an array of shape [rows, {self._count}], got {list(array.shape)}")
        return array

    def _frame(self, frame: Any) -> Any:
        if self._columns is None:
            if self._count is not None and frame.shape[1] != self._count:
                raise InferenceError(f"the model takes {self._count} columns, got {frame.shape[1]}")
            # Fitted without names, it would only warn of these ones.
            return frame.to_numpy() if self._count is not None else frame
        missing = self._known.difference(frame.columns)
        if missing:
            told = ", ".join(f"'{name}'" for name in self._columns if name in missing)
            raise InferenceError(f"columns are missing: {told}; the model was fitted on {', '.join(self._columns)}")
        return frame


def _names(estimator: Any) -> list[str] | None:
    """The columns that the estimator was fitted on; None if they had no names."""
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]


def is_about_input(error: BaseException) -> bool:
    """Whether an estimator's error tells of the data: it comes out of a library's own code.

    An error out of anybody else's code, such as that of a custom transformer, is the model's.
    """
    if _is_unfitted(error):
        return False
    trace = error.__traceback__
    trace = trace.tb_next if trace is not None else None  # the frame that caught it is ours
    if trace is None:
        return True  # raised by compiled code at once
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__") or ""
        if name.partition(".")[0] not in _LIBRARIES:
            return False
        trace = trace.tb_next
    return True


def _is_unfitted(error: BaseException) -> bool:
    from sklearn.exceptions import NotFittedError

    return isinstance(error, NotFittedError)
