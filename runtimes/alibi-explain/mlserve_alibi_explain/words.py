"""What a client is told of an exception of alibi or of the libraries below it."""

from __future__ import annotations

import re

__all__ = ["words_of"]

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TRACE = re.compile(r'^\s*(Traceback|File "|in user code:|The above operation failed)', re.MULTILINE)
_PLACE = re.compile(r"(?<![\w.:/])(?:/[^\s/'\",:()]+)+/")  # folders of the server, before the name of a file
_MOST_LINES = 2  # Keras says in the first only that something is wrong


def words_of(error: Exception) -> str:
    """Its class and complaint, without a trace of code or folders of the server."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    is_trace = _TRACE.search(str(error)) is not None
    told = _PLACE.sub("", " ".join(lines[-1:] if is_trace else lines[:_MOST_LINES]))
    kind = type(error).__name__
    return f"{kind}: {told.removeprefix(f'{kind}: ')}" if told else kind
