"""Bounds the memory of answers that are ready and not sent, and tells clients that do not read from slow ones."""

from __future__ import annotations

import fcntl
import logging
import math
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import IPPROTO_TCP
from typing import Any, Protocol

__all__ = ["COUNTED_FROM_BYTES", "LEAST_BYTES_PER_SECOND", "Reading", "Unsent"]

COUNTED_FROM_BYTES = 64 * 1024  # smaller answers are bounded by the number of connections, and not worth counting

_logger = logging.getLogger("mlserve")
LEAST_BYTES_PER_SECOND = 64 * 1024  # that a client has to take, while clients that take less stop others
_TOLD_SECONDS = 60.0  # the log tells of a full server no more often
_TCP_INFO = 11  # Linux; its u64 at this offset counts the bytes that the peer has acknowledged
_ACKED_AT = 120
_ACKED = struct.Struct("@Q")
_INT = struct.Struct("@i")
_SIOCOUTQNSD = 0x894B  # Linux: the bytes of a socket that were not sent yet; TIOCOUTQ has those under way too
_COUNTS = sys.platform == "linux"  # whether what a peer has taken can be told, and not only that it took something


class Unsent:
    """How many bytes of large answers wait for their clients. Both transports and all pools share one.

    While they are too many, no call begins of models that give such answers. Those that have begun by then are answered
    all the same, so that the limit can be passed by what workers hold at that moment.

    Some wait for the answers of other calls first, which no client can do anything about. They fill half of the memory
    at most, however many they are: the other half is full only of what clients can take. So what those wait for begins
    as soon as clients read.
    """

    def __init__(self, limit_bytes: float = math.inf) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0  # that clients can take
        self.ahead_bytes = 0  # that wait for other answers, or are expected to
        self.full = False  # Invariant: held_bytes, and ahead_bytes up to half of the limit, are more than the limit
        self.on_room: Callable[[], None] | None = None  # called when it is not full any more
        self._told_at = -math.inf

    def __repr__(self) -> str:
        return f"<Unsent {self.held_bytes} of {self.limit_bytes} bytes, {self.ahead_bytes} ahead>"

    def hold(self, size_bytes: int) -> None:
        """Counts an answer in."""
        self.held_bytes += size_bytes
        self._look()

    def give(self, size_bytes: int) -> None:
        """Counts an answer out: its client has it, or is gone."""
        self.held_bytes -= size_bytes
        self._look()

    def has_room_ahead(self, size_bytes: int) -> bool:
        """Whether a call may begin whose answer will wait for others."""
        return self.ahead_bytes + size_bytes <= self.limit_bytes / 2

    def count_ahead(self, more_bytes: int) -> None:
        """Counts answers that wait for others in; out with a negative number."""
        self.ahead_bytes += more_bytes
        self._look()

    def _look(self) -> None:
        full = self.held_bytes + min(self.ahead_bytes, self.limit_bytes / 2) > self.limit_bytes
        if full == self.full:
            return
        self.full = full
        if full:
            self._tell()
        elif self.on_room is not None:
            self.on_room()

    @contextmanager
    def holding(self, size_bytes: int) -> Iterator[None]:
        """Counts an answer in for as long as it is being sent."""
        self.hold(size_bytes)
        try:
            yield
        finally:
            self.give(size_bytes)

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told_at > _TOLD_SECONDS:
            self._told_at = now
            _logger.warning(
                "clients have not taken %d MiB of answers, and %d MiB wait for others in gRPC streams: more than "
                "answer_memory_bytes; no call of models with large answers begins until clients take theirs",
                self.held_bytes >> 20,
                self.ahead_bytes >> 20,
            )


class _Socket(Protocol):
    def fileno(self) -> int: ...

    def getsockopt(self, level: int, option: int, size: int, /) -> Any: ...


class Reading:
    """Whether the client of one connection takes what is sent to it. Asked every second or so."""

    __slots__ = ("_figure", "_limit_seconds", "_pace", "_since", "_unsent")

    def __init__(self, limit_seconds: float, unsent: Unsent | None = None) -> None:
        self._limit_seconds = limit_seconds
        self._unsent = unsent or Unsent()
        self._figure = -1
        self._since = -math.inf  # when it took something, or had nothing to take
        self._pace: tuple[float, int] | None = None  # since when more waited than was under way, and the figure then

    def has_stopped(self, sock: _Socket | None, now: float) -> bool:
        """Whether the client has taken nothing for too long although there is something; or so little, while the memory
        for answers is full, that others would wait for it."""
        figure = None if sock is None else _taken(sock)
        if figure is None or figure != self._figure or self._since == -math.inf:
            self._figure = -1 if figure is None else figure
            self._since = now
        return (now - self._since > self._limit_seconds > 0) or self._is_slow(sock, figure, now)

    def _is_slow(self, sock: _Socket | None, figure: int | None, now: float) -> bool:
        if sock is None or figure is None or not _holds_back(sock):
            self._pace = None
            return False
        if self._pace is None:
            self._pace = now, figure
            return False
        since, before = self._pace
        seconds = now - since
        if not 0 < self._limit_seconds < seconds:
            return False
        self._pace = now, figure
        return self._unsent.full and _COUNTS and figure - before < LEAST_BYTES_PER_SECOND * seconds


def _taken(sock: _Socket) -> int | None:
    """A figure that changes when the peer takes something; None where nothing waits for it.

    What a transport keeps back waits for the kernel, so that the kernel's queue alone tells.
    """
    try:
        queued = _asked(sock, termios.TIOCOUTQ)
        if not queued:
            return None
        if not _COUNTS:
            return queued
        info = sock.getsockopt(IPPROTO_TCP, _TCP_INFO, _ACKED_AT + _ACKED.size)
        return int(_ACKED.unpack_from(info, _ACKED_AT)[0])
    except (OSError, ValueError, struct.error):
        return None  # closed already


def _holds_back(sock: _Socket) -> bool:
    """Whether there is more for the peer than it lets the kernel send. Of one that reads at once, all is under way: on
    a long line there may always be some of that, however little it gets."""
    try:
        return _asked(sock, _SIOCOUTQNSD) > 0
    except (OSError, ValueError):
        return True  # a system that cannot tell: what is under way counts too


def _asked(sock: _Socket, request: int) -> int:
    """A number of bytes that the kernel knows of a socket. OSError, ValueError if it does not."""
    return int(_INT.unpack(fcntl.ioctl(sock.fileno(), request, _INT.pack(0)))[0])
