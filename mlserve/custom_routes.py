"""REST paths that models bring along: each is an ASGI application that calls the worker where the model lives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from mlserve.errors import BodyTooLarge, CallerLeft, ModelNotFound
from mlserve.frames import Handle
from mlserve.models import Model, Models
from mlserve.types import State

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class CustomRoute:
    """One handler of one model, as an ASGI application."""

    def __init__(self, models: Models, name: str, handler: tuple[str, str], limit_bytes: int) -> None:
        self._models = models
        self._name = name
        self._handler = handler
        self._limit_bytes = limit_bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CustomRoute) and (self._name, self._handler) == (other._name, other._handler)

    def __hash__(self) -> int:
        return hash((self._name, self._handler))

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        body = await self._read(receive)
        model, place = self._find()  # only now: it may have been loaded again while the body came in
        frame = Handle(
            call=0,
            model=model.number,
            place=place,
            method=scope["method"],
            path=scope["path"],
            query=scope.get("query_string", b""),
            headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]],
            path_parameters={name: str(value) for name, value in scope.get("path_params", {}).items()},
            body=body,
        )
        with model.in_use():
            answer = await model.pool.handle(frame)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    def _find(self) -> tuple[Model, int]:
        """The model as it is now, and which of its handlers this is."""
        model = self._models.ready(self._name)
        handlers = [tuple(one) for one in model.details.get("handlers", ())]
        if self._handler not in handlers:
            raise ModelNotFound(self._name, reason=f"it has no handler for {self._handler[1]} {self._handler[0]} now")
        return model, handlers.index(self._handler)

    async def _read(self, receive: Receive) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise CallerLeft("the client left before the end of its request")
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > self._limit_bytes:
                raise BodyTooLarge(f"request body: more than the limit of {self._limit_bytes} bytes")
            if not message.get("more_body", False):
                return b"".join(pieces)


def custom_routes(models: Models, limit_bytes: int) -> Iterator[tuple[str, str, CustomRoute]]:
    """Path, method and application of every handler of the models that are ready; of versions, the default one's."""
    for model in models:
        if model.state is State.READY and models.is_default(model):
            for path, method in model.details.get("handlers", ()):
                yield path, method, CustomRoute(models, model.name, (path, method), limit_bytes)
