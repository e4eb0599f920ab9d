"""Runs a model's custom handlers in its worker: finds their arguments by annotation, and makes an HTTP answer.

A handler may take, by annotation:

    request: Request            the whole request, as Starlette has it
    x: int                      a path parameter, if the path has {x}; else a query parameter
    payload: dict               the JSON body, for dicts, lists, msgspec Structs, dataclasses, pydantic models;
                                of several such arguments, each is the member of its name
    payload: bytes              the body as it came

and returns a Response, or anything that JSON can say. It may be a plain or an async method. A handler that uses FastAPI
(Body, Query, Depends, UploadFile and the like) is run by FastAPI, which the module of the model has imported then.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple, get_type_hints
from urllib.parse import parse_qsl

import msgspec

from mlserve.arguments import convert, is_scalar
from mlserve.asgi_frames import answer_of, receive_of, scope_of
from mlserve.errors import InvalidRequest
from mlserve.frames import Handle, Handled
from mlserve.handlers import CustomHandler

__all__ = ["Handler", "make_handler"]

Handler = Callable[[Handle], Awaitable[Handled]]

_EMPTY = inspect.Parameter.empty
_PLACE = re.compile(r"\{(\w+)(?::\w+)?\}")  # a parameter in a path
_INVALID_STATUS = 422


def make_handler(marked: CustomHandler, method: Callable[..., Any]) -> Handler:
    """Runs a method: gives the answer to a request. InvalidRequest if an argument is missing or of the wrong kind."""
    arguments = inspect.signature(method).parameters
    hints = _hints_of(method)
    if any(_is_of_fastapi(one.default, hints.get(name)) for name, one in arguments.items()):
        return _ByFastAPI(marked, method)
    return _ByAnnotation(marked, method)


def _hints_of(method: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(method, include_extras=True)
    except Exception:  # a name that only type checkers can resolve
        return {}


# -- by annotation -----------------------------------------------------------------------------------------------------


class _Argument(NamedTuple):
    name: str
    place: str  # request, path, query or body; "either": query if it is there, else body
    hint: Any
    default: Any


class _ByAnnotation:
    """One handler of one model, with its arguments understood once."""

    def __init__(self, marked: CustomHandler, method: Callable[..., Any]) -> None:
        self._method = method
        in_path = set(_PLACE.findall(marked.rest_path))
        hints = _hints_of(method)
        self._arguments = [
            _argument(one, hints.get(name, one.annotation), in_path)
            for name, one in inspect.signature(method).parameters.items()
            if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
        ]
        self._bodies = sum(one.place in ("body", "either") for one in self._arguments)

    async def __call__(self, frame: Handle) -> Handled:
        """The answer to one request."""
        found = self._find_arguments(frame)
        try:
            answer = self._method(**found)
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception as error:
            answer = _as_response(error)
            if answer is None:
                raise
        return await _answer(answer, frame)

    def _find_arguments(self, frame: Handle) -> dict[str, Any]:
        query = dict(parse_qsl(frame.query.decode("latin-1"), keep_blank_values=True))
        found = {one.name: self._find(one, frame, query) for one in self._arguments}
        return {name: value for name, value in found.items() if value is not _EMPTY}

    def _find(self, argument: _Argument, frame: Handle, query: Mapping[str, str]) -> Any:
        name, place, hint, default = argument
        if place == "request":
            return _starlette_request(frame)
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
    name = parameter.name
    if isinstance(hint, str):  # one that could not be resolved
        hint = Any
    if getattr(hint, "__name__", "") == "Request" or (hint is _EMPTY and name == "request"):
        place = "request"
    elif name in in_path:
        place = "path"
    elif hint in (_EMPTY, Any):
        place = "either"
    else:
        place = "query" if is_scalar(hint) else "body"
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
        raise InvalidRequest(f"{where}: {_reason(error)}", _INVALID_STATUS) from None


def _reason(error: Exception) -> str:
    """What is wrong; pydantic says it in many lines with a link."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return str(error)
    return "; ".join(": ".join(filter(None, (".".join(map(str, one["loc"])), one["msg"]))) for one in errors())


# -- answers -----------------------------------------------------------------------------------------------------------


def _starlette_request(frame: Handle) -> Any:
    from starlette.requests import Request  # a worker without handlers needs no web library

    return Request(scope_of(frame), receive_of(frame))


def _as_response(error: Exception) -> Any:
    """The answer that an exception of Starlette's or FastAPI's stands for, in FastAPI's form; None for others."""
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse

    if not isinstance(error, HTTPException):
        return None
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


async def _answer(answer: Any, frame: Handle) -> Handled:
    """What a handler returned, on its way out."""
    from starlette.responses import Response

    if isinstance(answer, Response):
        return await answer_of(answer, frame)
    return Handled(frame.call, 200, [("content-type", "application/json")], _json(answer))


def _json(value: Any) -> bytes:
    def plain(other: Any) -> Any:
        if hasattr(other, "model_dump"):
            return other.model_dump()
        if hasattr(other, "tolist"):
            return other.tolist()
        raise TypeError(f"a handler returned a {type(other).__name__}, which is none of JSON's types")

    if hasattr(value, "model_dump"):
        value = value.model_dump()
    return msgspec.json.encode(value, enc_hook=plain)


# -- by FastAPI --------------------------------------------------------------------------------------------------------


def _is_of_fastapi(default: Any, hint: Any) -> bool:
    noted = [type(default), hint, *map(type, getattr(hint, "__metadata__", ()))]
    return any(str(getattr(one, "__module__", "")).partition(".")[0] == "fastapi" for one in noted)


class _ByFastAPI:
    """One handler of one model, as FastAPI runs it."""

    def __init__(self, marked: CustomHandler, method: Callable[..., Any]) -> None:
        self._marked = marked
        self._method = method

    @cached_property
    def _app(self) -> Any:
        """An application with this one route; made by the first request, so that its mistakes fail requests only."""
        app = sys.modules["fastapi"].FastAPI(openapi_url=None)
        app.add_api_route(self._marked.rest_path, self._method, methods=[self._marked.rest_method], response_model=None)
        return app

    async def __call__(self, frame: Handle) -> Handled:
        """The answer to one request."""
        path = _PLACE.sub(lambda place: frame.path_parameters[place[1]], self._marked.rest_path)
        return await answer_of(self._app, frame, path=path, method=self._marked.rest_method)
