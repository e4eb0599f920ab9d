"""The time that a caller gives in the header X-Request-Timeout."""

from __future__ import annotations

import math

from mlserve.errors import InvalidRequest

TIMEOUT_HEADER = "x-request-timeout"


def header_seconds(text: str | None) -> float | None:
    """The time that a caller gives in the header; None for no header. InvalidRequest if it is no time."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds < math.inf:
        raise InvalidRequest(f"header X-Request-Timeout: expected seconds above 0, such as 0.3, got {text!r}")
    return seconds
