"""The worker's side of slots that arrive: maps those that frames announce, and tells when it can take no more.

The system drops a descriptor on its way to a process that may open no more, and maps no memory for one that has too
many mappings. The frames themselves come whole: calls whose tensors are lost go back to the pool, which sends
everything else inside its frames, and starts a fresh worker in the place of this one.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Sequence

from mlserve.arena import Views
from mlserve.channel import Channel
from mlserve.frames import Full, SlotRef

__all__ = ["Attaching"]


class Attaching:
    """Maps what comes over a channel. `tell` sends a frame to the pool."""

    def __init__(self, channel: Channel, views: Views, tell: Callable[[Full], None]) -> None:
        self._channel = channel
        self._views = views
        self._tell = tell
        self._is_full = False  # the pool knows: it lends no more

    def attach(self, slots: Sequence[SlotRef | None]) -> bool:
        """Maps the slots of a frame that are new here; False if any of all that it names cannot be looked at.

        To be called for each frame that names slots, in the order of their coming.
        """
        named = [slot for slot in slots if slot is not None]
        fresh = [slot for slot in named if slot.fresh]
        for slot, descriptor in zip(fresh, self._channel.take(len(fresh))):
            try:
                if descriptor is None:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                self._views.attach(slot.number, descriptor, slot.size_bytes)
            except OSError as error:
                self._give_up(error)
        return all(self._views.knows(slot.number) for slot in named)

    def _give_up(self, error: OSError) -> None:
        if not self._is_full:
            self._is_full = True
            self._tell(Full(_reason(error)))


def _reason(error: OSError) -> str:
    if error.errno != errno.EMFILE:
        return f"it can map no more shared memory ({error})"
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        f"all of its {limit} file descriptors are in use; does a model open files or connections and not close them? "
        "Otherwise raise the limit (ulimit -n)"
    )
