"""A request to a custom handler as ASGI has it, and what an ASGI application answers, as frames."""

from __future__ import annotations

from typing import Any

import anyio

from mlserve.frames import Handle, Handled

__all__ = ["answer_of", "receive_of", "scope_of"]


def scope_of(frame: Handle, **changed: Any) -> dict[str, Any]:
    """The scope of a request, with what is changed in it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": frame.method,
        "scheme": "http",
        "path": frame.path,
        "raw_path": frame.path.encode(),
        "root_path": "",
        "query_string": frame.query,
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in frame.headers],
        "path_params": frame.path_parameters,
        **changed,
    }


def receive_of(frame: Handle) -> Any:
    """The application's way to the body: all of it at once; after that nothing comes, since nobody leaves."""
    messages = [{"type": "http.request", "body": frame.body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not messages:
            await anyio.sleep_forever()
        return messages.pop()

    return receive


async def answer_of(app: Any, frame: Handle, **changed: Any) -> Handled:
    """What the application answers, once all of it is there. What it raises goes on."""
    started: dict[str, Any] = {}
    pieces: list[bytes] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        else:
            pieces.append(bytes(message.get("body", b"")))

    await app(scope_of(frame, **changed), receive_of(frame), send)
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in started.get("headers", ())]
    return Handled(frame.call, int(started.get("status", 200)), headers, b"".join(pieces))
