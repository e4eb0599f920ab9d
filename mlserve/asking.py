"""Loads and unloads that a pool asks of one worker: who waits for their outcome, and which loads it has in hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from mlserve import frames
from mlserve.channel import ChannelClosed
from mlserve.errors import ModelLoadError, WorkerDied

__all__ = ["Asking"]


class _Question:
    """A Load or Unload that waits for its answer; None stays if the worker dies first."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.answer: Any = None


class Asking:
    """What one worker was asked for."""

    def __init__(self, send: Callable[[Any], None], on_end: Callable[[], None]) -> None:
        self.under_way = 0  # loads and unloads: the worker answers nothing else meanwhile
        self._send = send
        self._on_end = on_end  # called when one of them is over
        self._questions: dict[int, _Question] = {}  # who waits for Loaded or Unloaded, by model
        self._loads: dict[int, None] = {}  # models that it is loading; an answer ends that, not who waits for it

    @property
    def loads(self) -> list[int]:
        """The models that the worker is loading."""
        return list(self._loads)

    async def load(self, frame: frames.Load) -> frames.Loaded:
        """Loads a model. ModelLoadError with the reason if that fails."""
        self._loads[frame.model] = None
        outcome = await self._ask(frame.model, frame)
        if isinstance(outcome, frames.LoadFailed):
            error = ModelLoadError(outcome.message, outcome.http_status)
            error.__notes__ = [outcome.traceback]  # type: ignore[attr-defined]  # add_note came with 3.11
            raise error
        return outcome  # type: ignore[no-any-return]  # Loaded, as sent for a Load frame

    async def unload(self, model: int) -> None:
        """Unloads a model, after the calls that were sent before."""
        await self._ask(model, frames.Unload(model))

    async def _ask(self, model: int, frame: Any) -> Any:
        question = self._questions[model] = _Question()
        self.under_way += 1
        try:
            self._send(frame)
            await question.done.wait()
        except ChannelClosed:
            pass  # the answer stays None
        finally:
            del self._questions[model]
            self.under_way -= 1
            self._on_end()
        if question.answer is None:
            raise WorkerDied("the worker process died while it loaded or unloaded a model")
        return question.answer

    def answered(self, frame: frames.Loaded | frames.LoadFailed | frames.Unloaded) -> None:
        """The worker says what has come of it."""
        self._loads.pop(frame.model, None)
        question = self._questions.get(frame.model)
        if question is not None:
            question.answer = frame
            question.done.set()

    def lost(self) -> None:
        """There is no worker any more."""
        for question in self._questions.values():
            question.done.set()
