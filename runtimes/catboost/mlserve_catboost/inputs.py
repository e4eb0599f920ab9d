"""What a request must be like for a CatBoost model: so many columns, those of a frame by name, categories and text."""

from __future__ import annotations

from typing import Any

from mlserve.errors import InferenceError
from mlserve.tabular import ColumnCheck

__all__ = ["InputCheck"]


class InputCheck(ColumnCheck):
    """Checks data against what the model was trained on, and gives it in the form that CatBoost takes."""

    def __init__(self, estimator: Any) -> None:
        names = [str(name) for name in estimator.feature_names_]
        # Trained on an array, the columns are named by their numbers: those are no names that a client would know.
        super().__init__(len(names), names if names != [str(at) for at in range(len(names))] else None)
        self.categorical = {names[at] for at in estimator.get_cat_feature_indices()}
        self.text = {names[at] for at in estimator.get_text_feature_indices()}
        if self.categorical or self.text:  # an array of objects or text may hold them
            self.kinds = "fiubOUS"

    def categories(self, frame: Any) -> Any:
        """CatBoost takes text, categories and whole numbers as they are, but nothing that is missing."""
        for name in frame.columns:
            if name in self.categorical or name in self.text:
                missing = frame[name].isna()
                if missing.any():
                    row = int(missing.to_numpy().argmax())
                    raise InferenceError(
                        f"column '{name}' holds categories or text, and is missing in row {row}: send a text that "
                        f"stands for missing, as in training"
                    )
        return frame
