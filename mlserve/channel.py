"""Frames over a Unix socket pair: whole and in order, with file descriptors beside them, whatever the socket does."""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from typing import Any

from msgspec.msgpack import Decoder, Encoder

from mlserve.frames import ToPool, ToWorker

__all__ = ["Channel", "ChannelClosed", "Unreadable"]

_READ_BYTES = 64 * 1024  # one reused buffer: a larger one costs more to fill than it saves
_LENGTH = struct.Struct("<I")


def _plain(value: Any) -> Any:
    """numpy scalars and arrays that models put into parameters, as what they are in JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a parameter of type {type(value).__name__} cannot be sent; use text, numbers, lists or dicts")


class ChannelClosed(Exception):
    """The process at the other end is gone."""


class Unreadable:
    """Stands among the frames that came for one that is none, so that the others are not lost with it."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Channel:
    """Frames over one end of a Unix socket pair.

    Every method returns at once: what the socket does not take waits in `backlog` until `flush` is called again. The
    owner's event loop says when to call `receive` and `flush`. The file descriptors of a frame are taken with `take`.
    """

    def __init__(self, sock: socket.socket, incoming: Any) -> None:
        sock.setblocking(False)
        self.sock = sock
        # In the order of the frames that announced them; None: from here on those of a frame are lost.
        self._descriptors: deque[int | None] = deque()
        self.backlog: deque[tuple[memoryview, list[int]]] = deque()
        self._decoder: Decoder[Any] = Decoder(incoming)
        self._encoder = Encoder(enc_hook=_plain)
        self._out = bytearray(4096)
        self._batch = bytearray()  # frames put with `put`, not yet handed to the socket
        self._in = bytearray(_READ_BYTES)
        self._have = 0  # bytes of an incomplete frame at the start of _in

    def fileno(self) -> int:
        return self.sock.fileno()

    def put(self, frame: ToWorker | ToPool) -> None:
        """Adds a frame to the next `flush`."""
        out = self._out
        self._encoder.encode_into(frame, out, 4)
        _LENGTH.pack_into(out, 0, len(out) - 4)
        self._batch += out

    def send(self, frame: ToWorker | ToPool, descriptors: list[int] | None = None) -> None:
        """Hands a frame to the socket now, with file descriptors beside it."""
        self.put(frame)
        self.flush(descriptors or [])

    def flush(self, descriptors: list[int] | None = None) -> None:
        """Writes what waits, as far as the socket takes it."""
        if self._batch:
            self.backlog.append((memoryview(bytes(self._batch)), descriptors or []))
            self._batch.clear()
        while self.backlog:
            data, extra = self.backlog[0]
            try:
                if extra:
                    sent = socket.send_fds(self.sock, [data], extra)
                else:
                    sent = self.sock.send(data)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self.backlog.clear()
                raise ChannelClosed from error
            if sent == len(data):
                self.backlog.popleft()
            else:
                self.backlog[0] = (data[sent:], [])

    def receive(self, wait_for_descriptors: bool = False) -> list[Any]:
        """All frames that have arrived, Unreadable among them; empty if none is complete. ChannelClosed at the end."""
        frames: list[Any] = []
        while True:
            room = memoryview(self._in)[self._have :]
            try:
                if wait_for_descriptors:
                    count, ancillary, flags, _ = self.sock.recvmsg_into([room], 1024)
                    if ancillary or flags & socket.MSG_CTRUNC:
                        self._note_descriptors(ancillary, flags)
                else:
                    count = self.sock.recv_into(room)
            except (BlockingIOError, InterruptedError):
                return frames
            except OSError as error:
                raise ChannelClosed from error
            full = count == len(room)
            room.release()
            if count == 0:
                if frames:
                    return frames  # the next call says that the end has come
                raise ChannelClosed
            self._have += count
            self._split(frames)
            if not full:
                return frames

    def _split(self, frames: list[Any]) -> None:
        """Cuts complete frames off the front of the buffer; grows it for a frame that it cannot hold."""
        start, have = 0, self._have
        view = memoryview(self._in)
        while have - start >= 4:
            (length,) = _LENGTH.unpack_from(view, start)
            end = start + 4 + length
            if end > have:
                break
            try:
                frames.append(self._decoder.decode(view[start + 4 : end]))
            except Exception as error:
                frames.append(Unreadable(repr(error)))
            start = end
        needed = 4 + _LENGTH.unpack_from(view, start)[0] if have - start >= 4 else 4
        view.release()
        if start:  # nothing is moved while a large frame comes in piece by piece
            rest = bytes(self._in[start:have])
            self._in[: len(rest)] = rest
            self._have = have = len(rest)
        if needed > len(self._in):
            larger = bytearray(needed)
            larger[:have] = memoryview(self._in)[:have]
            self._in = larger
        elif not have and len(self._in) > _READ_BYTES:
            self._in = bytearray(_READ_BYTES)

    def _note_descriptors(self, ancillary: list[tuple[int, int, bytes]], flags: int) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                for (number,) in struct.iter_unpack("i", data[: len(data) - len(data) % 4]):
                    os.set_inheritable(number, False)
                    self._descriptors.append(number)
        if flags & socket.MSG_CTRUNC:  # this process may open no more: the system has dropped the rest of them
            self._descriptors.append(None)

    def take(self, count: int) -> list[int | None]:
        """The descriptors of a frame that announced so many, for its receiver to close; None for those that are lost.

        Frames that announce some are asked for in the order of their coming, and each has a message of its own: the
        next one's are never taken for those that are lost. IndexError if fewer came, and none is known to be lost.
        """
        taken: list[int | None] = []
        for _ in range(count):
            number = self._descriptors.popleft()
            if number is None:
                return taken + [None] * (count - len(taken))
            taken.append(number)
        return taken

    def close(self) -> None:
        self.sock.close()
        while self._descriptors:
            number = self._descriptors.popleft()
            if number is not None:
                os.close(number)
