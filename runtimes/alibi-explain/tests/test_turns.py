"""Explanations in threads whose callers leave: their questions end, and the next explanation has its turn."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from mlserve_alibi_explain.turns import ask, in_turn

pytestmark = pytest.mark.timeout(120)


class Explanation:
    """Asks a question that is never answered in time, before its caller leaves or after."""

    def __init__(self, asks_after: bool) -> None:
        self.asks_after = asks_after
        self.began = anyio.Event()
        self.has_left = threading.Event()
        self.questions = 0
        self.ended_by: list[BaseException] = []

    def __call__(self) -> None:
        if self.asks_after:
            anyio.from_thread.run_sync(self.began.set)
            assert self.has_left.wait(60)
        try:
            ask(self.question, "why")
        except BaseException as error:
            self.ended_by.append(error)
            raise

    async def question(self, text: str) -> None:
        assert text == "why"
        self.questions += 1
        self.began.set()
        await anyio.lowlevel.checkpoint()
        await anyio.sleep_forever()


async def leave_by_scope(explanation: Explanation) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(in_turn, explanation)
        await explanation.began.wait()
        tasks.cancel_scope.cancel()
        for _ in range(5):  # until each task has been told
            await cycle()
        explanation.has_left.set()


async def leave_as_a_worker_cancels(explanation: Explanation) -> None:
    task = asyncio.current_task()
    assert task is not None

    async def leave() -> None:
        await explanation.began.wait()
        task.cancel()
        for _ in range(5):
            await cycle()
        explanation.has_left.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave)
        with pytest.raises(asyncio.CancelledError):
            await in_turn(explanation)
        if sys.version_info >= (3, 11):
            task.uncancel()


async def cycle() -> None:
    with anyio.CancelScope(shield=True):
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("asks_after", [False, True])
@pytest.mark.parametrize("leave", [leave_by_scope, leave_as_a_worker_cancels])
def test_a_caller_that_leaves_ends_the_question_or_the_next_one(leave: Any, asks_after: bool) -> None:
    async def live() -> None:
        explanation = Explanation(asks_after)
        await leave(explanation)
        (end,) = explanation.ended_by
        assert not isinstance(end, Exception)  # which an explainer might catch
        assert explanation.questions == (0 if asks_after else 1)
        assert await in_turn(lambda: ask(answered)) == 42

    anyio.run(live)


async def answered() -> int:
    await anyio.lowlevel.checkpoint()
    return 42


def test_what_a_question_raises_is_raised_where_it_is_asked() -> None:
    async def failing() -> None:
        raise ZeroDivisionError("no luck")

    def explain() -> str:
        with pytest.raises(ZeroDivisionError, match="no luck"):
            ask(failing)
        return "explained"

    assert anyio.run(in_turn, explain) == "explained"
