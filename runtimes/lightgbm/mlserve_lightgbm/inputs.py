"""What a request's data must be like for a model: so many columns, and those of a frame by name."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np

from mlserve.errors import InferenceError

__all__ = ["InputCheck"]


class InputCheck:
    """Checks data against what the model was trained on, and gives it in the form that LightGBM takes."""

    def __init__(self, booster: Any) -> None:
        self.count: int = booster.num_feature()
        self.names: list[str] | None = booster.feature_name()
        if self.names == [f"Column_{at}" for at in range(self.count)]:  # trained on an array
            self.names = None
        self.has_categories = bool(booster.pandas_categorical)
        # An array for an estimator that was fitted on a frame is what most clients send: its columns go by position.
        warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)

    def __call__(self, data: Any) -> Any:
        if isinstance(data, np.ndarray):
            return self._array(data)
        pandas = sys.modules.get("pandas")
        if pandas is not None and isinstance(data, pandas.DataFrame):
            return self._frame(data)
        kind = type(data).__name__
        raise InferenceError(
            f"the model takes a tensor of numbers or a data frame (content types np, pd), got a {kind}"
        )

    def _array(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if array.ndim != 2 or array.shape[1] != self.count:
            raise InferenceError(f"the model takes an array of shape [rows, {self.count}], got {list(array.shape)}")
        if array.dtype.kind not in "fiubO":
            kind = "text" if array.dtype.kind in "SU" else f"an array of {array.dtype}"
            raise InferenceError(f"the model takes numbers, got {kind}")
        return array

    def _frame(self, frame: Any) -> Any:
        if self.names is None:
            if frame.shape[1] != self.count:
                raise InferenceError(f"the model takes {self.count} columns, got {frame.shape[1]}")
            return self._array(frame.to_numpy())
        spelled = {str(name).replace(" ", "_"): name for name in frame.columns}  # as LightGBM writes them to its files
        missing = [name for name in self.names if name not in spelled]
        if missing:
            told = ", ".join(f"'{name}'" for name in missing)
            raise InferenceError(f"columns are missing: {told}; the model was trained on {', '.join(self.names)}")
        frame = frame[[spelled[name] for name in self.names]]
        if not self.has_categories:
            return frame
        # Which categories there are, the model knows; which columns they are in, only their type can tell.
        text = [name for name in frame.columns if frame[name].dtype.kind not in "fiub"]
        return frame.astype(dict.fromkeys(text, "category"))
