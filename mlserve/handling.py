"""Runs a model's custom handlers in its worker: finds their arguments by annotation, and makes an HTTP answer.

A handler may take, by annotation:

    request: Request            the whole request, as Starlette has it
    x: int                      a path parameter, if the path has {x}; else a query parameter
    payload: dict               the JSON body, for dicts, lists, msgspec Structs, dataclasses, pydantic models
    x = Body(…), Query(…) …     FastAPI's markers, where FastAPI is installed

and returns a Response, or anything that JSON can say. It may be a plain or an async method.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import msgspec

from mlserve.errors import InvalidRequest
from mlserve.frames import Handle, Handled

_SCALARS = (str, int, float, bool)
_INVALID_STATUS = 422


class Handler:
    """One handler of one model, with its arguments understood once."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method
        self._arguments = inspect.signature(method).parameters
        try:
            self._hints = get_type_hints(method)
        except Exception:  # a name that only type checkers can resolve
            self._hints = {}

    async def __call__(self, frame: Handle) -> Handled:
        """The answer to one request. InvalidRequest if an argument is missing or of the wrong kind."""
        answer = self._method(**self._find_arguments(frame))
        if inspect.isawaitable(answer):
            answer = await answer
        status, headers, body = await _http_answer(answer, frame)
        return Handled(frame.call, status, headers, body)

    def _find_arguments(self, frame: Handle) -> dict[str, Any]:
        query = _query_of(frame)
        found: dict[str, Any] = {}
        for name, argument in self._arguments.items():
            if argument.kind in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL):
                continue
            value = self._find(name, argument, frame, query)
            if value is not argument.empty:
                found[name] = value
        return found

    def _find(self, name: str, argument: inspect.Parameter, frame: Handle, query: Mapping[str, str]) -> Any:
        hint = self._hints.get(name, argument.annotation)
        if _is_request(hint, name):
            return _starlette_request(frame)
        marker = type(argument.default).__name__ if _is_marker(argument.default) else ""
        default = _default_of(argument)
        if name in frame.path_parameters or marker == "Path":
            return _converted(frame.path_parameters.get(name, default), hint, f"path parameter '{name}'")
        if marker == "Header":
            known = {key.lower(): value for key, value in frame.headers}
            return _given(known.get(name.replace("_", "-"), default), hint, f"header '{name}'")
        if marker == "Query" or (not marker and (hint in _SCALARS or name in query)):
            return _given(query.get(name, default), hint, f"query parameter '{name}'")
        if not frame.body and default is not argument.empty:
            return default
        return _body(frame.body, hint)


def _body(body: bytes, hint: Any) -> Any:
    if hint is bytes:
        return body
    try:
        value = json.loads(body)
    except ValueError as error:
        raise InvalidRequest(f"the body is no JSON: {error}", _INVALID_STATUS) from None
    return _converted(value, hint, "body")


def _given(value: Any, hint: Any, where: str) -> Any:
    if value is inspect.Parameter.empty:
        raise InvalidRequest(f"{where} is missing", _INVALID_STATUS)
    return _converted(value, hint, where)


def _converted(value: Any, hint: Any, where: str) -> Any:
    """The value as its annotation wants it. InvalidRequest (422) if that cannot be."""
    if hint in (inspect.Parameter.empty, Any):
        return value
    validate = getattr(hint, "model_validate", None)  # pydantic's models, and our own types
    try:
        if validate is not None:
            return validate(value)
        return msgspec.convert(value, hint, strict=not isinstance(value, str))
    except Exception as error:
        raise InvalidRequest(f"{where}: {error}", _INVALID_STATUS) from None


def _is_request(hint: Any, name: str) -> bool:
    return getattr(hint, "__name__", "") == "Request" or (hint is inspect.Parameter.empty and name == "request")


def _is_marker(default: Any) -> bool:
    return type(default).__module__.startswith("fastapi.")


def _default_of(argument: inspect.Parameter) -> Any:
    """The default of an argument; that of FastAPI's marker if it is one."""
    default = argument.default
    if not _is_marker(default):
        return default
    default = getattr(default, "default", ...)
    return argument.empty if default is ... or type(default).__name__ == "PydanticUndefinedType" else default


def _scope(frame: Handle) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": frame.method,
        "scheme": "http",
        "path": frame.path,
        "raw_path": frame.path.encode(),
        "root_path": "",
        "query_string": frame.query,
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in frame.headers],
        "path_params": frame.path_parameters,
    }


def _starlette_request(frame: Handle) -> Any:
    from starlette.requests import Request  # a worker without handlers needs no web library

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": frame.body, "more_body": False}

    return Request(_scope(frame), receive)


def _query_of(frame: Handle) -> Mapping[str, str]:
    from urllib.parse import parse_qsl

    return dict(parse_qsl(frame.query.decode("latin-1"), keep_blank_values=True))


async def _http_answer(answer: Any, frame: Handle) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body of what a handler returned."""
    from starlette.responses import Response

    if not isinstance(answer, Response):
        return 200, [("content-type", "application/json")], _json(answer)
    started: dict[str, Any] = {}
    pieces: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        else:
            pieces.append(bytes(message.get("body", b"")))

    await answer(_scope(frame), receive, send)
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in started.get("headers", ())]
    return int(started.get("status", 200)), headers, b"".join(pieces)


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
