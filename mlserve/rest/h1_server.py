"""What the HTTP connections of one listener share; counts them, watches their deadlines, drains and stops them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Protocol

import anyio

from mlserve.intake import PAUSE_SECONDS, Intake
from mlserve.rest.h1_exchange import Application
from mlserve.unsent import Unsent

__all__ = ["H1Server", "Limits", "OpenConnection", "Transport", "host_and_port"]

READ_BYTES = 256 * 1024
BACKLOG = 2048
# At the end, a client that has asked lately may be about to ask again: it shall be told in its answer that the
# connection closes, and not be cut off while its request comes in.
LEAVE_SECONDS = 1.0
LOOK_SECONDS = 0.05

Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@dataclass(frozen=True)
class Limits:
    """Bounds of every connection."""

    max_head_bytes: int = 16 * 1024
    keep_alive_seconds: float = 75.0  # an idle connection is closed after this
    head_seconds: float = 20.0  # from the first byte of a request to the end of its head
    body_pause_seconds: float = PAUSE_SECONDS  # without a byte of a body that the application waits for
    linger_seconds: float = 5.0
    send_seconds: float = 60.0  # without the client taking a byte of what is sent to it; 0: for ever
    intake: Intake = field(default_factory=Intake)  # of all connections together
    unsent: Unsent = field(default_factory=Unsent)
    leaves_descriptors: bool = False  # those that take one of the last descriptors are told 503, and closed


class Transport(Protocol):
    """What a connection uses of asyncio's transports; h1_trio.py has the same for trio."""

    def write(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def set_protocol(self, protocol: asyncio.BaseProtocol, /) -> None: ...
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...


class OpenConnection(Protocol):
    """What the server asks of a connection that it counts."""

    def check_deadlines(self, now: float) -> None:
        """Close if the client was silent for too long; `now` is time.monotonic()."""

    def stop_when_idle(self, now: float) -> None:
        """Close if nothing was asked for LEAVE_SECONDS, or after the answer that is under way."""

    def give_up(self) -> None:
        """Tell the client that its answer will not come, where that can be said, and close."""

    def abort(self) -> None:
        """Close at once; what was not sent is lost."""


class H1Server:
    """What the connections of one listener share, and how they are counted, watched and stopped."""

    def __init__(
        self,
        app: Application,
        *,
        spawn: Spawn,
        lifespan_state: dict[str, Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.app = app
        self.spawn = spawn  # starts an exchange in the task group that outlives all connections
        self.lifespan_state = {} if lifespan_state is None else lifespan_state  # each request gets a copy
        self.limits = limits or Limits()
        self.read_buffer = memoryview(bytearray(READ_BYTES))
        self.stopping = False  # every answer says that its connection is closed after it
        self._over = False
        self._open: set[OpenConnection] = set()
        self._all_closed: anyio.Event | None = None
        self._date_second = -1
        self._date_line = b""

    def __repr__(self) -> str:
        return f"<H1Server: {len(self._open)} connections{' | stopping' if self.stopping else ''}>"

    def enter(self, connection: OpenConnection) -> None:
        """Count a connection in; one that comes after the end is closed."""
        self._open.add(connection)
        if self._over:
            connection.abort()

    def leave(self, connection: OpenConnection) -> None:
        """Count a connection out."""
        self._open.discard(connection)
        if self._all_closed is not None and not self._open:
            self._all_closed.set()

    def date_line(self) -> bytes:
        """The Date header of this second."""
        now = int(time.time())
        if now != self._date_second:
            self._date_second = now
            self._date_line = f"date: {formatdate(now, usegmt=True)}\r\n".encode()
        return self._date_line

    async def watch(self) -> None:
        """Look at every connection's deadline, for ever: one task instead of a timer for each connection."""
        limits = self.limits
        shortest = min(
            limits.keep_alive_seconds,
            limits.head_seconds,
            limits.body_pause_seconds,
            limits.linger_seconds,
            limits.send_seconds or 1.0,
        )
        while True:
            await anyio.sleep(max(0.02, min(1.0, shortest / 4)))
            now = time.monotonic()
            for connection in list(self._open):
                connection.check_deadlines(now)

    async def drain(self, timeout_seconds: float) -> int:
        """Close idle connections, let busy ones finish; how many were not done in time and were given up."""
        self.stopping = True
        with anyio.move_on_after(timeout_seconds):
            while self._open:
                self._all_closed = anyio.Event()
                now = time.monotonic()
                for connection in list(self._open):
                    connection.stop_when_idle(now)
                with anyio.move_on_after(LOOK_SECONDS):
                    await self._all_closed.wait()
        late = list(self._open)
        for connection in late:
            connection.give_up()
        return len(late)

    def abort(self) -> None:
        """Close what is still open, at once, and whatever may still come."""
        self._over = True
        for connection in list(self._open):
            connection.abort()


def host_and_port(address: Any) -> tuple[str, int] | None:
    """Of a socket's address, as ASGI has it; None for what is none of IP."""
    return (address[0], address[1]) if isinstance(address, tuple) else None
