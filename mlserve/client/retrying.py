"""When a failed call may be sent again, and after which pause."""

from __future__ import annotations

import random

from mlserve.client.faults import ClientError, Unavailable
from mlserve.errors import MLServeError, Overloaded

__all__ = ["pause_before_retry"]

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


def pause_before_retry(error: MLServeError, tries: int, retries: int, *, may_run_twice: bool) -> float | None:
    """The seconds to wait before the next try, after `tries` of them; None if there must not be one.

    A call is sent again only if it cannot have reached a model: there was no connection, or the server says so, by
    Retry-After or grpc-retry-pushback-ms. With `may_run_twice`, also one that was lost on the way. The pause doubles,
    with a random part so that clients do not come back all at once, and is never shorter than asked for.
    """
    is_lost = isinstance(error, ClientError | Unavailable | Overloaded)
    if tries > retries or not (error.retryable or (may_run_twice and is_lost)):
        return None
    asked = getattr(error, "retry_after_seconds", None) or 0.0
    pause = min(_FIRST_PAUSE_SECONDS * 2.0 ** (tries - 1), _LONGEST_PAUSE_SECONDS)
    return max(asked, pause * random.uniform(0.5, 1.0))
