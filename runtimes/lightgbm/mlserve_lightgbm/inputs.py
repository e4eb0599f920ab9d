"""What a request must be like for a LightGBM model: so many columns, those of a frame by name, and categories."""

from __future__ import annotations

import warnings
from typing import Any

from mlserve.errors import InferenceError
from mlserve.tabular import ColumnCheck
from mlserve_lightgbm.categories import Categories, categories_by_column

__all__ = ["InputCheck"]


class InputCheck(ColumnCheck):
    """Checks data against what the model was trained on, and gives it in the form that LightGBM takes."""

    def __init__(self, booster: Any) -> None:
        count: int = booster.num_feature()
        names: list[str] = booster.feature_name()
        lists = [Categories(values) for values in booster.pandas_categorical or ()]
        # Trained on an array, the columns are named by LightGBM: those are no names that a client would know.
        has_names = bool(lists) or names != [f"Column_{at}" for at in range(count)]
        super().__init__(count, names if has_names else None)
        self.known = categories_by_column(booster) if lists else {}  # None: the model's text hides which columns
        self._texts = len(lists) if all(one.kind == "text" for one in lists) else None
        self._lists = lists
        # An array for an estimator that was fitted on a frame is what most clients send: its columns go by position.
        warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)

    def spelled(self, column: str) -> str:
        """A column's name as LightGBM writes it to its files."""
        return column.replace(" ", "_")

    def categories(self, frame: Any) -> Any:
        """Columns that were categories in training as such; InferenceError if it cannot be told which they were."""
        if self.known is None:
            return self._texts_as_categories(frame)
        known = self.known
        found = {
            column: known[name].of(frame[column])
            for name, column in zip(self.names or (), frame.columns, strict=True)
            if name in known
        }
        return frame.assign(**found) if found else frame

    def _texts_as_categories(self, frame: Any) -> Any:
        """Only text can have been categories of text; of numbers there is no saying whether they were numbers."""
        texts = [name for name in frame.columns if frame[name].dtype.kind not in "fiub"]
        if self._texts is None:
            raise InferenceError(
                "the model was trained on categories that are not text, but its file does not tell which columns they "
                "are: send one tensor with the categories' positions in the order of training"
            )
        if len(texts) != self._texts:
            told = ", ".join(f"'{name}'" for name in texts) or "none"
            raise InferenceError(
                f"{self._texts} columns were categories of text in training, but {told} of these are text; send one "
                f"tensor with the categories' positions if some are missing in all rows"
            )
        found = {name: one.of(frame[name]) for name, one in zip(texts, self._lists, strict=True)}
        return frame.assign(**found)
