"""What a request must be like for a CatBoost model: so many columns, their categories, text and embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlserve.errors import InferenceError
from mlserve.tabular import Array, ColumnCheck
from mlserve_catboost.vectors import vectors_of

__all__ = ["InputCheck"]


class InputCheck(ColumnCheck):
    """Checks data against what the model was trained on, and gives it in the form that CatBoost takes.

    `widths` has how many numbers an embedding has, by the number of its column; None where it does not matter.
    """

    def __init__(self, estimator: Any, widths: Mapping[int, int | None]) -> None:
        names = [str(name) for name in estimator.feature_names_]
        # Trained on an array, the columns are named by their numbers, which a client need not know.
        has_names = names != [str(at) for at in range(len(names))]
        super().__init__(len(names), names if has_names else None, given=names)
        self.categorical = {names[at] for at in estimator.get_cat_feature_indices()}
        self.text = {names[at] for at in estimator.get_text_feature_indices()}
        self.embeddings = {names[at]: width for at, width in widths.items()}
        self._places = {names[at]: at for at in widths}
        if self.categorical or self.text:  # an array of objects or text may hold them
            self.kinds = "fiubOUS"

    def array(self, array: Array) -> Any:
        """An array as the model takes it, its embeddings checked."""
        array = super().array(array)
        if not self.embeddings:
            return array
        objects = array.astype(object)
        for name, at in self._places.items():
            objects[:, at] = vectors_of(objects[:, at], name, self.embeddings[name])
        return objects

    def frame(self, frame: Any) -> Any:
        """A frame with the model's columns. By position it becomes an array, in which whole numbers must stay so."""
        if self.names is None and (self.categorical or self.text or self.embeddings):
            frame = frame.astype(object)
        return super().frame(frame)

    def categories(self, frame: Any) -> Any:
        """CatBoost takes text, categories and whole numbers as they are, but nothing that is missing; embeddings are
        checked, since it does not do so itself."""
        import pandas as pd

        vectors = {}
        for name in frame.columns:
            if name in self.categorical or name in self.text:
                missing = frame[name].isna()
                if missing.any():
                    row = int(missing.to_numpy().argmax())
                    raise InferenceError(
                        f"column '{name}' holds categories or text, and is missing in row {row}: send a text that "
                        f"stands for missing, as in training"
                    )
            elif name in self.embeddings:
                found = vectors_of(frame[name].to_numpy(), name, self.embeddings[name])
                vectors[name] = pd.Series(found, index=frame.index, dtype=object)
        return frame.assign(**vectors) if vectors else frame
