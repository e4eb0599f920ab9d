"""A model whose handlers yield, written as people write them; the tests of such handlers serve this file."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastapi
import numpy as np
import pydantic
from starlette.responses import Response

from mlserve import MLModel
from mlserve.handlers import custom_handler
from mlserve.types import InferenceResponse, ResponseOutput

HERE = Path(__file__).parent
STUCK = 50  # more than anyio has threads


def note(text: str) -> None:
    """Leaves a line for the test to read."""
    with (HERE / "notes.txt").open("a") as notes:
        notes.write(f"{time.time()} {text}\n")


class Named(pydantic.BaseModel):
    name: str = pydantic.Field(alias="Name")


@dataclass
class Public:
    user: str


@dataclass
class Private(Public):
    password: str


def values() -> list[Any]:
    output = ResponseOutput(name="y", shape=[2], datatype="FP32", data=np.float32([0.5, np.nan]))
    return [
        {"at": np.int64(1), "row": np.arange(3)},
        "a text\n",
        b"bytes",
        None,
        InferenceResponse(model_name="m", id="1", outputs=[output]),
        Named(Name="n"),
        Private("ann", "secret"),
    ]


async def asynchronous(count: int, name: str, boom: int) -> AsyncIterator[Any]:
    at = 0
    try:
        for at in range(count):
            if at == boom:
                raise ValueError("the lines met their boom")
            yield {"at": at}
            await asyncio.sleep(0.001)
    finally:
        await asyncio.sleep(0)  # a `finally` may await
        note(f"{name} closed")


def plain(count: int, name: str, boom: int) -> Iterator[Any]:
    began = threading.get_ident()
    at = 0
    try:
        for at in range(count):
            if at == boom:
                raise ValueError("the lines met their boom")
            yield {"at": at}
            time.sleep(0.001)
    finally:
        note(f"{name} closed" if threading.get_ident() == began else f"{name} changed its thread")


def twice(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator over a plain generator."""

    @functools.wraps(handler)
    def wrapper(*args: Any, **more: Any) -> Any:
        for value in handler(*args, **more):
            yield value
            yield value

    return wrapper


def passing(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that is no generator itself."""

    @functools.wraps(handler)
    def wrapper(*args: Any, **more: Any) -> Any:
        return handler(*args, **more)

    return wrapper


class Yielding(MLModel):
    @custom_handler("/async", "GET")
    async def asynchronous(self, count: int = 3, name: str = "", boom: int = -1) -> AsyncIterator[Any]:
        async for value in asynchronous(count, name, boom):
            yield value

    @custom_handler("/plain", "GET")
    def plain(self, count: int = 3, name: str = "", boom: int = -1) -> Iterator[Any]:
        yield from plain(count, name, boom)

    @custom_handler("/fastapi/async", "GET")
    async def asynchronous_by_fastapi(
        self, count: int = fastapi.Query(3), name: str = fastapi.Query(""), boom: int = fastapi.Query(-1)
    ) -> AsyncIterator[Any]:
        async for value in asynchronous(count, name, boom):
            yield value

    @custom_handler("/fastapi/plain", "GET")
    def plain_by_fastapi(
        self, count: int = fastapi.Query(3), name: str = fastapi.Query(""), boom: int = fastapi.Query(-1)
    ) -> Iterator[Any]:
        yield from plain(count, name, boom)

    # -- what is yielded

    @custom_handler("/values", "GET")
    async def values(self):  # type: ignore[no-untyped-def]
        for value in values():
            yield value

    @custom_handler("/values/fastapi", "GET")
    def values_by_fastapi(self, _: int = fastapi.Query(0)):  # type: ignore[no-untyped-def]
        yield from values()

    @custom_handler("/promised", "GET")
    async def promised(self) -> AsyncGenerator[Public, None]:
        yield Private("ann", "secret")

    @custom_handler("/promised/fastapi", "GET")
    def promised_by_fastapi(self, _: int = fastapi.Query(0)) -> Iterator[Public]:
        yield Private("ann", "secret")

    @custom_handler("/none", "GET")
    async def none(self) -> AsyncIterator[int]:
        for value in ():
            yield value

    # -- the head

    @custom_handler("/head", "GET")
    async def head(self, response: Response) -> AsyncIterator[int]:
        response.status_code = 207
        response.headers["x-kind"] = "numbers"
        response.headers["content-type"] = "application/x-ndjson"
        yield 1

    @custom_handler("/head/fastapi", "GET")
    def head_by_fastapi(self, response: Response, _: int = fastapi.Query(0)) -> Iterator[int]:
        response.status_code = 207
        response.headers["x-kind"] = "numbers"
        response.headers["content-type"] = "application/x-ndjson"
        yield 1

    @custom_handler("/refusing", "GET")
    async def refusing(self) -> AsyncIterator[int]:
        raise fastapi.HTTPException(418, "no")
        yield 1

    @custom_handler("/refusing/fastapi", "GET")
    def refusing_by_fastapi(self, _: int = fastapi.Query(0)) -> Iterator[int]:
        raise fastapi.HTTPException(418, "no")
        yield 1

    # -- around it

    @custom_handler("/decorated", "GET")
    @twice
    def decorated(self) -> Iterator[int]:
        yield from range(2)

    @custom_handler("/passed", "GET")
    @passing
    async def passed(self, _: int = fastapi.Query(0)) -> AsyncIterator[int]:
        yield 1

    @custom_handler("/listed", "GET")
    def listed(self) -> Any:
        return (at for at in range(3))  # not a handler that yields: a returned value, as FastAPI has it

    @custom_handler("/stuck", "GET")
    def stuck(self, _: int = fastapi.Query(0)) -> Iterator[int]:
        yield 1
        while not (HERE / "gate").exists():
            time.sleep(0.05)

    @custom_handler("/ordinary", "GET")
    def ordinary(self, _: int = fastapi.Query(0)) -> str:
        return threading.current_thread().name
