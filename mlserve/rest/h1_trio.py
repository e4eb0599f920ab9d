"""Accepts HTTP connections on trio, and gives each the transport that it knows.

The sockets are used directly: trio says when one is ready, the call itself does not block. That saves trio's own
layers, and makes the read buffer that all connections share safe: nothing else runs between recv and parsing.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from hypercorn.trio.task_group import TaskGroup

from mlserve.rest.h1 import H1Connection
from mlserve.rest.h1_server import H1Server
from mlserve.rest.h2 import H2Connection

__all__ = ["TrioEdge", "TrioTransport"]

PAUSE_WRITING_BYTES = 64 * 1024
RESUME_WRITING_BYTES = 16 * 1024
# Accepting failed for want of memory or descriptors: it works again once some connections are closed.
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

log = logging.getLogger(__name__)


class TrioEdge:
    """The part of the edge that differs between asyncio and trio; lives inside `async with edge.tasks`."""

    def __init__(self) -> None:
        self.tasks = TaskGroup()

    @asynccontextmanager
    async def accepting(self, server: H1Server, listener: socket.socket) -> AsyncIterator[None]:
        """Accept connections of the listening socket, which is closed at the end."""
        self.tasks.spawn(self._accept, server, listener)
        try:
            yield
        finally:
            trio.lowlevel.notify_closing(listener)
            listener.close()
            for _ in range(2):  # a connection is counted by its task, in the turn after accept(); any order within one
                await trio.lowlevel.checkpoint()

    async def _accept(self, server: H1Server, listener: socket.socket) -> None:
        while True:
            try:
                await trio.lowlevel.wait_readable(listener)
                client, _ = listener.accept()
            except trio.ClosedResourceError:
                return
            except (BlockingIOError, ConnectionError):
                continue  # the client gave up again
            except OSError as error:
                if listener.fileno() == -1:
                    return
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                log.warning("cannot accept connections for now: %s", error)
                await trio.sleep(0.1)
                continue
            client.setblocking(False)
            self.tasks.spawn(TrioTransport(client, self.tasks.spawn).run, H1Connection(server))


class TrioTransport:
    """A connected socket with the methods of asyncio's transports; `run` reads until it is closed."""

    def __init__(self, sock: socket.socket, spawn: Callable[..., None]) -> None:
        self._sock = sock
        self._spawn = spawn
        self._protocol: H1Connection | H2Connection
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._flushing = False  # a task waits for the socket to take more
        self._pausing_writer = False
        self._closing = False  # closed as soon as all is sent
        self._eof_after_unsent = False
        self._resumed: trio.Event | None = None  # set while reading is paused
        self._closed = trio.Event()

    async def run(self, protocol: H1Connection) -> None:
        """Read and tell the protocol, until the connection is closed."""
        self._protocol = protocol
        protocol.connection_made(self)
        try:
            await self._read()
        except (OSError, trio.ClosedResourceError):
            pass
        except trio.Cancelled:
            self._protocol.give_up()  # its exchange is cancelled too, maybe later, and then could not say so any more
            raise
        except Exception:  # an error of ours ends this connection, not the task group of all
            log.exception("a connection failed")
        finally:
            self.abort()
            self._protocol.connection_lost(None)
            del self._protocol  # it knows us: without the cycle both are freed at once

    async def _read(self) -> None:
        while not self._closed.is_set():
            await trio.lowlevel.wait_readable(self._sock)
            if self._resumed is not None:
                await self._resumed.wait()
                continue
            try:
                nbytes = self._sock.recv_into(self._protocol.get_buffer(-1))
            except BlockingIOError:
                continue
            if nbytes:
                self._protocol.buffer_updated(nbytes)
            else:
                if not self._protocol.eof_received():
                    self.close()
                await self._closed.wait()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        try:
            if name == "peername":
                return self._sock.getpeername()
            if name == "sockname":
                return self._sock.getsockname()
        except OSError:
            return default  # gone already
        return self._sock if name == "socket" else default

    def set_protocol(self, protocol: H1Connection | H2Connection) -> None:
        self._protocol = protocol

    def pause_reading(self) -> None:
        if self._resumed is None:
            self._resumed = trio.Event()

    def resume_reading(self) -> None:
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or not data:
            return
        sent = 0
        if not self._unsent:
            sent = self._try_send(data)
            if sent == len(data) or self._closing:
                return
        rest = memoryview(data)[sent:]
        self._unsent.append(rest)
        self._unsent_bytes += len(rest)
        if self._unsent_bytes > PAUSE_WRITING_BYTES and not self._pausing_writer:
            self._pausing_writer = True
            self._protocol.pause_writing()
        if not self._flushing:
            self._flushing = True
            self._spawn(self._flush)

    def _try_send(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.abort()
            return 0

    async def _flush(self) -> None:
        try:
            while self._unsent:
                await trio.lowlevel.wait_writable(self._sock)
                if self._unsent:  # else closed meanwhile
                    self._send_unsent()
        except (OSError, trio.ClosedResourceError):
            self.abort()
        finally:
            self._flushing = False
        if self._closing:
            self.abort()
        elif self._eof_after_unsent:
            self._shutdown()

    def _send_unsent(self) -> None:
        sent = self._try_send(self._unsent[0])
        if self._closing and not self._unsent:
            return  # it failed
        self._unsent_bytes -= sent
        if sent == len(self._unsent[0]):
            self._unsent.popleft()
        else:
            self._unsent[0] = self._unsent[0][sent:]
        if self._pausing_writer and self._unsent_bytes <= RESUME_WRITING_BYTES:
            self._pausing_writer = False
            self._protocol.resume_writing()

    def write_eof(self) -> None:
        if self._unsent:
            self._eof_after_unsent = True
        elif not self._closing:
            self._shutdown()

    def _shutdown(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort()

    def close(self) -> None:
        if not self._unsent:
            self.abort()
        self._closing = True

    def abort(self) -> None:
        self._closing = True
        self._unsent.clear()
        if not self._closed.is_set():
            self._closed.set()
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
            self.resume_reading()
