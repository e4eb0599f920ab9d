"""Bounds the memory that large bodies and messages take, from their arrival until their call is answered."""

from __future__ import annotations

from mlserve.errors import Overloaded

COUNTED_FROM_BYTES = 64 * 1024  # smaller ones are bounded by the number of connections, and not worth counting


class Intake:
    """How many bytes of large bodies a server holds. Both transports share one; it belongs to the event loop."""

    def __init__(self, limit_bytes: float = float("inf")) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def __repr__(self) -> str:
        return f"<Intake {self.held_bytes} of {self.limit_bytes} bytes>"

    def take(self, size_bytes: int) -> bool:
        """Counts bytes in; False, and nothing counted, if they are too many."""
        if self.held_bytes + size_bytes > self.limit_bytes:
            return False
        self.held_bytes += size_bytes
        return True

    def give(self, size_bytes: int) -> None:
        """Counts bytes out."""
        self.held_bytes -= size_bytes

    def refusal(self) -> Overloaded:
        """The error for a body that there is no room for."""
        return Overloaded(
            f"the server holds {self.held_bytes >> 20} MiB of large requests, and may hold "
            f"{int(self.limit_bytes) >> 20} (body_memory_bytes); try again in a moment"
        )
