"""The categories of a feature as a model's file names them, and a column of a request as such categories."""

from __future__ import annotations

import json
from collections.abc import Hashable
from itertools import pairwise
from typing import Any

import numpy as np

from mlserve.errors import InferenceError

__all__ = ["Categories", "categories_of"]

# How a file calls the integers that categories are. XGBoost knows them only as the integers that they were in training.
_INTEGERS = {
    9: "int8", 10: "uint8", 11: "int16", 12: "uint16", 13: "int32", 14: "uint32", 15: "int64", 16: "uint64",
}  # fmt: skip


class Categories:
    """What one feature can be. XGBoost itself takes text that it does not know for a category that begins like it."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self._values = values
        self._known = frozenset(values.tolist())
        self.are_numbers = values.dtype.kind != "O"

    def of(self, column: Any) -> Any:
        """A column of a frame as categories, None and NaN as missing. InferenceError for what is none of them."""
        import pandas as pd

        missing = column.isna().to_numpy()
        present = column.to_numpy()[~missing]
        wrong = ~np.array([isinstance(one, Hashable) and one in self._known for one in present.tolist()], bool)
        if wrong.any():
            row = int(np.flatnonzero(~missing)[wrong.argmax()])
            raise InferenceError(
                f"column '{column.name}' holds categories that are {'whole numbers' if self.are_numbers else 'text'}, "
                f"of which {str(present[wrong.argmax()])[:80]} in row {row} was none in training"
            )
        used, places = np.unique(present.astype(self._values.dtype), return_inverse=True)
        if not len(used):  # the type of the categories matters also where all are missing
            used = self._values
        codes = np.full(len(column), -1)
        codes[~missing] = places
        return pd.Series(pd.Categorical.from_codes(codes, used), index=column.index)


def categories_of(booster: Any) -> list[Categories | None]:
    """The categories of each feature, None where the model does not name them; empty if it names none."""
    model = bytes(booster.save_raw("json"))
    begin, end = model.find(b'"enc":[{'), model.find(b',"feature_segments"')
    return [_read(one) for one in json.loads(model[begin + 6 : end])] if 0 <= begin < end else []


def _read(written: dict[str, Any]) -> Categories | None:
    if written.get("type") in _INTEGERS:
        return Categories(np.array(written["values"], _INTEGERS[written["type"]]))
    if "offsets" not in written:
        return None
    text = bytes(one % 256 for one in written["values"])
    # XGBoost counts letters where it means bytes: of others than ASCII a file has neither all nor where each ends.
    if not text.isascii():
        return None
    names = [text[begin:end].decode() for begin, end in pairwise(written["offsets"])]
    return Categories(np.array(names, object))
