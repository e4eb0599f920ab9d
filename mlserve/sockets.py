"""What every listening socket is told: send at once, and notice clients whose network is gone."""

from __future__ import annotations

import socket

__all__ = ["GONE_SECONDS", "tune_listener"]

# A connection without traffic is asked after so long whether its client is still there, then so often, so many times.
_IDLE_SECONDS = 45
_AGAIN_SECONDS = 15
_TIMES = 3
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
