"""A stream in a worker that is cancelled by what it does itself: a chunk asks for a slot, and reads the Cancel of its call."""

from __future__ import annotations

import asyncio

from mlserve.worker_stream import Stream


def test_a_task_that_cancels_its_own_stream_and_ends_without_waiting_is_not_cancelled() -> None:
    async def main() -> bool:
        async def run() -> str:
            stream.task = asyncio.current_task()
            stream.cancel()
            stream.close()
            return "ended"

        stream = Stream(1, 16)
        task = asyncio.create_task(run())
        assert await task == "ended"
        await asyncio.sleep(0)
        return task.cancelled()

    assert not asyncio.run(main())


def test_a_task_that_cancels_its_own_stream_is_cancelled_where_it_waits() -> None:
    async def main() -> bool:
        async def run() -> None:
            stream.task = asyncio.current_task()
            stream.cancel()
            await asyncio.sleep(1000)

        stream = Stream(1, 16)
        task = asyncio.create_task(run())
        await asyncio.wait([task])
        stream.close()
        return task.cancelled()

    assert asyncio.run(main())
