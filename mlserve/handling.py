"""Runs a model's custom handlers in its worker: finds their arguments by annotation, and makes an HTTP answer.

A handler may take, by annotation:

    request: Request            the whole request, as Starlette has it
    x: int                      a path parameter, if the path has {x}; else a query parameter
    payload: dict               the JSON body, for dicts, lists, msgspec Structs, dataclasses, pydantic models;
                                of several such arguments, each is the member of its name
    payload: bytes              the body as it came
    response: Response          headers and a status for the answer

and returns a Response, or anything that JSON can say, by its return annotation (answering.py). It may be a plain or an
async method; one that yields streams its values as lines of JSON (handler_lines.py). A handler that uses FastAPI (Body,
Query, Depends, UploadFile and the like) is run by FastAPI, which the module of the model has imported then; what it
gives becomes JSON here all the same.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from functools import cached_property
from types import SimpleNamespace
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints
from urllib.parse import parse_qsl

from mlserve.annotations import check_convertible, is_body, unnamed
from mlserve.answering import json_of
from mlserve.arguments import convert, reason_of
from mlserve.asgi_frames import Exchange, note_response, scope_of
from mlserve.errors import InvalidRequest, ModelLoadError
from mlserve.handler_lines import is_stream, item_of, lines_of, yields
from mlserve.handlers import CustomHandler
from mlserve.types import Model

__all__ = ["Handler", "Shared", "make_handler"]

Handler = Callable[[Exchange], Awaitable[None]]

_EMPTY = inspect.Parameter.empty
_PLACE = re.compile(r"\{(\w+)(?::\w+)?\}")  # a parameter in a path
_INVALID_STATUS = 422
_WITHOUT_BODY = (204, 205, 304)
_responding: ContextVar[list[Any]] = ContextVar("_responding")  # of the exchange that FastAPI runs


class Shared:
    """What the handlers of one model have in common."""

    @cached_property
    def app(self) -> Any:
        """Their `request.app`: an application without routes, whose `state` they share in this worker."""
        from starlette.applications import Starlette  # a worker without handlers needs no web library

        return Starlette()


def make_handler(marked: CustomHandler, method: Callable[..., Any], shared: Shared) -> Handler:
    """Runs a method: answers a request. InvalidRequest if an argument is missing or of the wrong kind."""
    arguments = inspect.signature(method).parameters
    hints = _hints_of(method)
    if any(_is_of_fastapi(one.default, hints.get(name)) for name, one in arguments.items()):
        return _ByFastAPI(marked, method, shared)
    return _ByAnnotation(marked, method, shared)


def _hints_of(method: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a method, without those that have a name that only type checkers can resolve."""
    try:
        return get_type_hints(method, include_extras=True)
    except Exception:
        return {
            name: hint
            for name, text in inspect.get_annotations(getattr(method, "__func__", method)).items()
            if (hint := _resolved(text, method)) is not _EMPTY
        }


def _resolved(text: Any, method: Callable[..., Any]) -> Any:
    names = getattr(inspect.unwrap(method), "__globals__", {})
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"one": text}), names, include_extras=True)["one"]
    except Exception:
        return _EMPTY


# -- by annotation -----------------------------------------------------------------------------------------------------


class _Argument(NamedTuple):
    name: str
    place: str  # request, response, path, query or body; "either": query if it is there, else body
    hint: Any
    default: Any


class _ByAnnotation:
    """One handler of one model, with its arguments understood once."""

    def __init__(self, marked: CustomHandler, method: Callable[..., Any], shared: Shared) -> None:
        self._method = method
        self._shared = shared
        in_path = set(_PLACE.findall(marked.rest_path))
        hints = _hints_of(method)
        self._returns = hints.get("return", _EMPTY)
        self._yields = yields(method)
        self._arguments = [
            _argument(one, hints.get(name, one.annotation), in_path)
            for name, one in inspect.signature(method).parameters.items()
            if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
        ]
        self._bodies = sum(one.place in ("body", "either") for one in self._arguments)

    async def __call__(self, exchange: Exchange) -> None:
        """Answers one request."""
        found = self._find_arguments(exchange)
        injected = next((found[one.name] for one in self._arguments if one.place == "response"), None)
        try:
            answer = self._method(**found)
            if inspect.isawaitable(answer):
                answer = await answer
            if self._yields and is_stream(answer):
                answer = await lines_of(answer, item_of(self._returns), injected, exchange.responses)
        except Exception as error:
            answer = _as_response(error)
            if answer is None:
                raise
        if isinstance(answer, _responses().Response):
            await self._respond(answer, exchange)
        else:
            await _send_json(answer, self._returns, injected, exchange)

    async def _respond(self, response: Any, exchange: Exchange) -> None:
        """Lets a response send itself. One that streams does so as the client takes it."""
        response.status_code = response.status_code or 200
        note_response(response, exchange.responses)
        send = exchange.send_alone if _ends_with_its_answer(response) else exchange.send
        await response(scope_of(exchange.frame, self._shared.app), exchange.receive, send)

    def _find_arguments(self, exchange: Exchange) -> dict[str, Any]:
        query = dict(parse_qsl(exchange.frame.query.decode("latin-1"), keep_blank_values=True))
        found = {one.name: self._find(one, exchange, query) for one in self._arguments}
        return {name: value for name, value in found.items() if value is not _EMPTY}

    def _find(self, argument: _Argument, exchange: Exchange, query: Mapping[str, str]) -> Any:
        name, place, hint, default = argument
        frame = exchange.frame
        if place == "request":
            return _starlette_request(exchange, self._shared)
        if place == "response":
            return _starlette_response()
        if place == "path":
            return _converted(frame.path_parameters[name], hint, f"path parameter '{name}'")
        if place == "query" or (place == "either" and name in query):
            if name in query:
                return _converted(query[name], hint, f"query parameter '{name}'")
            return _default(argument, f"query parameter '{name}' is missing")
        if not frame.body and default is not _EMPTY:
            return default
        return frame.body if hint is bytes else self._member(argument, frame.body)

    def _member(self, argument: _Argument, body: bytes) -> Any:
        """The body, or the member of it that is meant where several arguments want some of it."""
        try:
            value = json.loads(body)
        except (UnicodeDecodeError, RecursionError) as error:
            told = "it is nested too deeply" if isinstance(error, RecursionError) else error
            raise InvalidRequest(f"the body cannot be read as JSON: {told}") from None
        except ValueError as error:
            raise InvalidRequest(f"the body is no JSON: {error}", _INVALID_STATUS) from None
        if self._bodies == 1:
            return _converted(value, argument.hint, "body")
        if not isinstance(value, dict):
            raise InvalidRequest(f"body: expected an object with a member '{argument.name}'", _INVALID_STATUS)
        if argument.name not in value:
            return _default(argument, f"body: member '{argument.name}' is missing")
        return _converted(value[argument.name], argument.hint, f"body: '{argument.name}'")


def _argument(parameter: inspect.Parameter, hint: Any, in_path: set[str]) -> _Argument:
    """How one argument is found. ModelLoadError if nothing can make a value of its kind."""
    name = parameter.name
    if getattr(hint, "__name__", "") == "Request" or (hint is _EMPTY and name == "request"):
        return _Argument(name, "request", hint, parameter.default)
    if _is_response(hint):
        return _Argument(name, "response", hint, parameter.default)
    hint = unnamed(hint)
    try:
        check_convertible(hint)
    except ValueError as error:
        raise ModelLoadError(f"the argument '{name}' of a custom handler: {error}") from None
    if name in in_path:
        place = "path"
    elif hint is Any:
        place = "either"
    else:
        place = "body" if is_body(hint) else "query"
    return _Argument(name, place, hint, parameter.default)


def _default(argument: _Argument, otherwise: str) -> Any:
    if argument.default is _EMPTY:
        raise InvalidRequest(otherwise, _INVALID_STATUS)
    return argument.default


def _converted(value: Any, hint: Any, where: str) -> Any:
    """The value as its annotation wants it. InvalidRequest (422) if that cannot be."""
    try:
        return convert(value, hint)
    except Exception as error:
        raise InvalidRequest(f"{where}: {reason_of(error)}", _INVALID_STATUS) from None


# -- answers -----------------------------------------------------------------------------------------------------------


def _starlette_request(exchange: Exchange, shared: Shared) -> Any:
    from starlette.requests import Request

    return Request(scope_of(exchange.frame, shared.app), exchange.receive)


def _responses() -> Any:
    from starlette import responses

    return responses


def _as_response(error: Exception) -> Any:
    """The answer that an exception of Starlette's or FastAPI's stands for, in FastAPI's form; None for others."""
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse

    if not isinstance(error, HTTPException):
        return None
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


async def _send_json(answer: Any, hint: Any, injected: Any, exchange: Exchange) -> None:
    """What a handler returned, as JSON; with what it has put into the response that it was given, if any."""
    status, headers, body = 200, [], b""
    if injected is not None:
        status, headers = injected.status_code or status, list(injected.raw_headers)
    if status >= 200 and status not in _WITHOUT_BODY:
        body = json_of(answer, hint)
        headers.append((b"content-length", b"%d" % len(body)))
        if not any(name == b"content-type" for name, _ in headers):
            headers.append((b"content-type", b"application/json"))
    await exchange.send_alone({"type": "http.response.start", "status": status, "headers": headers})
    await exchange.send_alone({"type": "http.response.body", "body": body})


def _ends_with_its_answer(response: Any) -> bool:
    """Whether nothing follows: no background task, and no code but Starlette's for a body that is there."""
    return response.background is None and type(response).__call__ is _responses().Response.__call__


def _is_response(hint: Any) -> bool:
    responses = sys.modules.get("starlette.responses")  # whoever names one has imported it
    return responses is not None and isinstance(hint, type) and issubclass(hint, responses.Response)


def _starlette_response() -> Any:
    """An empty response for a handler to put headers and a status into."""
    from starlette.responses import Response

    response = Response()
    del response.headers["content-length"]
    response.status_code = None  # type: ignore[assignment]  # as FastAPI has it: none was chosen yet
    return response


# -- by FastAPI --------------------------------------------------------------------------------------------------------


def _is_of_fastapi(default: Any, hint: Any) -> bool:
    noted = [type(default), hint, *map(type, getattr(hint, "__metadata__", ()))]
    return any(str(getattr(one, "__module__", "")).partition(".")[0] == "fastapi" for one in noted)


class _ByFastAPI:
    """One handler of one model, as FastAPI runs it."""

    def __init__(self, marked: CustomHandler, method: Callable[..., Any], shared: Shared) -> None:
        self._marked = marked
        self._method = method
        self._shared = shared

    @cached_property
    def _app(self) -> Any:
        """An application with this one route; made by the first request, so that its mistakes fail requests only."""
        app = sys.modules["fastapi"].FastAPI(openapi_url=None)
        app.state = self._shared.app.state
        method = _returning_json(self._method)
        app.add_api_route(self._marked.rest_path, method, methods=[self._marked.rest_method], response_model=None)
        return app

    async def __call__(self, exchange: Exchange) -> None:
        """Answers one request."""
        frame = exchange.frame
        path = _PLACE.sub(lambda place: frame.path_parameters[place[1]], self._marked.rest_path)
        scope = scope_of(frame, self._app, path=path, method=self._marked.rest_method)
        _responding.set(exchange.responses)
        await self._app(scope, exchange.receive, exchange.send)


def _returning_json(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method for FastAPI: our own types are bodies, and what it gives is made of JSON's types here."""
    hints = _hints_of(method)
    returns = hints.get("return", _EMPTY)

    async def later(**found: Any) -> Any:
        return _of_json(await method(**found), returns)

    def now(**found: Any) -> Any:
        return _of_json(method(**found), returns)

    async def streaming(**found: Any) -> Any:
        answer = method(**found)
        if inspect.isawaitable(answer):
            answer = await answer
        if not is_stream(answer):
            return _of_json(answer, returns)
        injected = next((found[one.name] for one in arguments if _is_response(one.annotation)), None)
        return await lines_of(answer, item_of(returns), injected, _responding.get())

    made: Any = later if inspect.iscoroutinefunction(method) else now
    if yields(method):
        made = streaming
    signature = inspect.signature(method)
    arguments = [one.replace(annotation=_for_fastapi(one, hints)) for one in signature.parameters.values()]
    made.__signature__ = inspect.Signature(arguments)
    made.__name__ = method.__name__
    return made  # type: ignore[no-any-return]


def _of_json(answer: Any, hint: Any) -> Any:
    if not _is_response(type(answer)):
        return json.loads(json_of(answer, hint))
    note_response(answer, _responding.get())
    return answer


def _for_fastapi(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Any:
    """An annotation as FastAPI shall read it: it does not know by itself that our own types are bodies."""
    hint = hints.get(parameter.name, parameter.annotation)
    if _has_ours(hint) and not _is_of_fastapi(parameter.default, hint):
        return Annotated[hint, sys.modules["fastapi"].Body()]
    return hint


def _has_ours(hint: Any) -> bool:
    ours = isinstance(hint, type) and issubclass(hint, Model)
    return ours or any(_has_ours(one) for one in get_args(hint))
