"""What a request must be like for an XGBoost model: so many columns, those of a frame by name, and categories."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

import numpy as np

from mlserve.errors import InferenceError
from mlserve.tabular import ColumnCheck

__all__ = ["InputCheck"]

# How a file calls the integers that categories are. XGBoost knows them only as the integers that they were in training.
_INTEGERS = {
    9: "int8", 10: "uint8", 11: "int16", 12: "uint16", 13: "int32", 14: "uint32", 15: "int64", 16: "uint64",
}  # fmt: skip


class InputCheck(ColumnCheck):
    """Checks data against what the model was trained on, and gives it in the form that XGBoost takes."""

    def __init__(self, booster: Any) -> None:
        count: int = booster.num_features()
        names = list(booster.feature_names or ())
        # Trained on an array, a frame was made of it by numbers: those are no names that a client would know.
        super().__init__(count, names if names and names != [f"f{at}" for at in range(count)] else None)
        types = list(booster.feature_types or ())
        self.categorical = {name for name, kind in zip(names, types) if kind == "c"}
        categories = _categories(bytes(booster.save_raw("json"))) if "c" in types else []
        self._knows_categories = bool(categories)
        self.numbered = {
            name: np.array(one["values"], _INTEGERS[one["type"]])
            for name, one in zip(names, categories)
            if name in self.categorical and one.get("type") in _INTEGERS
        }

    def categories(self, frame: Any) -> Any:
        """Text and whole numbers as categories, if the model's file says which they are, as those of XGBoost 3.1 and
        later do."""
        text = [
            name
            for name in frame.columns
            if name in self.categorical and name not in self.numbered and frame[name].dtype.kind not in "fiub"
        ]
        if text and not self._knows_categories:  # XGBoost would number the texts of this one request
            told = ", ".join(f"'{name}'" for name in text)
            raise InferenceError(
                f"columns {told} are text, but the model's file does not name its categories (files do from "
                f"XGBoost 3.1 on): send one tensor with the categories' numbers"
            )
        numbers = {name: _numbers(frame[name], of) for name, of in self.numbered.items() if name in frame.columns}
        return frame.astype(dict.fromkeys(text, "category")).assign(**numbers) if text or numbers else frame


def _categories(model: bytes) -> list[dict[str, Any]]:
    """What a file, written as JSON, says of each feature's categories; empty if it does not name them."""
    begin, end = model.find(b'"enc":[{'), model.find(b',"feature_segments"')
    found: list[dict[str, Any]] = json.loads(model[begin + 6 : end]) if 0 <= begin < end else []
    return found


def _numbers(column: Any, known: np.ndarray[Any, Any]) -> Any:
    """A column as categories, of those that the model knows. InferenceError for what is none of them."""
    import pandas as pd

    missing = column.isna().to_numpy()
    present = column.to_numpy()[~missing]
    known_values = frozenset(known.tolist())
    wrong = ~np.array([isinstance(one, Hashable) and one in known_values for one in present.tolist()], bool)
    if wrong.any():
        row = int(np.flatnonzero(~missing)[wrong.argmax()])
        raise InferenceError(
            f"column '{column.name}' holds categories that are whole numbers, of which "
            f"{present[wrong.argmax()]} in row {row} was none in training"
        )
    used, places = np.unique(present.astype(known.dtype), return_inverse=True)
    if not len(used):  # the type of the categories matters also where all are missing
        used = known
    codes = np.full(len(column), -1)
    codes[~missing] = places
    return pd.Series(pd.Categorical.from_codes(codes, used), index=column.index)
