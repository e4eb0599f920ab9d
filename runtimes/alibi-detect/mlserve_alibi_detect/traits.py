"""What a detector says of itself: how it takes rows, what they are like, and how many a test may have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = [
    "computes_in_one_type",
    "default_most_rows",
    "has_step",
    "nested",
    "reference",
    "remembers",
    "rows_like",
    "takes_rows",
]

_BACKENDS = ("pytorch", "tensorflow", "keops")
_MOST_COMPARED = 5000  # a minute of one core for MMDDrift with 100 permutations
_MOST_ONLINE = 1000  # about a second for MMDDriftOnline, in which the worker answers nobody else


def nested(detector: Any) -> Iterator[Any]:
    """A detector and those that it wraps."""
    while detector is not None:
        yield detector
        detector = getattr(detector, "_detector", None)


def takes_rows(detector: Any) -> bool:
    """Whether it takes one row after the other, as online drift detectors do. Outlier detectors that call themselves
    online (Mahalanobis, SpectralResidual) take all rows of a request together."""
    return bool(detector.meta.get("online")) and detector.meta.get("detector_type") == "drift"


def remembers(detector: Any) -> bool:
    """Whether what it answers hangs on rows of requests before."""
    from alibi_detect.od import Mahalanobis

    renews = any(getattr(one, "update_x_ref", None) for one in nested(detector))
    return takes_rows(detector) or renews or isinstance(detector, Mahalanobis)


def default_most_rows(detector: Any) -> int | None:
    """The most rows of one request, where the settings do not say; None where many rows cost little more than reading
    them, as with outlier detectors and drift detectors that look at each column by itself."""
    if takes_rows(detector):
        return _MOST_ONLINE
    if detector.meta.get("detector_type") != "drift":
        return None
    from alibi_detect.cd.base import BaseUnivariateDrift

    is_by_column = any(isinstance(one, BaseUnivariateDrift) for one in nested(detector))
    return None if is_by_column else _MOST_COMPARED


def rows_like(detector: Any) -> np.ndarray[Any, Any] | None:
    """An array without rows, of the kind that it takes; None if the detector does not say, or changes rows before it
    compares them."""
    forest = getattr(detector, "isolationforest", None)
    if forest is not None and hasattr(forest, "n_features_in_"):
        return np.empty((0, forest.n_features_in_))
    known = reference(detector)
    return known[:0] if known is not None and known.dtype != object and not has_step(detector) else None


def has_step(detector: Any) -> bool:
    """Whether it changes rows before it compares them."""
    return any(getattr(one, "preprocess_fn", None) is not None for one in nested(detector))


def computes_in_one_type(detector: Any) -> bool:
    """Whether its backend refuses numbers of another type than those of its reference data."""
    return detector.meta.get("backend") in _BACKENDS


def reference(detector: Any) -> np.ndarray[Any, Any] | None:
    """The data that it compares with, if they are an array."""
    found: Any = next((one.x_ref for one in nested(detector) if hasattr(one, "x_ref")), None)
    if hasattr(found, "cpu"):  # online detectors have a tensor of their backend
        found = np.asarray(found.cpu())
    return found if isinstance(found, np.ndarray) else None
