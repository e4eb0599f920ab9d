"""How often one output may be asked for: each time it is sent in full, and asking costs some bytes only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mlserve.errors import InferenceError
from mlserve.types import RequestOutput

__all__ = ["check_repeated"]

_MOST_TIMES = 2  # as MLServer's clients can; for one that wants a value in two content types


def check_repeated(outputs: Sequence[RequestOutput]) -> None:
    """InferenceError for an output that is asked for more often than twice."""
    if len(outputs) <= _MOST_TIMES:
        return
    name, times = Counter(one.name for one in outputs).most_common(1)[0]
    if times > _MOST_TIMES:
        raise InferenceError(f"output '{name[:200]}' is asked for {times} times, {_MOST_TIMES} times at most can be")
