"""A request to a custom handler as ASGI has it, made from its frame, and where what it answers goes to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel

from mlserve.frames import Handle
from mlserve.plain_streams import in_thread

__all__ = ["Exchange", "Receive", "Send", "note_response", "receive_of", "scope_of"]

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class Exchange(NamedTuple):
    """One request, and the way of its answer."""

    frame: Handle
    receive: Receive
    send: Send
    send_alone: Send  # for an answer that nothing follows, no background task and nothing in the handler
    responses: list[Any]  # what sends itself; whoever runs the handler closes its body, since Starlette does not


def scope_of(frame: Handle, app: Any, **changed: Any) -> dict[str, Any]:
    """The scope of a request, with what is changed in it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": frame.http_version,
        "method": frame.method,
        "scheme": "http",
        "path": frame.path,
        "raw_path": frame.path.encode(),
        "root_path": frame.root_path,
        "query_string": frame.query,
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in frame.headers],
        "path_params": frame.path_parameters,
        "client": frame.client,
        "server": frame.server,
        "app": app,
        **changed,
    }


def receive_of(frame: Handle, left: Callable[[], bool]) -> Receive:
    """The application's way to the body: all of it at once; after that only that the client has left.

    Who waits for that need not be woken, since it is cancelled then.
    """
    messages = [{"type": "http.request", "body": frame.body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if left():
            return {"type": "http.disconnect"}
        await anyio.lowlevel.checkpoint_if_cancelled()  # is_disconnected() only looks: it shall not take the body
        if not messages:
            await anyio.sleep_forever()
        return messages.pop()

    return receive


def note_response(response: Any, responses: list[Any]) -> None:
    """Notes a response that will send itself, once. A plain iterator that is its body gets a thread of its own.

    Starlette's would be one of 40 that all streams share, and run on uncounted when its client has left.
    """
    if response in responses:
        return
    responses.append(response)
    plain = _plain_iterator(getattr(response, "body_iterator", None))
    if plain is not None:
        response.body_iterator = in_thread(iter(plain))


def _plain_iterator(body: Any) -> Any:
    """The plain iterator that Starlette has wrapped already, and not begun; None if there is none."""
    from starlette.concurrency import iterate_in_threadpool

    if getattr(body, "ag_code", None) is not iterate_in_threadpool.__code__ or body.ag_frame is None:
        return None
    return body.ag_frame.f_locals.get("iterator")
