"""gzip and deflate: request bodies unpacked within a bound, answers packed where the client takes it and it pays."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import anyio.to_thread

from mlserve.errors import BodyTooLarge, InvalidRequest, UnsupportedEncoding

__all__ = ["MINIMUM_BYTES", "pack", "unpack"]

Buffer = bytes | bytearray | memoryview

MINIMUM_BYTES = 500  # Under this an answer goes out as it is, as on MLServer.
_THREAD_BYTES = 32 * 1024  # From here on a thread does the work; its hop costs as much as packing some 10 kB.
_LEVEL = 1  # Six times as fast as the highest level, for numbers some tenth larger.
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's window bits
_ENCODINGS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}


async def pack(chunks: Sequence[Buffer], size_bytes: int) -> bytes:
    """The chunks as one gzip member; large ones in a thread (zlib leaves the event loop free meanwhile)."""
    if size_bytes < _THREAD_BYTES:
        return _pack(chunks)
    return await anyio.to_thread.run_sync(_pack, chunks)


def _pack(chunks: Sequence[Buffer]) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    packed = [packer.compress(chunk) for chunk in chunks]
    packed.append(packer.flush())
    return b"".join(packed)


async def unpack(body: Buffer, content_encoding: str, limit_bytes: int) -> Buffer:
    """The body behind its Content-Encoding.

    UnsupportedEncoding for codings that are not known here, InvalidRequest for a damaged body, BodyTooLarge as soon
    as more than the limit has come out: no more memory than that is taken, whatever the body promises.
    """
    codings = [one.strip() for one in content_encoding.lower().split(",")]
    codings = [one for one in codings if one and one != "identity"]
    if len(codings) > 1:
        raise UnsupportedEncoding(f"header Content-Encoding: expected one coding, got {content_encoding!r}")
    if not codings:
        return body
    if codings[0] not in _ENCODINGS:
        raise UnsupportedEncoding(f"header Content-Encoding: expected gzip or deflate, got {content_encoding!r}")
    unpacker = _Unpacker(body, codings[0], limit_bytes)
    if unpacker.step(_THREAD_BYTES):
        return unpacker.result()
    return await anyio.to_thread.run_sync(unpacker.finish)


class _Unpacker:
    """Unpacks one body: a first bit at once, the rest wherever it is told to."""

    def __init__(self, body: Buffer, coding: str, limit_bytes: int) -> None:
        self._coding = coding
        self._window = _ENCODINGS[coding]
        if coding == "deflate" and not _has_zlib_head(body):
            self._window = _RAW  # What some clients have always sent under that name.
        self._stream = zlib.decompressobj(self._window)
        self._rest: Buffer = body
        self._limit = limit_bytes
        self._size = 0
        self._whole = bytearray()  # grows in small steps: joining pieces would keep other threads out for long

    def finish(self) -> Buffer:
        while not self.step(1 << 20):
            pass
        return self.result()

    def result(self) -> Buffer:
        return self._whole

    def step(self, wanted_bytes: int) -> bool:
        """Unpacks up to so many bytes; True if that was all."""
        try:
            piece = self._stream.decompress(self._rest, wanted_bytes)
        except zlib.error as error:
            raise self._damaged(str(error)) from None
        self._size += len(piece)
        if self._size > self._limit:
            raise BodyTooLarge(f"the unpacked body is larger than {self._limit} bytes, the limit")
        self._whole += piece
        if not self._stream.eof:
            self._rest = self._stream.unconsumed_tail
            if not self._rest and len(piece) < wanted_bytes:
                raise self._damaged("it is cut off")
            return False
        self._rest = self._stream.unused_data
        if not self._rest:
            return True
        if self._window != _GZIP or bytes(self._rest[:2]) != b"\x1f\x8b":
            raise self._damaged(f"{len(self._rest)} bytes follow its end")
        self._stream = zlib.decompressobj(_GZIP)  # A gzip file may have several members.
        return False

    def _damaged(self, reason: str) -> InvalidRequest:
        return InvalidRequest(f"the body is no valid {self._coding} data: {reason}")


def _has_zlib_head(body: Buffer) -> bool:
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
