"""When a failed call may be sent again, and after which pause."""

from __future__ import annotations

import random

from mlserve.client.faults import ClientError, Unavailable
from mlserve.errors import MLServeError, Overloaded

__all__ = ["pause_before_retry"]

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


def pause_before_retry(error: MLServeError, tries: int, retries: int) -> float | None:
    """The seconds to wait before the next try, after `tries` of them; None if there must not be one.

    A call is sent again only if it cannot have reached a model (no connection; the server was asked something), or if
    the server itself says that it may be: 429, and 503 with Retry-After; RESOURCE_EXHAUSTED and UNAVAILABLE. The pause
    doubles, with a random part so that clients do not come back all at once, and is never shorter than asked for.
    """
    if tries > retries:
        return None
    asked: float | None = None
    if isinstance(error, ClientError):
        asked = None if error.arrived else 0.0
    elif isinstance(error, Unavailable | Overloaded):
        asked = error.retry_after_seconds
    if asked is None:
        return None
    pause = min(_FIRST_PAUSE_SECONDS * 2.0 ** (tries - 1), _LONGEST_PAUSE_SECONDS)
    return max(asked, pause * random.uniform(0.5, 1.0))
