"""What a model may take of its workers, and how much work a worker is given at once."""

from __future__ import annotations

from msgspec import Struct

_WINDOW_SECONDS = 0.002  # how much work a worker may have waiting at its side
_WINDOW_CALLS = 64


class Bounds(Struct, frozen=True):
    """What a model may take of its workers."""

    max_running_calls: int = 1024  # at once in one worker, those that await something included
    hard_timeout_seconds: float = 60.0  # how long a call that nobody waits for may block its worker; 0: for ever
    load_timeout_seconds: float = 1800.0  # how long its load() may take; 0: for ever


def window_of(service_seconds: float | None) -> int:
    """How many calls a worker may hold that have not given way: one that runs, and _WINDOW_SECONDS of others.

    A model that takes longer than that gets one call at a time: what waits, waits in the pool, where it can still be
    cancelled, expire, or go to another worker. Fast ones get many, so that one wake-up serves several.
    """
    if service_seconds is None:
        return 1
    return min(_WINDOW_CALLS, 1 + int(_WINDOW_SECONDS / max(service_seconds, 1e-6)))
