"""Text while it is generated: from tokens to pieces of text, and from the generating thread to the event loop."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

from transformers.generation.streamers import BaseStreamer

from mlserve.errors import InferenceError
from mlserve_huggingface.work import Job, Work, ended

__all__ = ["Detokenizer", "Pieces", "pieces"]

_AHEAD = 16  # pieces that wait for a slow client before generation waits too
_WINDOW, _CONTEXT = 64, 16  # tokens that are decoded again for each new one, and those kept when that gets too long
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # the name of a token that is a byte, in vocabularies that fall back on them
# What the next token may change at a text's end, but for half a character: the "@@" of half a word, and spaces and
# apostrophes, with letters of "n't", "'ve" and "'re" behind, where cleaning up takes spaces away.
_OPEN, _OPEN_LETTERS = " 'nvr@", "nvr"
# A character that no decoder needs the tokens before for, nor for what follows it.
_LANDMARK = re.compile(r"[^\s.,?!'ntmsver#@\ufffd]")


class Detokenizer:
    """Makes text of tokens one by one, so that the pieces together are the text of all tokens together.

    A run of byte tokens waits for its end: bytes that are no text as a whole become U+FFFD one and all, those of
    characters that were good before too.
    """

    def __init__(self, decode: Callable[[list[int]], str], name: Callable[[int], Any], context: list[int]) -> None:
        self._decode = decode
        self._name = name  # of a token, in the vocabulary
        self._ids: list[int] = []
        self._in_bytes = False
        self._due = 0  # how many `_ids` there have to be for them to be decoded
        self._take(context)
        self._sent = len(decode(context)) if context else 0  # characters of the text of `_ids` that are out

    def push(self, ids: list[int]) -> str:
        """The text that is certain now; empty where more tokens are needed to tell."""
        self._take(ids)
        if self._in_bytes or len(self._ids) < self._due:
            return ""
        text = self._decode(self._ids)
        piece = text[self._sent : _certain(text)]
        self._sent += len(piece)
        self._shorten(text)
        return piece

    def _take(self, ids: list[int]) -> None:
        self._ids += ids
        for one in ids:  # a token that is skipped ends no run
            is_byte = _BYTE.fullmatch(str(self._name(one))) is not None
            self._in_bytes = is_byte or (self._in_bytes and not self._decode([one]))

    def _shorten(self, text: str) -> None:
        """Forgets the first tokens, as far as what follows does not need them.

        Where nothing says so (a thousand spaces), tokens are decoded the more seldom the more there are.
        """
        kept = _CONTEXT
        while kept < len(self._ids) > _WINDOW:
            tail = self._decode(self._ids[-kept:])
            if _LANDMARK.search(tail):
                self._ids = self._ids[-kept:]
                self._sent += len(tail) - len(text)
            kept *= 2
        self._due = len(self._ids) * 5 // 4 if len(self._ids) > _WINDOW else 0


def _certain(text: str) -> int:
    """How much of a text stays, whatever follows."""
    if text.endswith("\ufffd"):
        return len(text) - 1
    closed = len(text.rstrip(_OPEN))
    return len(text) - len(text[closed:].lstrip(_OPEN_LETTERS))


class Pieces(BaseStreamer):  # type: ignore[misc]  # transformers is not typed
    """What `generate` tells of each token; sends the pieces of text on."""

    def __init__(self, job: Job, send: Callable[[Job, str], None], start: Callable[[list[int]], Detokenizer]) -> None:
        self._job = job
        self._send = send
        self._start = start  # makes the detokenizer, of the prompt's tokens
        self._detokenizer: Detokenizer | None = None
        self.sent = 0  # characters

    def put(self, value: Any) -> None:
        """Takes the prompt's tokens first, then each new one."""
        if (value.dim() > 1 and value.shape[0] > 1) or (self._detokenizer and value.dim() == 1 and len(value) > 1):
            raise InferenceError("a stream generates one text; num_return_sequences has to be 1")
        ids = value.flatten().tolist()
        if self._detokenizer is None:
            self._detokenizer = self._start(ids)
        else:
            self.send(self._detokenizer.push(ids))

    def send(self, piece: str) -> None:
        """Sends a piece, if there is something in it."""
        if piece:
            self.sent += len(piece)
            self._send(self._job, piece)

    def end(self) -> None:
        """All tokens were there; what is still open comes with the pipeline's own answer."""


class _Channel:
    """Pieces on their way from a thread to the event loop, a bounded number of them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._room = threading.Semaphore(_AHEAD)
        self._pieces: deque[str] = deque()
        self._news = asyncio.Event()
        self._over = False

    def send(self, job: Job, piece: str) -> None:
        """From the thread: waits, out of turn, while the client is that far behind. Stopped."""
        if not self._room.acquire(blocking=False):
            job.pause(self._room.acquire)
        self._tell(lambda: self._pieces.append(piece))

    def finish(self, _: Any = None) -> None:
        """From the thread: there are no more."""
        with suppress(RuntimeError):  # the loop is closed: nobody listens
            self._tell(self._end)

    def unblock(self) -> None:
        """Lets a thread go on that waits for room."""
        self._room.release()

    async def receive(self) -> list[str]:
        """All that have come since; empty at the end."""
        while not self._pieces and not self._over:
            self._news.clear()
            await self._news.wait()
        come = list(self._pieces)
        self._pieces.clear()
        return come

    def took(self) -> None:
        """A piece is out: there is room for another."""
        self._room.release()

    def _end(self) -> None:
        self._over = True

    def _tell(self, change: Callable[[], Any]) -> None:
        self._loop.call_soon_threadsafe(self._arrive, change)

    def _arrive(self, change: Callable[[], Any]) -> None:
        change()
        self._news.set()


async def pieces(work: Work, generate: Callable[[Job, Callable[[Job, str], None]], None]) -> AsyncGenerator[str, None]:
    """The pieces that `generate(job, send)` sends from its thread. Raises what it raises, after the pieces before.

    Closed or cancelled, it stops the thread, and has it ended before it returns.
    """
    channel = _Channel()
    job, future = work.start(lambda job: generate(job, channel.send))
    future.add_done_callback(channel.finish)
    try:
        while come := await channel.receive():
            for piece in come:
                yield piece
                channel.took()
        future.result()
    finally:
        job.stop()
        channel.unblock()
        await ended(future)
