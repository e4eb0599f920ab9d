"""Handlers that yield: each value goes out as soon as it is there, as a line of JSON.

The head of the answer waits for the first value. So a handler that fails before is answered as others are, and what it
has put into its `response` by then is in the head.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, get_args, get_origin

from mlserve.answering import json_of
from mlserve.asgi_frames import note_response
from mlserve.plain_streams import in_thread

__all__ = ["is_stream", "item_of", "lines_of", "yields"]

_MEDIA_TYPE = "application/jsonl"  # as FastAPI has it
_END: Any = object()


def yields(handler: Callable[..., Any]) -> bool:
    """Whether a handler is a generator, async or plain, also below decorators that say what they wrap."""
    return any(
        inspect.isasyncgenfunction(one) or inspect.isgeneratorfunction(one)
        for one in (handler, inspect.unwrap(handler))
    )


def is_stream(made: Any) -> bool:
    """Whether this is what a handler that yields gives, and not what a decorator has made of it."""
    return isinstance(made, (AsyncIterator, Iterator))


def item_of(hint: Any) -> Any:
    """What the return annotation of a handler that yields says about each value."""
    kind, args = get_origin(hint), get_args(hint)
    told = args and isinstance(kind, type) and issubclass(kind, (AsyncIterable, Iterable))
    return args[0] if told else inspect.Parameter.empty


async def lines_of(values: Any, hint: Any, injected: Any, responses: list[Any]) -> Any:
    """The response that sends values, with what the handler has put into the one that it was given, if any.

    It is noted among `responses`, whose bodies are closed at the end, before the first value is asked for.
    """
    from starlette.responses import StreamingResponse

    lines = _Lines(values, hint)
    response = StreamingResponse(lines, media_type=_MEDIA_TYPE)
    note_response(response, responses)
    await lines.begin()
    if injected is not None:
        told = {name for name, _ in injected.raw_headers}
        response.raw_headers = [one for one in response.raw_headers if one[0] not in told] + injected.raw_headers
        response.status_code = injected.status_code or response.status_code
    return response


class _Lines(AsyncIterator[bytes]):
    """Values as lines. A plain iterator gets a thread of its own, as a model's does, since its steps may block."""

    def __init__(self, values: Any, hint: Any) -> None:
        self._values: Any = values if isinstance(values, AsyncIterator) else in_thread(values)
        self._hint = hint
        self._first: Any = _END

    async def begin(self) -> None:
        """Makes the first line; raises what goes wrong with it."""
        self._first = await self._next()

    async def __anext__(self) -> bytes:
        line, self._first = self._first, None
        if line is None:
            line = await self._next()
        if line is _END:
            raise StopAsyncIteration
        return line  # type: ignore[no-any-return]

    async def _next(self) -> Any:
        value = await anext(self._values, _END)
        return value if value is _END else json_of(value, self._hint) + b"\n"

    async def aclose(self) -> None:
        """Closes the generator, so that its `finally` blocks run."""
        close = getattr(self._values, "aclose", None)
        if close is not None:
            await close()
