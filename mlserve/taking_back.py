"""Takes calls back that wait in a worker behind one that takes long, so that another worker can have them.

A worker with fast calls is sent several at once. Where one of them takes longer than the others did, those behind it
would wait for it even while other workers are idle. So workers with calls in waiting are looked at from time to time:
one that began no call between two looks gets no new ones until it has answered, and gives those back that it has not
begun.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from mlserve.calls import Call
from mlserve.link import Link

_LOOK_SECONDS = 0.02  # between two looks; a worker's window is a tenth of it
_SETTLE_SECONDS = 0.002  # until each side is sure to see what the other has written into their common memory


class TakingBack:
    """The watch over the workers of one pool; costs nothing while no worker has more than one call."""

    def __init__(self, links: list[Link], give_back: Callable[[list[Call]], None]) -> None:
        self.watching = False
        self._links = links  # Invariant: those of the crew, which changes the list
        self._give_back = give_back
        self._wake = anyio.Event()

    def watch(self) -> None:
        """A worker was sent a call beside another one."""
        self.watching = True
        self._wake.set()

    async def run(self) -> None:
        """Looks at the workers as long as there is anything to take back."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            begun: dict[Link, int] = {}
            while any(link.open > 1 for link in self._links):
                await anyio.sleep(_LOOK_SECONDS)
                for link in list(self._links):
                    if begun.get(link) == link.begun and link.open > 1 and len(self._links) > 1:
                        await self._take_back(link)
                begun = {link: link.begun for link in self._links}
            self.watching = False

    async def _take_back(self, link: Link) -> None:
        last = link.take_back()
        await anyio.sleep(_SETTLE_SECONDS)
        calls = link.withdraw(last)
        if calls:
            self._give_back(calls)
