"""A stream in a worker that is cancelled by what it does itself: a chunk asks for a slot, and reads the Cancel of its call."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from mlserve import MLModel, frames, running_streams
from mlserve.launch import ThreadLauncher
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest, InferenceResponse, ResponseOutput
from mlserve.worker_stream import Stream


def test_a_task_that_cancels_its_own_stream_is_not_cancelled() -> None:
    """It may be at its end, or in `finally` blocks that await something, when that takes effect."""

    async def main() -> bool:
        async def run() -> str:
            stream.task = asyncio.current_task()
            stream.cancel()
            await asyncio.sleep(0)
            stream.close()
            return "ended"

        stream = Stream(1, 16)
        task = asyncio.create_task(run())
        assert await task == "ended"
        await asyncio.sleep(0)
        return task.cancelled()

    assert not asyncio.run(main())


class Large(MLModel):
    """Streams chunks that need a slot each and await nothing; its `finally` awaits something."""

    ends: ClassVar[list[str]] = []

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        values = np.zeros(100_000, "u1")
        output = ResponseOutput(name="y", shape=[len(values)], datatype="UINT8", data=values)
        ended = "was cut off"
        try:
            while True:
                yield InferenceResponse(model_name=self.name, outputs=[output])
        finally:
            try:
                for _ in range(20):
                    await asyncio.sleep(0.001)
                ended = "came to its end"
            finally:
                self.ends.append(ended)


class Pool:
    """The server's end of a worker that runs in a thread."""

    def __init__(self) -> None:
        self._worker: Any = ThreadLauncher().start()
        self._channel = self._worker.channel
        self._came: list[Any] = []

    def send(self, *sent: Any) -> None:
        for frame in sent:
            self._channel.put(frame)
        self._channel.flush()

    def hear(self, kind: type) -> Any:
        """The next frame of a kind; others are passed over."""
        while True:
            while self._came:
                if isinstance(frame := self._came.pop(0), kind):
                    return frame
            assert select.select([self._channel.sock], [], [], 60)[0], f"no {kind.__name__}"
            self._came = self._channel.receive()

    def close(self) -> None:
        self._channel.sock.shutdown(socket.SHUT_RDWR)
        self._worker._thread.join(60)
        self._worker.close()


def test_finally_of_a_stream_that_reads_its_own_cancel_may_await(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of every stream whose client leaves: the cancellation comes once."""
    monkeypatch.setattr(running_streams, "FLUSH_SECONDS", 60.0)  # as on a machine so fast that no turn is given
    Large.ends.clear()
    settings = ModelSettings(name="large", implementation=f"{__name__}.Large")
    pool = Pool()
    try:
        pool.hear(frames.Hello)
        pool.send(frames.Load(1, settings.model_dump_json().encode(), str(Path.cwd())))
        pool.hear(frames.Loaded)
        pool.send(frames.Open(1, 1, "json", 1000), frames.Push(1, frames.Message([])), frames.Close(1))
        pool.hear(frames.Need)
        pool.send(frames.Cancel(1), frames.Grant(None))
        assert pool.hear(frames.Failed).http_status == 499
        assert Large.ends == ["came to its end"]
    finally:
        pool.close()
