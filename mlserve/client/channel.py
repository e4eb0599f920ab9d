"""grpclib's channel, but calls under way finish when their server says goodbye (GOAWAY), as they do in other clients.

grpclib breaks them all off, though a server that drains still answers each of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn, cast

from grpclib.client import Channel, Handler
from grpclib.exceptions import StreamTerminatedError
from grpclib.protocol import EventsProcessor, H2Protocol, Stream
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from hyperframe.frame import GoAwayFrame

__all__ = ["REFUSED", "GentleChannel"]

# What HTTP/2 says of a call that was not begun (REFUSED_STREAM), in grpclib's words.
REFUSED = f"error_code: {int(ErrorCodes.REFUSED_STREAM)}"
_LEAVING = f"the server is leaving, {REFUSED}"


class GentleChannel(Channel):
    """One connection for all calls; a new one for those that begin after the server's goodbye."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._leaving: set[_Protocol] = set()  # connections that only finish their calls

    def _protocol_factory(self) -> H2Protocol:
        return _Protocol(self._leaving, Handler(), self._config, self._h2_config)

    def close(self) -> None:
        """Closes all connections; calls under way break."""
        super().close()
        for protocol in list(self._leaving):
            protocol.processor.close("the client was closed")


class _Protocol(H2Protocol):
    def __init__(self, leaving: set[_Protocol], *args: Any) -> None:
        super().__init__(*args)
        self._leaving = leaving

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.processor = _Processor(self.handler, self.connection, self._finish)
        table = cast(dict[Any, Any], self._h2._frame_dispatch_table)
        refuse, table[GoAwayFrame] = table[GoAwayFrame], self._hear_goodbye
        self._break_off = refuse

    @property
    def _h2(self) -> H2Connection:
        return self.connection._connection

    def _hear_goodbye(self, frame: GoAwayFrame) -> Any:
        """h2 would take nothing more from a server that leaves; one that leaves in peace has answers to come."""
        if frame.error_code != ErrorCodes.NO_ERROR:
            return self._break_off(frame)
        self.handler.close()  # the channel opens another connection for the next call
        self._h2.get_next_available_stream_id = _refuse  # type: ignore[method-assign]  # for those about to begin
        self._leaving.add(self)
        for number, stream in list(self.processor.streams.items()):
            if number > frame.last_stream_id:
                stream.__terminated__(_LEAVING)
        asyncio.get_running_loop().call_soon(self._finish)  # not while h2 reads: it may have more frames at hand
        return [], []

    def _finish(self) -> None:
        if self in self._leaving and not self.processor.streams:
            self.processor.close(_LEAVING)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._leaving.discard(self)


class _Processor(EventsProcessor):
    """Tells when a call has ended. Those whose answer is here, but not read yet, do not break with the connection."""

    def __init__(self, handler: Any, connection: Any, on_release: Callable[[], None]) -> None:
        super().__init__(handler, connection)
        self._on_release = on_release

    def register(self, stream: Stream) -> Callable[[], None]:
        release = super().register(stream)

        def release_and_tell() -> None:
            release()
            self._on_release()

        return release_and_tell

    def close(self, reason: str = "Connection closed") -> None:
        """Ends all calls that still wait for something."""
        open_streams = self.connection._connection.streams
        for number, stream in self.streams.items():
            if number not in open_streams or open_streams[number].closed:
                stream.wrapper = None  # what would be cancelled
        super().close(reason)


def _refuse() -> NoReturn:
    raise StreamTerminatedError(_LEAVING)
