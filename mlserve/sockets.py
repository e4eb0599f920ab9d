"""What all connections have in common: they send at once, notice clients that are gone, and leave descriptors over."""

from __future__ import annotations

import socket
from typing import Protocol

from mlserve.osdep import descriptor_limit

__all__ = ["GONE_SECONDS", "NO_DESCRIPTORS", "descriptors_are_short", "tune_listener"]

NO_DESCRIPTORS = "the server has no room for another connection (its limit of open files, ulimit -n); try again later"

# A connection without traffic is asked after so long whether its client is still there, then so often, so many times.
_IDLE_SECONDS = 45
_AGAIN_SECONDS = 15
_TIMES = 3
# Descriptors that connections leave to the rest: to refuse others, to start workers, to read files.
_RESERVED_PART = 8
_RESERVED_AT_MOST = 256
GONE_SECONDS = _IDLE_SECONDS + _AGAIN_SECONDS * _TIMES

_KEEP_ALIVE = (
    ("TCP_KEEPIDLE", _IDLE_SECONDS),
    ("TCP_KEEPALIVE", _IDLE_SECONDS),  # macOS's name of the same
    ("TCP_KEEPINTVL", _AGAIN_SECONDS),
    ("TCP_KEEPCNT", _TIMES),
)


def tune_listener(listener: socket.socket) -> None:
    """Sets what the connections that it accepts inherit, whichever event loop accepts them.

    No waiting for company (Nagle), which trio-asyncio leaves on: it holds a chunk back until the one before it is
    acknowledged, some 40 ms. And TCP's keep-alive: a client whose network has vanished says nothing, and an idle stream
    has nothing to send that would fail. What the system does not know keeps its default.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE:
        option = getattr(socket, name, None)
        if option is not None:
            listener.setsockopt(socket.IPPROTO_TCP, option, value)


class _Socket(Protocol):
    def fileno(self) -> int: ...


def descriptors_are_short(accepted: _Socket | None) -> bool:
    """Whether a new connection took one of the last descriptors: the system gives the lowest one that is free.

    Such a connection is to be told so, while that can still be done. Where none is left, uvloop resets connections,
    and the other loops leave them waiting.
    """
    limit = descriptor_limit()
    reserved = min(_RESERVED_AT_MOST, limit // _RESERVED_PART)
    return accepted is not None and accepted.fileno() >= limit - reserved
