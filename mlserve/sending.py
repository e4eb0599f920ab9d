"""The pool's frames to one worker: written as fast as it reads them, beside the descriptors of the slots they name."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio

from mlserve import frames
from mlserve.channel import Channel, ChannelClosed
from mlserve.errors import InvalidRequest
from mlserve.frames import SlotRef
from mlserve.lending import Lending

_DESCRIPTORS = 128  # sent with one message at most; the system's bound is 253


class Sending:
    """One direction of the channel to a worker."""

    def __init__(self, channel: Channel, lending: Lending) -> None:
        self._channel = channel
        self._lending = lending
        self._backlog = anyio.Event()  # the worker reads slower than frames come

    def send(self, frame: Any, slots: Sequence[SlotRef | None] = ()) -> None:
        self._channel.send(frame, self._lending.descriptors(slots))
        if self._channel.backlog:
            self._backlog.set()

    def tell(self, frame: Any, slots: Sequence[SlotRef | None] = ()) -> None:
        """Sends what a worker that is gone need not know: its supervisor sees its end too."""
        with suppress(ChannelClosed):
            self.send(frame, slots)

    def send_requests(self, frame: Any, slots: Sequence[SlotRef | None]) -> None:
        """Sends a frame with requests; takes their slots back if the frame cannot be made."""
        try:
            self.send(frame, slots)
        except ChannelClosed:
            raise
        except Exception as error:  # what cannot be encoded: huge numbers, endless nesting
            self._lending.take_back(slots)
            raise InvalidRequest(f"the parameters of the request cannot be passed on: {error!r}") from error

    async def drain(self) -> None:
        """Writes on when the worker reads slower than calls come in."""
        while True:
            await self._backlog.wait()
            self._backlog = anyio.Event()
            while self._channel.backlog:
                try:
                    await anyio.wait_writable(self._channel.sock)
                    self._channel.flush()
                except (ChannelClosed, OSError):
                    return  # its supervisor sees it too

    def attach_ahead(self, messages: list[frames.Message]) -> None:
        """Sends the descriptors of a large batch before it: a socket takes some 250 with one message."""
        fresh = [one for one in messages if one.slot is not None and one.slot.fresh]
        while len(fresh) > _DESCRIPTORS:
            part, fresh = fresh[:_DESCRIPTORS], fresh[_DESCRIPTORS:]
            slots = [one.slot for one in part if one.slot is not None]
            self.send(frames.Attach(slots), slots)
            for one, slot in zip(part, slots):
                one.slot = SlotRef(slot.number, slot.size_bytes)
