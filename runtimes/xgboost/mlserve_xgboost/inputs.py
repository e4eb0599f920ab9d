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
        self._knows_categories = _knows_categories(booster)

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
        missing = [name for name in self.names if name not in frame.columns]
        if missing:
            told = ", ".join(f"'{name}'" for name in missing)
            raise InferenceError(f"columns are missing: {told}; the model was trained on {', '.join(self.names)}")
        frame = frame[self.names]
        text = [
            name for name, kind in zip(self.names, self.types) if kind == "c" and frame[name].dtype.kind not in "fiub"
        ]
        if text and not self._knows_categories:  # XGBoost would number the texts of this one request
            told = ", ".join(f"'{name}'" for name in text)
            raise InferenceError(
                f"columns {told} are text, but the model's file does not name its categories (files do from "
                f"XGBoost 3.1 on): send one tensor with the categories' numbers"
            )
        return frame.astype(dict.fromkeys(text, "category")) if text else frame


def _knows_categories(booster: Any) -> bool:
    """Whether the model's file says which texts its categories are, as those of XGBoost 3.1 and later do."""
    return "c" in (booster.feature_types or ()) and b'"enc":[{' in bytes(booster.save_raw("json"))
