"""What a request must be like for a LightGBM model: so many columns, those of a frame by name, and categories."""

from __future__ import annotations

import warnings
from typing import Any

from mlserve.tabular import ColumnCheck

__all__ = ["InputCheck"]


class InputCheck(ColumnCheck):
    """Checks data against what the model was trained on, and gives it in the form that LightGBM takes."""

    def __init__(self, booster: Any) -> None:
        count: int = booster.num_feature()
        names: list[str] = booster.feature_name()
        # Trained on an array, the columns are named by LightGBM: those are no names that a client would know.
        super().__init__(count, names if names != [f"Column_{at}" for at in range(count)] else None)
        self.has_categories = bool(booster.pandas_categorical)
        # An array for an estimator that was fitted on a frame is what most clients send: its columns go by position.
        warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)

    def spelled(self, column: str) -> str:
        """A column's name as LightGBM writes it to its files."""
        return column.replace(" ", "_")

    def categories(self, frame: Any) -> Any:
        """Text as categories: which there are, the model knows; which columns they are in, only their type can tell."""
        if not self.has_categories:
            return frame
        text = [name for name in frame.columns if frame[name].dtype.kind not in "fiub"]
        return frame.astype(dict.fromkeys(text, "category"))
