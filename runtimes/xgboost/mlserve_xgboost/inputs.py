"""What a request must be like for an XGBoost model: so many columns, those of a frame by name, and categories."""

from __future__ import annotations

from typing import Any

from mlserve.errors import InferenceError
from mlserve.tabular import ColumnCheck
from mlserve_xgboost.categories import Categories, categories_of

__all__ = ["InputCheck"]


class InputCheck(ColumnCheck):
    """Checks data against what the model was trained on, and gives it in the form that XGBoost takes."""

    def __init__(self, booster: Any) -> None:
        count: int = booster.num_features()
        names = list(booster.feature_names or ())
        super().__init__(count, names or None)
        types = list(booster.feature_types or ())
        self.categorical = {name for name, kind in zip(names, types) if kind == "c"}
        self.known: dict[str, Categories] = {}
        for name, found in zip(names, categories_of(booster) if self.categorical else ()):
            if name in self.categorical and found is not None:
                self.known[name] = found
        self.numbered = {name for name, one in self.known.items() if one.are_numbers}

    def categories(self, frame: Any) -> Any:
        """Text and whole numbers as categories, if the model's file says which they are, as those of XGBoost 3.1 and
        later do."""
        texts = [name for name in frame.columns if frame[name].dtype.kind not in "fiub"]
        numbers = [name for name in texts if name not in self.categorical]
        if numbers:
            raise InferenceError(f"columns {_told(numbers)} are no numbers, which the model was trained on")
        unknown = [name for name in texts if name not in self.known]
        if unknown:  # XGBoost would number the texts of this one request
            raise InferenceError(
                f"columns {_told(unknown)} are text, but the model's file does not name its categories (files do from "
                f"XGBoost 3.1 on, if they are ASCII): send one tensor with the categories' numbers"
            )
        known = {name: one.of(frame[name]) for name, one in self.known.items() if name in frame.columns}
        return frame.assign(**known) if known else frame


def _told(columns: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in columns)
