"""A model whose handlers stream, written as people write them; the tests of handlers' streams serve this file."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import fastapi
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from mlserve import MLModel
from mlserve.handlers import custom_handler

HERE = Path(__file__).parent
EVENTS = "text/event-stream"


def note(text: str) -> None:
    """Leaves a line, with the time, for the test to read."""
    with (HERE / "notes.txt").open("a") as notes:
        notes.write(f"{time.time()} {text}\n")


async def numbers(count: int, pause: float, size: int, name: str, boom: int) -> AsyncIterator[bytes]:
    at = 0
    if boom == 0:
        raise ValueError("the numbers met their boom")
    try:
        for at in range(count):
            if at == boom:
                raise ValueError("the numbers met their boom")
            yield f"data: {at} {'x' * size}\n\n".encode()
            await asyncio.sleep(pause)
    finally:
        await asyncio.sleep(0)  # a `finally` may await
        note(f"{name} closed at {at}")


def plain_numbers(count: int, pause: float, size: int, name: str, boom: int) -> Iterator[str]:
    at = 0
    try:
        for at in range(count):
            if at == boom:
                raise ValueError("the numbers met their boom")
            yield f"data: {at} {'x' * size}\n\n"
            time.sleep(pause)
    finally:
        note(f"{name} closed at {at}")


async def block(name: str) -> None:
    """Keeps its worker busy while a file is there, and gives way to nothing."""
    note(f"{name} began")
    end = time.monotonic() + 80  # longer than a test waits
    while (HERE / f"{name}.gate").exists() and time.monotonic() < end:
        time.sleep(0.005)
    note(f"{name} ended")


class Streaming(MLModel):
    async def load(self) -> bool:
        (HERE / "file.bin").write_bytes(bytes(range(256)) * 4096)
        return True

    async def unload(self) -> bool:
        note("unloaded")
        return True

    @custom_handler("/async", "GET")
    async def asynchronous(
        self, count: int = 5, pause: float = 0, size: int = 0, name: str = "", boom: int = -1
    ) -> Any:
        return StreamingResponse(numbers(count, pause, size, name, boom), media_type=EVENTS)

    @custom_handler("/async/then", "GET")
    async def then(self, name: str) -> Any:
        return StreamingResponse(
            numbers(10**6, 0.01, 0, name, -1), background=BackgroundTask(note, f"{name} cleaned up")
        )

    @custom_handler("/plain", "GET")
    def plain(self, count: int = 5, pause: float = 0, size: int = 0, name: str = "", boom: int = -1) -> Any:
        return StreamingResponse(plain_numbers(count, pause, size, name, boom), media_type=EVENTS)

    @custom_handler("/fastapi", "GET")
    async def by_fastapi(
        self,
        count: int = fastapi.Query(5),
        pause: float = fastapi.Query(0),
        size: int = fastapi.Query(0),
        name: str = fastapi.Query(""),
        boom: int = fastapi.Query(-1),
    ) -> Any:
        return StreamingResponse(numbers(count, pause, size, name, boom), media_type=EVENTS)

    @custom_handler("/lines")
    async def lines(self, request: Request) -> Response:
        async def answers() -> AsyncIterator[str]:
            async for piece in request.stream():
                for word in piece.decode().split():
                    yield json.dumps({"word": word}) + "\n"

        return StreamingResponse(answers(), 207, {"x-kind": "words"}, "application/x-ndjson")

    @custom_handler("/silent", "GET")
    async def silent(self, name: str) -> Response:
        async def nothing() -> AsyncIterator[bytes]:
            try:
                await asyncio.sleep(1000)
                yield b""
            finally:
                note(f"{name} closed")

        return StreamingResponse(nothing())

    @custom_handler("/deaf", "GET")
    async def deaf(self, name: str) -> Response:
        async def steps() -> AsyncIterator[bytes]:
            try:
                while True:
                    try:
                        await asyncio.sleep(0.01)
                    except asyncio.CancelledError:
                        note(f"{name} deaf")
                    yield b"x"
            finally:
                note(f"{name} closed")

        return StreamingResponse(steps())

    @custom_handler("/file", "GET")
    async def file(self) -> Response:
        return FileResponse(HERE / "file.bin", background=BackgroundTask(note, "file sent"))

    @custom_handler("/large", "GET")
    async def large(self) -> Any:
        return {"text": "x" * (3 << 20)}

    @custom_handler("/later", "GET")
    async def later(self, name: str) -> Response:
        async def work() -> None:
            note(f"{name} began")
            while (HERE / f"{name}.gate").exists():
                await asyncio.sleep(0.005)
            note(f"{name} ended")

        return JSONResponse({"name": name}, background=BackgroundTask(work))

    @custom_handler("/later/fastapi", "GET")
    async def later_by_fastapi(self, background: fastapi.BackgroundTasks, name: str = fastapi.Query()) -> Any:
        background.add_task(note, f"{name} ended")
        return {"name": name}

    @custom_handler("/blocks", "GET")
    async def blocks(self, name: str, size: int) -> Response:
        return JSONResponse("x" * size, background=BackgroundTask(block, name))

    @custom_handler("/blocks/fastapi", "GET")
    async def blocks_by_fastapi(
        self, background: fastapi.BackgroundTasks, name: str = fastapi.Query(), size: int = fastapi.Query()
    ) -> Any:
        background.add_task(block, name)
        return "x" * size

    @custom_handler("/blocks/streaming", "GET")
    async def blocks_streaming(self, name: str, size: int) -> Response:
        async def text() -> AsyncIterator[str]:
            yield '"' + "x" * size
            yield '"'
            await block(name)

        return StreamingResponse(text(), headers={"content-length": str(size + 2)})

    @custom_handler("/state", "GET")
    async def state(self, request: Request) -> Any:
        request.app.state.seen = getattr(request.app.state, "seen", 0) + 1
        return [request.app.state.seen, await request.is_disconnected(), (await request.body()).decode()]

    @custom_handler("/state/fastapi", "GET")
    async def state_by_fastapi(self, request: Request, step: int = fastapi.Query(1)) -> Any:
        request.app.state.seen = getattr(request.app.state, "seen", 0) + step
        return request.app.state.seen
