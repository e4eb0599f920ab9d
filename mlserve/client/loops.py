"""One transport for each event loop that a client is used in: connections belong to a loop, and close at its end.

An asynchronous generator is what both asyncio and trio close when a loop ends, while it still runs: one for each
transport waits for that. If the client is forgotten, its loop closes the generator too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import sniffio
from anyio.lowlevel import RunVar

from mlserve.client.transport import Transport

__all__ = ["Transports"]

_this_loop: RunVar[object] = RunVar("mlserve_client_loop")  # an object that stands for the running loop


@dataclass
class _Home:
    transport: Transport
    keeper: Any  # an asynchronous generator; typing's has no ag_frame
    loop: asyncio.AbstractEventLoop | None  # None is trio's, which never ends without closing the keeper

    @property
    def is_over(self) -> bool:
        """Whether its loop has ended; one that is closed by hand need not have closed the keeper."""
        return self.keeper.ag_frame is None or (self.loop is not None and self.loop.is_closed())


class Transports:
    """The transports of a client by event loop, made when they are first needed."""

    def __init__(self, make: Callable[[], Transport]) -> None:
        self._make = make
        self._homes: dict[object, _Home] = {}

    async def here(self) -> Transport:
        """That of the running loop."""
        home = self._homes.get(_this_loop.get(None))
        return home.transport if home is not None else await self._settle()

    async def _settle(self) -> Transport:
        self._homes = {loop: home for loop, home in self._homes.items() if not home.is_over}
        if (key := _this_loop.get(None)) is None:
            _this_loop.set(key := object())
        transport = self._make()
        keeper = _keep(transport)
        is_asyncio = sniffio.current_async_library() == "asyncio"
        self._homes[key] = _Home(transport, keeper, asyncio.get_running_loop() if is_asyncio else None)
        await anext(keeper)  # Does not wait: nothing else comes between.
        return transport

    async def aclose(self) -> None:
        """Closes all of them: that of this loop now, those of other loops soon."""
        homes, self._homes = self._homes, {}
        home = homes.pop(_this_loop.get(None), None)
        del homes  # which has the other loops close their keepers
        if home is not None:
            await home.keeper.aclose()


async def _keep(transport: Transport) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await transport.aclose()
