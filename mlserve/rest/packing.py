"""gzip and deflate: request bodies unpacked within a bound, answers packed where the client takes it and it pays."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial

import anyio.to_thread

from mlserve.errors import UnsupportedEncoding
from mlserve.intake import Share
from mlserve.unpacking import CODINGS, Unpacker

__all__ = ["MINIMUM_BYTES", "THREAD_BYTES", "pack", "unpack_in_thread", "unpacker"]

Buffer = bytes | bytearray | memoryview

MINIMUM_BYTES = 500  # Under this an answer goes out as it is, as on MLServer.
THREAD_BYTES = 32 * 1024  # From here on a thread does the work; its hop costs as much as packing some 10 kB.
_LEVEL = 1  # Six times as fast as the highest level, for numbers some tenth larger.
_GZIP = 31  # zlib's window bits


async def pack(chunks: Sequence[Buffer], size_bytes: int) -> bytes:
    """The chunks as one gzip member; large ones in a thread (zlib leaves the event loop free meanwhile)."""
    if size_bytes < THREAD_BYTES:
        return _pack(chunks)
    return await anyio.to_thread.run_sync(_pack, chunks)


def _pack(chunks: Sequence[Buffer]) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    packed = [packer.compress(chunk) for chunk in chunks]
    packed.append(packer.flush())
    return b"".join(packed)


def unpacker(body: Buffer, content_encoding: str, limit_bytes: int, share: Share) -> Unpacker | None:
    """What unpacks a body with this Content-Encoding; None if it is as it was. UnsupportedEncoding; see `Unpacker`."""
    codings = [one.strip() for one in content_encoding.lower().split(",")]
    codings = [one for one in codings if one and one != "identity"]
    if len(codings) > 1:
        raise UnsupportedEncoding(f"header Content-Encoding: expected one coding, got {content_encoding!r}")
    if not codings:
        return None
    if codings[0] not in CODINGS:
        raise UnsupportedEncoding(f"header Content-Encoding: expected gzip or deflate, got {content_encoding!r}")
    return Unpacker(body, codings[0], limit_bytes, share, "the body")


async def unpack_in_thread(unpacker: Unpacker) -> Buffer:
    """All of it. Whoever is cancelled meanwhile does not wait for the thread."""
    return await unpacker.finish_in(partial(anyio.to_thread.run_sync, abandon_on_cancel=True))
