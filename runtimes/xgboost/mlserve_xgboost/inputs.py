"""What a request's data must be like for a model: so many columns, and those of a frame by name."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from mlserve.errors import InferenceError

__all__ = ["InputCheck"]


class InputCheck:
    """Checks data against what the model was trained on, and gives it in the form that XGBoost takes."""

    def __init__(self, booster: Any) -> None:
        self.count: int = booster.num_features()
        self.names: list[str] | None = list(booster.feature_names or ()) or None
        self.types: list[str] = list(booster.feature_types or ())
        # Trained on an array, a frame was made of it by numbers: those are no names that a client would know.
        if self.names == [f"f{at}" for at in range(self.count)]:
            self.names = None
        self._recodes = _has_categories(booster)

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
            raise InferenceError(f"the model takes numbers, got an array of {array.dtype}")
        return array

    def _frame(self, frame: Any) -> Any:
        if self.names is None:
            if frame.shape[1] != self.count:
                raise InferenceError(f"the model takes {self.count} columns, got {frame.shape[1]}")
            return self._array(frame.to_numpy())
        missing = [name for name in self.names if name not in frame.columns]
        if missing:
            told = ", ".join(f"'{name}'" for name in missing)
            raise InferenceError(f"columns are missing: {told}; the model was trained on {', '.join(self.names)}")
        frame = frame[self.names]
        text = [
            name for name, kind in zip(self.names, self.types) if kind == "c" and frame[name].dtype.kind not in "fiub"
        ]
        # Categories go by their text where the file has them; in older ones by their codes, which text cannot tell.
        return frame.astype(dict.fromkeys(text, "category")) if text and self._recodes else frame


def _has_categories(booster: Any) -> bool:
    """Whether the model's file says which texts its categories are (from XGBoost 3.1 on)."""
    if "c" not in (booster.feature_types or ()) or not hasattr(booster, "get_categories"):
        return False
    try:
        found = booster.get_categories(export_to_arrow=True).to_arrow()
    except (ImportError, TypeError, ValueError):  # pyarrow is not installed: the version that saved it tells
        return True
    return any(values is not None for _, values in found or ())
