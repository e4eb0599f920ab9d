"""The worker's end of one handler's answer: ASGI's messages out as frames, as fast as the client takes them.

A frame waits for one turn of the loop for what may come right behind it: the head for its body, the last of the body
for the end of the call. So an ordinary answer is one frame, a handler that fails at once is answered with its error,
and whatever takes longer than a turn holds nothing up that is there already. What may follow an answer, such as a
background task, may keep the loop from turning: then the last of the body waits for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from mlserve.errors import ModelError
from mlserve.frames import CREDIT_BYTES, End, Handle, Handled, Piece, credit_for
from mlserve.outbox import Outbox
from mlserve.worker_stream import Cancelled, Stream

__all__ = ["Answer"]

_PIECE_BYTES = CREDIT_BYTES - 1  # larger bodies go in pieces of this size, which cost one each


class Answer:
    """What one handler answers. Either `end` or `break_off` must follow, then `close`."""

    def __init__(self, frame: Handle, outbox: Outbox, streams: dict[int, Stream], left: Callable[[], bool]) -> None:
        self._call = frame.call
        self._credit = frame.credit
        self._outbox = outbox
        self._streams = streams  # of the worker: whose credit comes from the pool
        self._left = left  # whether the client is gone
        self._loop = asyncio.get_running_loop()
        self._held: Handled | Piece | None = None
        self._stream: Stream | None = None  # once a part of the answer has left
        self._missing: int | None = None  # of the body, where its length was told
        self.is_whole = False  # all of the body was given
        self.is_sent = False  # and the handler goes on after it, if it does

    async def send(self, message: Mapping[str, Any]) -> None:
        """ASGI's send; waits for a slow client. Cancelled once that is gone.

        All of the answer is on its way when this returns for the last of it, whatever the handler does then.
        """
        await self.send_alone(message)
        if self.is_whole and not self.is_sent:
            self._let_go()
            await self._outbox.written()
            self.is_sent = True

    async def send_alone(self, message: Mapping[str, Any]) -> None:
        """The same for an answer that nothing follows: the last of it may leave with the end of the call."""
        if self._left():
            raise Cancelled  # which the handler swallowed before
        kind = message["type"]
        if kind == "http.response.start" and self._held is None and self._stream is None:
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers", ())]
            self._missing = next((int(value) for name, value in headers if name.lower() == "content-length"), None)
            self._hold(Handled(self._call, int(message["status"]), headers, b"", more=True, over=False))
        elif kind == "http.response.body" and not self.is_whole and (self._held or self._stream):
            await self._send_body(message.get("body", b""), bool(message.get("more_body", False)))
        elif kind == "http.response.body" and self.is_whole and not message.get("body"):
            pass  # its length had told already that it was whole
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    async def _send_body(self, body: Any, more: bool) -> None:
        if len(body) <= _PIECE_BYTES:
            await self._send_piece(bytes(body), more)
            return
        view = memoryview(body).cast("B")
        for at in range(0, len(view), _PIECE_BYTES):
            await self._send_piece(bytes(view[at : at + _PIECE_BYTES]), more or at + _PIECE_BYTES < len(view))

    async def _send_piece(self, body: bytes, more: bool) -> None:
        if self._missing is not None:
            self._missing -= len(body)
            more = more and self._missing > 0  # a client may leave with the last byte, before more is said
        self.is_whole = not more
        if self._held is not None:  # the head, which has waited for this
            self._held.body, self._held.more = body, more
        else:
            assert self._stream is not None, "the head has left"
            await self._stream.until_credit()
            self._hold(Piece(self._call, body, more, over=False))
        if more:
            self._let_go()
            await asyncio.sleep(0)  # it is written, others get their turn, and this learns whether the client is there

    def _hold(self, frame: Handled | Piece) -> None:
        self._held = frame
        self._loop.call_soon(self._let_go)

    def _let_go(self) -> None:
        """Sends the frame that has waited for company, if it has not left with it."""
        frame, self._held = self._held, None
        if frame is None:
            return
        if not frame.over:
            if self._stream is None:
                self._stream = self._streams[self._call] = Stream(self._call, self._credit)
            self._stream.credit -= credit_for(len(frame.body))
        self._outbox.put(frame)

    def end(self) -> None:
        """The handler has come to its end. ModelError if there is no answer, or not all of it."""
        if not self.is_whole:
            raise ModelError("the handler ended before its answer was complete")
        if self._held is None:
            self._outbox.put(End(self._call))
        else:
            self._held.over = True
            self._let_go()

    def break_off(self) -> None:
        """The handler has failed: a head that waits for its body gives way to the error."""
        if self.is_whole:
            self._let_go()
        self._held = None

    def close(self) -> None:
        """Lets go of everything, after the call's last frame."""
        self._held = None
        if self._stream is not None:
            del self._streams[self._call]
            self._stream.close()
