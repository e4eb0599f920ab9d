"""Answers of custom handlers that never change: taken in the worker when the model is loaded, given by the server."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mlserve.asgi_frames import Exchange, receive_of
from mlserve.frames import Handle
from mlserve.handlers import CustomHandler

__all__ = ["Fixed", "fixed_answer", "send_fixed"]

Fixed = tuple[int, list[tuple[str, str]], str]  # status, headers, and the body in base64: it travels as JSON


async def fixed_answer(marked: CustomHandler, handler: Callable[[Exchange], Awaitable[None]]) -> Fixed | None:
    """What a handler answers to an empty request; None for one whose answer is not fixed."""
    if not marked.fixed:
        return None
    frame = Handle(0, 0, 0, marked.rest_method, marked.rest_path, b"", [], {}, b"")
    sent: list[Mapping[str, Any]] = []

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    await handler(Exchange(frame, receive_of(frame, lambda: False), send, send, []))
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in sent[0]["headers"]]
    return sent[0]["status"], headers, b64encode(b"".join(one.get("body", b"") for one in sent[1:])).decode()


async def send_fixed(fixed: Fixed, send: Callable[[Any], Awaitable[None]]) -> None:
    """Gives the answer to a client."""
    status, headers, body = fixed
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": b64decode(body), "more_body": False})
