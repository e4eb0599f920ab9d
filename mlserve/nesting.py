"""How deep parameters may be nested on their way between server and worker.

How deep a decoder goes depends on the calls around it, and differs at the two ends: what one could write, the other
could not read.
"""

from __future__ import annotations

from typing import Any

__all__ = ["MOST_LEVELS", "is_too_deep"]

MOST_LEVELS = 200  # some encoders are Python, and take a few frames of its stack for each
_NESTS = (dict, list, tuple)


def is_too_deep(parameters: dict[str, Any] | None) -> bool:
    """Whether parameters have more levels than they may; also of those that hold themselves."""
    level = [value for value in dict.values(parameters) if isinstance(value, _NESTS)] if parameters else []
    for _ in range(MOST_LEVELS):
        if not level:
            return False
        level = [
            value
            for one in level
            for value in (one.values() if isinstance(one, dict) else one)
            if isinstance(value, _NESTS)
        ]
    return True
