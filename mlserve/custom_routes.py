"""REST paths that models bring along: each is an ASGI application that calls the worker where the model lives."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

import anyio

from mlserve.deadlines import TIMEOUT_HEADER, header_seconds
from mlserve.errors import BodyTooLarge, CallerLeft, InvalidRequest, ModelNotFound
from mlserve.fixed_answers import send_fixed
from mlserve.frames import Handle, Handled, Piece
from mlserve.leaving import while_connected
from mlserve.models import Model, Models
from mlserve.pool import OnLeave
from mlserve.settings import Settings
from mlserve.types import State

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
_DISCONNECT_EXTENSION = "mlserve.disconnect"  # of our HTTP edge: see rest/h1_exchange.py
_READ_GRACE_SECONDS = 0.5  # beyond the time of the call, within which it tells so itself if its client reads
_NAMED = 8  # so many paths stand in an error at most
_Handler = tuple[str, str, str]  # path, method, the key of parameters.extra by which a model claims the path
ErrorCodes = dict[str, str]  # of a path whose clients look for an `error_code`: by HTTP status


class Host(Protocol):
    """What these routes need of the data plane."""

    models: Models
    settings: Settings

    def handle(
        self, model: Model, frame: Handle, timeout_seconds: float | None, on_leave: OnLeave | None
    ) -> AsyncGenerator[list[Handled | Piece], None]: ...

    def timeout_of(self, model: Model, asked: float | None) -> float | None: ...


class CustomRoute:
    """One handler of one model, as an ASGI application. Without a version, of the one that is the default by then."""

    def __init__(self, host: Host, name: str, version: str | None, handler: _Handler) -> None:
        self._host = host
        self._name = name
        self._version = version
        self._handler = handler

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CustomRoute) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        return self._name, self._version, self._handler

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        timeout = header_seconds(_header(scope, TIMEOUT_HEADER.encode()))
        body = await self._read(receive)
        model, place = self._find()  # only now: it may have been loaded again while the body came in
        fixed = model.details["fixed"][place]
        if fixed is not None:
            self._check_serves(model)
            await send_fixed(fixed, send)
            return
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
            client=scope.get("client"),
            server=scope.get("server"),
            http_version=scope["http_version"],
            root_path=scope.get("root_path", ""),
        )
        on_leave = (scope.get("extensions") or {}).get(_DISCONNECT_EXTENSION)
        limit = self._host.timeout_of(model, timeout)
        answers = self._host.handle(model, frame, timeout, on_leave)
        with anyio.move_on_after(None if limit is None else limit + _READ_GRACE_SECONDS) as time:
            if on_leave is None:
                await while_connected(receive, partial(_send_all, answers, send, time))
            else:
                await _send_all(answers, send, time)
            return
        raise CallerLeft("the client did not read its answer in time")

    def _find(self) -> tuple[Model, int]:
        """The model as it is now, and which of its handlers this is."""
        model = self._host.models.ready(self._name, self._version)
        handlers = _handlers_of(model)
        if self._handler not in handlers:
            told = f"it has no handler for {self._handler[1]} {self._handler[0]} now"
            raise ModelNotFound(self._name, self._version, told)
        return model, handlers.index(self._handler)

    def _check_serves(self, model: Model) -> None:
        """ModelNotFound while no worker could run the model: its own answer would not come then."""
        state, reason = model.condition()
        if state is not State.READY:
            raise ModelNotFound(self._name, self._version, reason)

    async def _read(self, receive: Receive) -> bytes:
        limit_bytes = self._host.settings.max_body_bytes
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise CallerLeft("the client left before the end of its request")
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > limit_bytes:
                raise BodyTooLarge(f"request body: more than the limit of {limit_bytes} bytes")
            if not message.get("more_body", False):
                return b"".join(pieces)


async def _send_all(answers: AsyncGenerator[list[Handled | Piece], None], send: Send, time: anyio.CancelScope) -> None:
    """Sends an answer: at once what has come of it together. A slow client slows the handler.

    The time is for the answer only: background tasks may take longer.
    """
    async with aclosing(answers):
        async for pieces in answers:
            first, last = pieces[0], pieces[-1]
            if isinstance(first, Handled):
                headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in first.headers]
                await send({"type": "http.response.start", "status": first.status, "headers": headers})
            body = first.body if first is last else b"".join(one.body for one in pieces)
            await send({"type": "http.response.body", "body": body, "more_body": last.more})
            if not last.more:
                time.deadline = math.inf


class Contested:
    """A path that several models could answer, and none is chosen to: says how to ask one, and how to choose."""

    def __init__(self, handler: _Handler, names: list[str]) -> None:
        self._handler = handler
        self._names = names

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Contested) and (self._handler, self._names) == (other._handler, other._names)

    def __hash__(self) -> int:
        return hash(self._handler)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        path, method, claimed_by = self._handler
        asked = ", ".join(f"{_prefix(name)}{path}" for name in self._names[:_NAMED])
        asked += ", …" if len(self._names) > _NAMED else ""
        raise InvalidRequest(
            f"{len(self._names)} models answer {method} {path}; ask one of them at {asked}, or choose one of them for "
            f'{path}: the only one with "parameters": {{"extra": {{"{claimed_by}": true}}}} in its settings'
        )


def custom_routes(host: Host) -> Iterator[tuple[str, str, CustomRoute | Contested, ErrorCodes]]:
    """Path, method, application and codes of errors of every handler of the models that are ready.

    Each has the path that it declares (of versions, the default one's), and the same below its model's own path.
    """
    claims: dict[_Handler, list[Model]] = {}
    models = host.models
    ready = [model for model in models if model.state is State.READY]
    for model in ready:
        for handler in _handlers_of(model) if models.is_default(model) else ():
            claims.setdefault(handler, []).append(model)
    for handler, owners in claims.items():
        chosen = _chosen(handler, owners)
        if len(chosen) == 1:
            yield *handler[:2], CustomRoute(host, chosen[0].name, None, handler), _codes_of(chosen[0], handler)
        elif chosen:
            names = [model.name for model in chosen]
            yield *handler[:2], Contested(handler, names), _codes_of(chosen[0], handler)
    for model in ready:
        own = _prefix(model.name)
        for handler in _handlers_of(model):
            (path, method, _), codes = handler, _codes_of(model, handler)
            if models.is_default(model):
                yield f"{own}{path}", method, CustomRoute(host, model.name, None, handler), codes
            if model.version:
                below = f"{own}/versions/{_literal(model.version)}{path}"
                yield below, method, CustomRoute(host, model.name, model.version, handler), codes


def _header(scope: Any, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def _handlers_of(model: Model) -> list[_Handler]:
    return [(path, method, claimed_by) for path, method, claimed_by in model.details.get("handlers", ())]


def _codes_of(model: Model, handler: _Handler) -> ErrorCodes:
    codes: ErrorCodes = model.details["error_codes"][_handlers_of(model).index(handler)]
    return codes


def _chosen(handler: _Handler, owners: list[Model]) -> list[Model]:
    """Of the models with the same handler, the one that answers; several where that is left open, none if none may."""
    claimed_by = handler[2]
    if not claimed_by:
        return owners[:1]
    claims = [(model, _extra_of(model).get(claimed_by)) for model in owners]
    named = [model for model, claim in claims if claim]
    return named or [model for model, claim in claims if claim is not False]


def _extra_of(model: Model) -> dict[str, Any]:
    parameters = model.settings.parameters
    return (parameters.extra or {}) if parameters is not None else {}


def _prefix(name: str) -> str:
    return f"/v2/models/{_literal(name)}"


def _literal(name: str) -> str:
    """A name within a path's template: braces would be parameters."""
    return name.replace("{", "%7B").replace("}", "%7D")
