"""gzip and deflate for gRPC messages: answers packed where it pays, requests unpacked."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from mlserve.errors import InvalidRequest, UnsupportedEncoding
from mlserve.intake import Share
from mlserve.unpacking import Unpacker
from mlserve.wire.protowire import Chunk

__all__ = ["ACCEPTED", "pack", "unpacker"]

ACCEPTED = "identity,deflate,gzip"

# What zlib calls the containers: gzip's, and zlib's own, which gRPC (as HTTP) calls deflate.
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
_WORTH_BYTES = 1024
_STEP_BYTES = 1 << 20
_LEVEL = 1  # Tensors shrink hardly more at higher levels, which take several times as long.


def unpacker(data: Chunk, encoding: str, limit_bytes: int, share: Share) -> Unpacker:
    """What unpacks a message that is marked as packed. InvalidRequest, UnsupportedEncoding."""
    if encoding not in _WINDOW_BITS:
        if encoding in ("", "identity"):
            raise InvalidRequest("a message is marked as compressed, but the call names no grpc-encoding")
        raise UnsupportedEncoding(f"grpc-encoding {encoding!r} is not known here; known are {ACCEPTED}")
    return Unpacker(data, encoding, limit_bytes, share, "a message")


def pack(chunks: Iterable[Chunk], size: int, encoding: str) -> bytes | None:
    """The message packed; None where it is small or hardly shrinks."""
    if size < _WORTH_BYTES:
        return None
    engine = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[encoding])
    packed = [engine.compress(step) for chunk in chunks for step in _steps(memoryview(chunk))]
    packed.append(engine.flush())
    size_packed = sum(map(len, packed))
    return b"".join(packed) if size_packed < size * 0.9 else None


def _steps(chunk: memoryview) -> Iterator[memoryview]:
    """A chunk in parts: zlib puts what it gives together without letting other threads run."""
    for at in range(0, len(chunk), _STEP_BYTES):
        yield chunk[at : at + _STEP_BYTES]
