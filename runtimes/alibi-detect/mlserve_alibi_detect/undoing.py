"""Takes back what a failed call has changed in a detector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlserve_alibi_detect.traits import nested

__all__ = ["undone_on_failure"]


@contextmanager
def undone_on_failure(detector: Any) -> Iterator[None]:
    """If the block fails, the detector knows what it knew before.

    By its attributes, which is enough: what a detector learns of data is a new value of one, none is changed in place.
    """
    before = [(one, dict(vars(one))) for one in nested(detector)]
    try:
        yield
    except BaseException:
        for one, attributes in before:
            vars(one).clear()
            vars(one).update(attributes)
        raise
